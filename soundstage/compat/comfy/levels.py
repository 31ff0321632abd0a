"""Read the noise levels of a pass: lists that are typed, schedules by name, parts of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from soundstage.compat.comfy.graph import ComfyNode, Link
from soundstage.compat.comfy.latents import LatentReader
from soundstage.compat.comfy.notes import Notes
from soundstage.compat.comfy.values import NodeValues
from soundstage.errors import RequestError
from soundstage.request.inputs import MAX_STEPS
from soundstage.sampling import schedules

_SPAN = schedules.MAX_TOKENS - schedules.BASE_TOKENS


@dataclass
class Levels:
    """Noise levels of a pass: a list, or the name of a schedule with a number of steps."""

    sigmas: tuple[float, ...] = ()
    schedule: str | None = None
    steps: int | None = None


class LevelReader:
    """Read the noise levels of passes."""

    def __init__(self, latents: LatentReader, values: NodeValues, notes: Notes) -> None:
        self.latents, self.given, self.values, self.notes = latents, latents.given, values, notes

    def read(self, link: Any) -> Levels:
        """Return the noise levels that a link brings."""
        at = self.given.arrive(link)
        if at is None:
            self.notes.tell(
                "the noise levels of a pass are not given; the recipe's or the model's own are taken"
            )
            return Levels()
        node, slot = at
        self.notes.read.add(node.id)
        if node.type in ("ManualSigmas", "StringToSigmas"):
            return self._typed(node)
        if node.type == "LTXVScheduler":
            return self._ltx(node)
        if node.type == "BasicScheduler":
            return self.scheduled(node)
        if node.type == "LinearQuadraticSchedule":
            return Levels(schedule="linear-quadratic", steps=self._steps(node, 8))
        if node.type in ("SplitSigmas", "SplitSigmasDenoise", "SetFirstSigma"):
            return self._part(node, slot)
        self.notes.leave(node, "its noise levels are not known; give sigmas, or a schedule and steps")
        return Levels()

    def _typed(self, node: ComfyNode) -> Levels:
        text = str(self.values.of(node, "sigmas", self.values.of(node, "string", "")))
        try:
            numbers = tuple(float(word) for word in text.replace(";", ",").replace(",", " ").split())
            return self._checked(node, numbers)
        except ValueError:
            self.notes.leave(node, f"its noise levels are '{text[:60]}', which are no numbers; give sigmas")
            return Levels()

    def _checked(self, node: ComfyNode, numbers: tuple[float, ...]) -> Levels:
        """Return a list that can be run; others are left out."""
        try:
            sigmas = schedules.check(numbers)
        except RequestError as error:
            self.notes.leave(node, f"its noise levels cannot be run ({error}); give sigmas")
            return Levels()
        self.notes.carry(node, "sigmas", ", ".join(f"{sigma:g}" for sigma in sigmas))
        return Levels(sigmas)

    def _ltx(self, node: ComfyNode) -> Levels:
        """Read LTXVScheduler: our ltx2, for the same number of tokens."""
        steps = self._steps(node, 20)
        low, high = self.values.number(node, "base_shift", 0.95), self.values.number(node, "max_shift", 2.05)
        stretch = bool(self.values.of(node, "stretch", True))
        terminal = self.values.number(node, "terminal", 0.1) if stretch else None
        tokens = schedules.MAX_TOKENS
        if isinstance(node.inputs.get("latent"), Link):
            counted = self.latents.quiet_shape(node.inputs["latent"]).num_tokens
            if counted is None:
                self.notes.leave(
                    node, "the size of its latent is not known; the list for 4096 tokens is taken"
                )
            tokens = counted or tokens
        published = (schedules.BASE_SHIFT, schedules.MAX_SHIFT, schedules.TERMINAL)
        if tokens == schedules.MAX_TOKENS and (low, high, terminal) == published:
            self.notes.carry(node, "schedule", f"ltx2, {steps} steps")
            return Levels(schedule="ltx2", steps=steps)
        equal = equal_tokens(tokens, low or 0.0, high or 0.0)
        return self._computed(
            node,
            lambda: schedules.ltx2(steps, equal, terminal=terminal),  # type: ignore[arg-type]
        )

    def _computed(self, node: ComfyNode, compute: Callable[[], tuple[float, ...]]) -> Levels:
        """Return the list that a schedule computes; one that shifts out of range spoil is left out."""
        try:
            return self._checked(node, compute())
        except (ArithmeticError, ValueError) as error:
            self.notes.leave(node, f"its noise levels cannot be worked out ({error}); give sigmas")
            return Levels()

    def _steps(self, node: ComfyNode, usual: int) -> int:
        """Return a number of steps that can be run."""
        steps = int(self.values.number(node, "steps", usual) or usual)
        if not 1 <= steps <= MAX_STEPS:
            self.notes.leave(node, f"{steps:g} steps cannot be run; {usual} are taken, of 1 to {MAX_STEPS}")
            return usual
        return steps

    def scheduled(self, node: ComfyNode) -> Levels:
        """Read a scheduler by name, as KSampler and BasicScheduler have it."""
        name = str(self.values.of(node, "scheduler", "normal")).replace("_", "-")
        steps = self._steps(node, 20)
        denoise = self.values.number(node, "denoise", 1.0) or 1.0
        if name == "simple":
            shift = self._shift(node)
            return self._computed(node, lambda: simple_levels(steps, denoise, shift))
        if name not in ("linear-quadratic", "beta"):
            self.notes.leave(
                node,
                f"scheduler '{name}' has no equal here; {steps} steps of the model's own schedule are taken, "
                "or give sigmas",
            )
            return Levels(steps=steps)
        if denoise < 1:
            return self._computed(node, lambda: schedules.named(name, steps, denoise=denoise))
        self.notes.carry(node, "schedule", f"{name}, {steps} steps")
        return Levels(schedule=name, steps=steps)

    def _shift(self, node: ComfyNode) -> float:
        """Return the shift that ModelSamplingLTXV sets for a model, or the family's own."""
        at = self.given.arrive(node.inputs.get("model"))
        while at is not None:
            if at[0].type == "ModelSamplingLTXV":
                self.notes.read.add(at[0].id)
                low, high = (
                    self.values.number(at[0], n, d) or 0
                    for n, d in (("base_shift", 0.95), ("max_shift", 2.05))
                )
                tokens = (
                    self.latents.quiet_shape(at[0].inputs.get("latent")).num_tokens or schedules.MAX_TOKENS
                )
                return low + (tokens - schedules.BASE_TOKENS) * (high - low) / _SPAN
            at = self.given.arrive(at[0].inputs.get("model"))
        return schedules.BETA_SHIFT

    def _part(self, node: ComfyNode, slot: int) -> Levels:
        whole = self.read(node.inputs.get("sigmas"))
        numbers = whole.sigmas or (
            schedules.named(whole.schedule, whole.steps or 8) if whole.schedule else ()
        )
        if not numbers:
            return whole
        if node.type == "SetFirstSigma":
            first = self.values.number(node, "sigma", numbers[0]) or numbers[0]
            return self._checked(node, (min(first, 1.0), *numbers[1:]))
        step = int(self.values.number(node, "step", 0) or 0)
        if node.type == "SplitSigmasDenoise":
            count = len(numbers) - 1
            step = count - round(count * (self.values.number(node, "denoise", 1.0) or 1.0))
        part = numbers[step:] if slot == 1 else numbers[: step + 1]
        if slot == 0 and len(part) > 1 and part[-1] > 0:
            return Levels(part)  # another pass goes on from there
        return self._checked(node, part)

    def to_the_end(self, node: ComfyNode, levels: Levels) -> Levels:
        """Return levels that no other pass goes on with; those that do not fall to 0 are left out."""
        return self._checked(node, levels.sigmas) if levels.sigmas and levels.sigmas[-1] > 0 else levels


def equal_tokens(tokens: float, low: float, high: float) -> float:
    """Return the number of tokens at which the published line has another line's shift at `tokens`."""
    shift = low + (tokens - schedules.BASE_TOKENS) * (high - low) / _SPAN
    slope = (schedules.MAX_SHIFT - schedules.BASE_SHIFT) / _SPAN
    return schedules.BASE_TOKENS + (shift - schedules.BASE_SHIFT) / slope


def simple_levels(steps: int, denoise: float, shift: float) -> tuple[float, ...]:
    """Return the levels of ComfyUI's simple scheduler: every n-th of a table of 10000, from the top."""
    count = int(steps / denoise) if denoise < 1 else steps
    if not 0 < count <= schedules.MAX_LEVELS:
        raise ValueError(f"denoise is {denoise:g}")
    size = schedules.BETA_LEVELS
    levels = [schedules.shifted((size - int(i * size / count)) / size, shift) for i in range(count)]
    return (*levels, 0.0)[-(steps + 1) :]
