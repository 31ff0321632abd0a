"""What a request asks for and what its inputs are, worked out before any weight is read."""

from __future__ import annotations

import math
from fractions import Fraction

from soundstage.defaults import Defaults
from soundstage.errors import MediaError, RequestError, SoundstageError
from soundstage.grid import snap_frames, snap_side
from soundstage.inputs import File, Source
from soundstage.media.probe import Info, probe
from soundstage.model_set import ModelSet, lora_file
from soundstage.plan import PassPlan, Snap
from soundstage.prompts.timeline import Segment, Timeline, parse_timeline
from soundstage.recipe import Recipe
from soundstage.recipes import recipe_named
from soundstage.request import ORIENTATIONS, Request
from soundstage.types import SPACE_SCALE, TIME_SCALE
from soundstage.weights.lora_facts import LoraFacts


class Facts:
    """What a request asks for and what its inputs are: recipe, size, rate, length.

    Gathers snaps, notices and problems while a plan is worked out; after a problem it goes on with a default.
    """

    def __init__(self, request: Request, model: ModelSet) -> None:
        self.request = request
        self.model = model
        self.defaults: Defaults = model.defaults
        self.snaps: list[Snap] = []
        self.notices: list[str] = []
        self.problems: list[RequestError] = []
        self.recipe = self._recipe()
        self.infos: dict[str, Info] = {}
        self._probe_inputs()
        self.loras = self._lora_facts()
        self.downscale, self.temporal = self._reference_factors()
        source = request.source
        self.source: Source | None = source
        self.source_info = self.infos.get("source.video")
        self.has_video = "video" in request.modalities
        self.has_audio = "audio" in request.modalities
        self.driving = request.audio is not None and request.audio.mode == "driving"

    def raise_problems(self) -> None:
        if len(self.problems) == 1:
            raise self.problems[0]
        if self.problems:
            raise RequestError("; ".join(str(problem) for problem in self.problems))

    def snap(self, field: str, asked: str, used: str, rule: str) -> None:
        self.snaps.append(Snap(field, asked, used, rule))

    def notice(self, sentence: str) -> None:
        """Say what the user should know of a plan that goes on as asked; each sentence once."""
        if sentence not in self.notices:
            self.notices.append(sentence)

    def problem(self, field: str, sentence: str) -> None:
        if sentence not in (str(problem) for problem in self.problems):
            self.problems.append(RequestError(sentence, field=field))

    # --- what is asked for and what is there ---------------------------------------------------------------

    def _recipe(self) -> Recipe:
        try:
            return recipe_named(self.request.recipe)
        except SoundstageError as problem:
            self.problem("recipe", str(problem))
            return recipe_named("single")

    def _probe_inputs(self) -> None:
        request = self.request
        wanted: list[tuple[str, File | None, str]] = []
        wanted += [(f"guides[{i}].image", g.image, "picture") for i, g in enumerate(request.guides)]
        wanted += [(f"references[{i}].video", r.video, "picture") for i, r in enumerate(request.references)]
        if request.source is not None:
            wanted += [("source.video", request.source.video, "picture")]
            wanted += [("source.audio", request.source.audio, "sound")]
            wanted += [("source.mask", request.source.mask, "picture")]
        if request.audio is not None:
            wanted += [("audio.file", request.audio.file, "sound")]
        for where, file, kind in wanted:
            if file is None:
                continue
            try:
                info = probe(file)
            except MediaError as error:
                self.problem(where.split(".")[0].split("[")[0], f"{where}: {error}")
                continue
            if (info.num_frames == 0) if kind == "picture" else (info.sound_s is None):
                self.problem(where.split(".")[0].split("[")[0], f"{where}: {file} holds no {kind}")
                continue
            self.infos[where] = info
        self._check_starts()

    def _check_starts(self) -> None:
        audio, info = self.request.audio, self.infos.get("audio.file")
        if audio is not None and info is not None and audio.start_s >= (info.sound_s or 0):
            self.problem(
                "audio",
                f"audio.start_s is {audio.start_s:g}, but {audio.file} lasts {info.sound_s:.4g} s; "
                "begin earlier",
            )

    def _lora_facts(self) -> list[LoraFacts]:
        """Return what the file of each of the request's LoRAs says; nothing for one that cannot be read."""
        found = []
        for i, lora in enumerate(self.request.loras):
            try:
                found.append(lora_file(lora.path))
            except SoundstageError as error:
                self.problem("loras", f"loras[{i}]: {error}")
        return found

    def _reference_factors(self) -> tuple[int, int]:
        """(downscale, temporal) that the request's LoRAs were trained with; 1 where they do not say."""
        found = {"downscale": {1}, "temporal": {1}}
        for facts in self.loras:
            found["downscale"].add(facts.downscale)
            found["temporal"].add(facts.temporal)
        for key, values in found.items():
            if len(values) > 2:
                self.problem(
                    "loras",
                    f"the LoRAs were trained with different reference factors ({key}: "
                    f"{', '.join(str(v) for v in sorted(values - {1}))}); use those of one factor",
                )
        return max(found["downscale"]), max(found["temporal"])

    # --- size and length -----------------------------------------------------------------------------------

    def size(self) -> tuple[int, int]:
        asked = self.request.size or self._source_size() or self.recipe.resolution or self.defaults.size
        if isinstance(asked, str):
            named = self._named_size(asked)
            if named is None:
                return self.defaults.size
            asked = named
        step = self.side_step()
        used = (snap_side(asked[0], step), snap_side(asked[1], step))
        if used != tuple(asked):
            self.snap("size", f"{asked[0]}x{asked[1]}", f"{used[0]}x{used[1]}", f"multiples of {step}")
        return used

    def side_step(self) -> int:
        """Sides must be multiples of this, so that every pass and reference has whole latent cells."""
        steps = [SPACE_SCALE]
        for step in self.recipe.passes:
            ratio = step.space
            for name in step.upsample if step.start == "source" else ():
                ratio /= {"space-x2": Fraction(2), "space-x1.5": Fraction(3, 2)}.get(name, Fraction(1))
            scales = [r.downscale or self.downscale for r in self.request.references if step.references]
            steps.append(math.ceil(SPACE_SCALE * ratio.denominator) * max([1, *scales]))
        return math.lcm(*steps)

    def _source_size(self) -> tuple[int, int] | None:
        if self.source_info is None or self.source is None or self.source_info.width == 0:
            return None
        width, height = self.source_info.width, self.source_info.height
        first = self.recipe.passes[0]
        if first.start == "source":
            grow = {"space-x2": 2.0, "space-x1.5": 1.5}
            factor = math.prod(grow.get(name, 1.0) for name in first.upsample) / float(first.space)
            width, height = round(width * factor), round(height * factor)
        canvas = self.source.canvas
        if canvas is not None:
            width, height = width + canvas.left + canvas.right, height + canvas.top + canvas.bottom
        return width, height

    def _named_size(self, name: str) -> tuple[int, int] | None:
        defaults = self.defaults
        if name in defaults.presets:
            return defaults.presets[name]
        resolution, _, orientation = name.partition("-")
        resolution = "2160p" if resolution == "4k" else resolution
        if resolution not in defaults.resolutions:
            known = ", ".join([*defaults.presets, *defaults.resolutions])
            self.problem("size", f"this model has no size '{name}'; it has {known}")
            return None
        width, height = defaults.resolutions[resolution]
        if orientation == ORIENTATIONS[1]:
            return height, width
        if orientation == ORIENTATIONS[2]:
            return (side := round(math.sqrt(width * height))), side
        return width, height

    def fps(self) -> float:
        """Frames per second that are made, before thinning."""
        request, info = self.request, self.source_info
        own = None if info is None else info.fps
        if request.fps is not None and own is not None and not math.isclose(request.fps, own, rel_tol=1e-3):
            self.problem(
                "fps",
                f"fps is {request.fps:g}, but the source has {own:g}; leave fps out or convert the source",
            )
        fps = request.fps or own or self.recipe.fps or self.defaults.fps
        return fps * request.thin

    def frames(self, fps: float) -> int:
        """Pixel frames of the whole clip, before thinning."""
        request = self.request
        step = self.frame_step
        limit = self.defaults.max_duration_s
        length_s = request.duration_s or self._given_length_s(fps)
        if length_s is not None:
            asked = max(1, round(length_s * fps))
            used = snap_frames(asked, step)
            if self.source_info is not None and request.duration_s is None:
                used = (asked - 1) // step * step + 1
            if not math.isclose(used / fps, length_s, rel_tol=1e-9):
                self.snap(
                    "duration",
                    f"{length_s:.4g} s",
                    f"{used / fps:.4g} s",
                    f"{used} frames at {fps:g} fps, {step}k+1",
                )
        else:
            asked = request.num_frames or self.defaults.num_frames
            used = snap_frames(request.thin * (asked - 1) + 1, step)
            if used != request.thin * (asked - 1) + 1:
                self.snap("frames", str(asked), str((used - 1) // request.thin + 1), f"{step}k+1")
        if (used - 1) / fps > limit + 1e-9:  # 20 s at 24 fps are 481 frames, 20.04 s
            self.problem(
                "duration_s",
                f"the clip would last {used / fps:.4g} s; this model makes at most {limit:g} s at once, "
                "so give a shorter duration or fewer frames",
            )
            return snap_frames(self.defaults.num_frames, step)
        return used

    def _given_length_s(self, fps: float) -> float | None:
        """Length that the source has, with its extensions, unless the request counts frames."""
        info, source = self.source_info, self.source
        if self.request.num_frames is not None or source is None:
            return None
        if info is None:
            sound = self.infos.get("source.audio")
            if sound is None or sound.sound_s is None:
                return None
            return sound.sound_s - source.start_s + sum(self.extension()) / fps
        taken = info.num_frames - round(source.start_s * fps)
        if taken < 1:
            self.problem("source", f"source.start_s is {source.start_s:g}, past the source's end")
            return None
        extension = sum(self.extension())
        taken = (taken - 1) // self.frame_step * self.frame_step + 1 if extension else taken
        return (taken + extension) / fps

    def extension(self) -> tuple[int, int]:
        """Frames made before and after the source, in whole latents of every pass."""
        if self.source is None:
            return 0, 0
        before, after = (
            math.ceil(round(seconds * self.made_fps) / self.frame_step) * self.frame_step
            for seconds in (self.source.extend_before_s, self.source.extend_after_s)
        )
        return before, after

    @property
    def frame_step(self) -> int:
        """Frames less one must be a multiple of this, so that every pass has whole latents."""
        return TIME_SCALE * max(p.time.denominator for p in self.recipe.passes)

    def timeline(self, last: PassPlan) -> Timeline:
        """The prompt over the clip, as the last pass shows it."""
        request = self.request
        try:
            return parse_timeline(
                request.prompt,
                num_frames=last.num_frames,
                fps=last.fps,
                lengths=request.lengths,
                relay=request.relay,
            )
        except RequestError as problem:
            self.problems.append(problem)
            return Timeline((Segment(request.prompt, 0.0, last.num_frames / last.fps),))

    @property
    def made_fps(self) -> float:
        info = self.source_info
        own = None if info is None else info.fps
        return (self.request.fps or own or self.recipe.fps or self.defaults.fps) * self.request.thin
