"""A request resolved on a model: its recipe found, its inputs probed, its rate and timeline worked out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from soundstage.control.kinds import FILES, kind_named
from soundstage.errors import MediaError, RequestError, SoundstageError
from soundstage.library.adapters import factor_notice, lora_path
from soundstage.library.file_identity import file_digest
from soundstage.library.installed import Library
from soundstage.library.model_files import ModelSet
from soundstage.lora.fit import fit_of, trained_on_another
from soundstage.lora.metadata import LoraReferences, read_references, strictest
from soundstage.media.colour import TONE_MAPPED
from soundstage.media.in_memory import File
from soundstage.media.probe import Info, probe
from soundstage.planning.grid import frames_at, frames_over
from soundstage.planning.plan import PassPlan, Snap
from soundstage.prompts.timeline import PromptTimeline, Segment, has_plain_bars, parse_timeline
from soundstage.request.defaults import Defaults
from soundstage.request.inputs import Control, Reference, Source
from soundstage.request.recipe import Recipe
from soundstage.request.recipes import recipe_named
from soundstage.request.request import Request
from soundstage.types import TIME_SCALE
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_parts


class ResolvedRequest:
    """A request with its recipe, its probed inputs and what follows from both: rate, frames, timeline.

    It gathers snaps, notices and problems while a plan is worked out; after a problem it goes on with a
    default. recipe: the request's; None finds it by its name.
    """

    def __init__(self, request: Request, model: ModelSet, recipe: Recipe | None = None) -> None:
        self.request = request
        self.model = model
        self.defaults: Defaults = model.defaults
        self.snaps: list[Snap] = []
        self.notices: list[str] = []
        self.problems: list[RequestError] = []
        self.recipe = recipe or self._recipe()
        self.infos: dict[str, Info] = {}
        self._probe_inputs()
        self._lora_names: tuple[str, ...] = ()  # as they are given
        self._find_loras()
        self.loras = self._lora_references()
        self.downscale, self.temporal = self._reference_factors()
        self.exchange = strictest(lora.exchange for lora in self.loras)
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
            unused = {name for problem in self.problems for name in problem.unused}
            raise RequestError(
                "; ".join(str(problem) for problem in self.problems),
                unused=unused if all(problem.unused for problem in self.problems) else (),
            )

    def snap(self, field: str, asked: str, used: str, rule: str) -> None:
        self.snaps.append(Snap(field, asked, used, rule))

    def notice(self, sentence: str) -> None:
        """Note what the user should know of a plan that goes on as asked; each sentence once."""
        if sentence not in self.notices:
            self.notices.append(sentence)

    def problem(
        self, field: str, sentence: str, cause: SoundstageError | None = None, *, unused: bool = False
    ) -> None:
        """Note why the request cannot be made. cause: the error that says so, where there is one.

        unused: nothing would read the field; without it the request could be made.
        """
        if sentence not in (str(problem) for problem in self.problems):
            problem = RequestError(sentence, field=field, unused=[field] if unused else ())
            problem.__cause__ = cause
            self.problems.append(problem)

    # --- what is asked for and what is there ---------------------------------------------------------------

    def _recipe(self) -> Recipe:
        try:
            return recipe_named(self.request.recipe)
        except SoundstageError as problem:
            self.problem("recipe", str(problem), problem)
            return recipe_named("single")

    def _probe_inputs(self) -> None:
        request = self.request
        wanted: list[tuple[str, File | None, str]] = []
        wanted += [(f"guides[{i}].image", g.image, "picture") for i, g in enumerate(request.guides)]
        wanted += [(where, one.video, "picture") for where, one in request.followed]
        for i, control in enumerate(request.controls):
            wanted += [(f"controls[{i}].mask", control.mask, "picture")]
            wanted += [(f"controls[{i}].image", control.image, "picture")]
        wanted += [(f"references[{i}].mask", r.mask, "picture") for i, r in enumerate(request.references)]
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
                why = "".join(f"; {notice}" for notice in info.notices)
                self.problem(where.split(".")[0].split("[")[0], f"{where}: {file} holds no {kind}{why}")
                continue
            self.infos[where] = info
            light = request.output is not None and where.startswith(("guides", "source"))
            for notice in info.notices if kind == "picture" else ():
                if not (light and notice.endswith(TONE_MAPPED)):
                    self.notice(f"{file}: {notice}")
        for i, control in enumerate(request.controls):
            self._prepare_control(f"controls[{i}].file", control)
        self._check_starts()
        self._check_whole()

    def _prepare_control(self, where: str, control: Control) -> None:
        """Put what a control makes of its clip in the place of what the clip is."""
        kind, info = kind_named(control.kind), self.infos.get(where)
        try:
            kind.check_ready(control.options)
            if info is not None:
                self.infos[where] = kind.made_info(info, control.options)
        except SoundstageError as error:
            names, sentence = (*FILES, *kind.settings), str(error)
            joint = "." if sentence.partition(" ")[0] in names else ": "  # controls[0].model is ...
            self.problem("controls", f"{where.rpartition('.')[0]}{joint}{sentence}", error)

    def _check_whole(self) -> None:
        """Refuse a file that was cut off where all of it would be taken."""
        request, source = self.request, self.request.source
        if source is None or request.duration_s is not None or request.num_frames is not None:
            return
        where = "source.audio" if source.video is None else "source.video"
        info = self.infos.get(where)
        if info is not None and info.listed_s is not None:
            there_s = info.num_frames / info.fps if info.fps else info.sound_s or 0.0
            self.problem(
                "source",
                f"{where}: {source.video or source.audio} is incomplete: of its {info.listed_s:.4g} s only "
                f"{there_s:.4g} s can be read; give the whole file, or a duration within them",
            )

    def _check_starts(self) -> None:
        audio, info = self.request.audio, self.infos.get("audio.file")
        if audio is not None and info is not None and audio.start_s >= (info.sound_s or 0):
            self.problem(
                "audio",
                f"audio.start_s is {audio.start_s:g}, but {audio.file} lasts {info.sound_s:.4g} s; "
                "begin earlier",
            )

    def _find_loras(self) -> None:
        """Put the file of each LoRA that is given by a name in the name's place; the plan keeps the name."""
        if not self.request.loras:
            return
        library, found, names = Library.open(), [], []
        for i, lora in enumerate(self.request.loras):
            try:
                found.append(replace(lora, path=str(lora_path(lora.path, library))))
                names.append(lora.path)
            except SoundstageError as error:
                self.problem("loras", f"loras[{i}]: {error}")
        self._lora_names = tuple(names)
        self.request = self.request.model_copy(update={"loras": tuple(found)})

    def _lora_references(self) -> list[LoraReferences]:
        """Return the references of each of the request's LoRAs; nothing for one that cannot be read."""
        found = []
        for i, lora in enumerate(self.request.loras):
            try:
                references = read_references(lora.path)
                self._check_fit(lora.path)
            except SoundstageError as error:
                self.problem("loras", f"loras[{i}]: {error}")
                continue
            if (refusal := references.refusal(lora.path)) is not None:
                self.problem("loras", f"loras[{i}]: {refusal}")
            told = factor_notice(self._lora_names[i], Path(lora.path), references.downscale)
            if told is not None:
                self.notice(told)
            found.append(references)
        return found

    def _check_fit(self, path: str) -> None:
        """Note what of a LoRA the model lacks or the clip does not use. Raises WeightsError for a misfit."""
        file, model = read_header(path), self.model
        if not all(path.is_file() for path in model.weights_files):
            return  # which is reported itself
        fit = fit_of(file, find_parts([read_header(weights) for weights in model.weights_files]))
        for told in (
            fit.notice(path, model.name),
            fit.unused(path, set(self.request.modalities)),
            trained_on_another(file, model.name, lambda: file_digest(model.weights_files[0])),
        ):
            if told is not None:
                self.notice(told)

    def _reference_factors(self) -> tuple[int, int]:
        """Return the (downscale, temporal) the request's LoRAs were trained with; 1 where they do not say."""
        found = {"downscale": {1}, "temporal": {1}}
        for lora in self.loras:
            found["downscale"].add(lora.downscale)
            found["temporal"].add(lora.temporal)
        for key, values in found.items():
            if len(values) > 2:
                self.problem(
                    "loras",
                    f"the LoRAs were trained with different reference factors ({key}: "
                    f"{', '.join(str(v) for v in sorted(values - {1}))}); use those of one factor",
                )
        return max(found["downscale"]), max(found["temporal"])

    def downscale_of(self, one: Reference | Control) -> int:
        """Return how many times smaller than the film a reference is encoded."""
        if one.downscale is not None:
            return one.downscale
        if isinstance(one, Reference) or any(lora.in_context for lora in self.loras):
            return self.downscale
        return kind_named(one.kind).downscale

    # --- rate and time --------------------------------------------------------------------------------------

    @property
    def made_fps(self) -> float:
        """Return the frames per second that are made, before thinning."""
        own = None if self.source_info is None else self.source_info.fps
        return shown_fps(self.request, self.recipe, self.defaults, own) * self.request.thin

    @property
    def relit(self) -> Info | None:
        """Return the reference that a film with light has its size and length of; None for another film."""
        request = self.request
        if request.output is None or request.source is not None or request.guides or not self.has_video:
            return None
        info = self.infos.get("references[0].video")
        return None if info is None or not info.width else info

    def source_frames(self, fps: float) -> int:
        """Return how many frames the source has from its start on, or how many its sound lasts."""
        source, info = self.source, self.source_info
        sound = self.infos.get("source.audio")
        if source is not None and info is not None:
            return frames_at(info, fps, self.made_fps) - round(source.start_s * fps)
        if source is None or sound is None or sound.sound_s is None or sound.sound_s <= source.start_s:
            return 0
        return frames_over(sound.sound_s - source.start_s, fps)

    def extension(self) -> tuple[int, int]:
        """Return the frames made before and after the source, in whole latents of every pass."""
        if self.source is None:
            return 0, 0
        before, after = (
            math.ceil(round(seconds * self.made_fps) / self.frame_step) * self.frame_step
            for seconds in (self.source.extend_before_s, self.source.extend_after_s)
        )
        return before, after

    @property
    def frame_step(self) -> int:
        """Return what frames less one must be a multiple of, so that every pass has whole latents."""
        return TIME_SCALE * max(p.time.denominator for p in self.recipe.passes)

    def timeline(self, last: PassPlan) -> PromptTimeline:
        """Return the prompt over the time of the clip, as the last pass shows it."""
        request = self.request
        try:
            read = parse_timeline(
                request.prompt,
                num_frames=last.num_frames,
                fps=last.fps,
                lengths=request.lengths,
                relay=request.relay,
            )
            if request.lengths is None and has_plain_bars(request.prompt):
                self.notice(
                    f"the prompt is read as {len(read.segments)} parts that are shown one after the other; "
                    r"write \| for a bar that is a word"
                )
            return read
        except RequestError as problem:
            self.problems.append(problem)
            return PromptTimeline((Segment(request.prompt, 0.0, last.num_frames / last.fps),))


def shown_fps(request: Request, recipe: Recipe, defaults: Defaults, source_fps: float | None = None) -> float:
    """Return the frames per second of the result: the request's, else the source's, recipe's or model's."""
    return request.fps or source_fps or recipe.fps or defaults.fps
