"""Plans that start from latents that are given, in place of noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from soundstage.errors import RequestError, WeightsError
from soundstage.planning.plan import Plan
from soundstage.sampling.schedules import partial
from soundstage.weights.header import read_header

TensorShape = tuple[int, ...]
DTYPES = ("F32", "BF16", "F16")
SHAPES = {"video": (1, 128, None, None, None), "audio": (1, 8, None, 16)}  # by name; None is any number


@dataclass(frozen=True)
class GivenStart:
    """Latents to start from, by their shapes. denoise: share of the steps that are taken; 0 decodes alone.

    video: (1, 128, T, h, w). audio: (1, 8, T, 16). fields: what messages call the two.
    """

    video: TensorShape | None = None
    audio: TensorShape | None = None
    denoise: float = 1.0
    fields: tuple[str, str] = ("latents", "latents")

    def applied(self, plan: Plan) -> Plan:
        """Return a plan that starts from the latents. Raises RequestError where they do not fit it."""
        if not 0 <= self.denoise <= 1:
            raise RequestError(f"denoise is {self.denoise:g}; give 0 to 1", field="denoise")
        if plan.windows:
            raise RequestError(
                "latents are given, but the clip would be made in windows; make it shorter",
                field=self.fields[0],
            )
        first = plan.passes[0]
        video = None if self.video is None else self.video[2:]
        audio = None if self.audio is None else self.audio[2:3]
        wanted = (tuple(first.shape.latent), (first.audio_tokens,))
        for name, given, right in zip(self.fields, (video, audio), wanted, strict=True):
            if given is not None and tuple(given) != right:
                raise RequestError(
                    f"{name} has {tuple(given)}, but a clip of {plan.num_frames} frames at {plan.fps:g} a "
                    f"second has {right} in pass '{first.name}'; give the size, length and fps it was made "
                    "with",
                    field=name,
                )
        levels = (0.0,) if self.denoise == 0 else partial(first.sigmas, strength=self.denoise)
        return replace(plan, passes=(replace(first, start="previous", sigmas=levels), *plan.passes[1:]))


def latent_shapes(path: Path) -> dict[str, TensorShape]:
    """Return the shapes of the latents in a file, by "video" and "audio". Raises WeightsError."""
    tensors = read_header(path).tensors
    found = {name: tuple(entry.shape) for name, entry in tensors.items()}
    strange = [name for name, shape in found.items() if not _fits(name, shape)]
    formats = {entry.dtype for entry in tensors.values()} - set(DTYPES)
    if not found or strange or formats:
        what = f"{strange[0]} {found[strange[0]]}" if strange else ", ".join(formats) or "nothing"
        raise WeightsError(
            f"{path} holds {what}; give latents of LTX-2.3 as a job's keep_latents makes them: video "
            f"(1, 128, T, h, w), audio (1, 8, T, 16), in {', '.join(DTYPES)}"
        )
    return found


def start_in(shapes: Mapping[str, TensorShape], denoise: float) -> GivenStart:
    """Return the start from the latents of a file."""
    return GivenStart(shapes.get("video"), shapes.get("audio"), denoise)


def _fits(name: str, shape: TensorShape) -> bool:
    wanted = SHAPES.get(name)
    if wanted is None or len(shape) != len(wanted) or math.prod(shape) == 0:
        return False
    return all(right is None or right == found for right, found in zip(wanted, shape, strict=True))
