"""diffusers' pipelines that upsample latents: a pass without steps over the engine of another pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from soundstage.compat.diffusers.calls import size_of
from soundstage.compat.diffusers.conditions import media_of
from soundstage.compat.diffusers.given import given_latents
from soundstage.compat.diffusers.loading import dtype_of, model_of
from soundstage.compat.diffusers.outputs import PipelineOutput, check_output_type, outputs
from soundstage.compat.diffusers.parts import LTX2LatentUpsamplerModel, PipelinePart
from soundstage.compat.diffusers.running import CallWatch
from soundstage.compat.diffusers.shell import PipelineShell
from soundstage.compat.diffusers.telling import Notices, Word, by_name, check_words, number
from soundstage.compat.diffusers.words import LOADING, UPSAMPLE_CALL
from soundstage.engine import Engine
from soundstage.errors import RequestError, shown
from soundstage.media.probe import probe
from soundstage.planning.plan import Plan
from soundstage.request.inputs import Source
from soundstage.request.request import Request
from soundstage.types import SPACE_SCALE

if TYPE_CHECKING:
    from torch import Tensor

    from soundstage.compat.diffusers.given import GivenLatents
    from soundstage.rendering.events import Done

FACTOR = 2
TONE_MAP = "tone_map_compression_ratio"
PROMPT = "latents upsampled"  # of the request; nothing reads it


# Of from_pretrained, besides those of other pipelines.
UPSAMPLER = by_name(Word("latent_upsampler", "ignored", "that of the pipeline's own model is used"))


@dataclass(frozen=True)
class Changes:
    """Changes of upsampled latents: statistics moved by `adain`, large values lowered by `tone_map`."""

    adain: float
    tone_map: float

    @property
    def any(self) -> bool:
        return bool(self.adain or self.tone_map)

    def applied(self, made: Tensor, like: Tensor | None) -> Tensor:
        """Return latents so changed. like: those that had the statistics; the upsampled ones if None."""
        from soundstage.rendering.seams import adain

        moved = adain(made, made if like is None else like, self.adain)
        share = 0.75 * self.tone_map  # as diffusers has it: at 1, far values keep 0.4 of themselves
        return moved * (1 - 0.8 * share * (4 * share * (moved.abs() - 1)).sigmoid())


class LTX2LatentUpsamplePipeline(PipelineShell):
    """Latents or a clip to twice the width and height.

    vae: that of a pipeline, whose engine is used. latent_upsampler: the model's own is used.
    """

    def __init__(
        self, vae: Any = None, latent_upsampler: Any = None, *, engine: Engine | None = None
    ) -> None:
        owner = vae.pipeline if isinstance(vae, PipelinePart) and vae.kind == "vae" else None
        if engine is None and owner is None:
            raise RequestError(
                "vae belongs to no pipeline; give pipe.vae of a pipeline, or use from_pretrained"
            )
        if latent_upsampler is not None and not isinstance(latent_upsampler, PipelinePart):
            raise RequestError(
                f"latent_upsampler is a {type(latent_upsampler).__name__}; give "
                "LTX2LatentUpsamplerModel.from_pretrained(...) of Soundstage"
            )
        self._owner = owner
        self._own = engine
        self.latent_upsampler = latent_upsampler or LTX2LatentUpsamplerModel()
        super().__init__(engine if engine is not None else owner.engine, Notices())  # type: ignore[union-attr]
        self.vae = vae if vae is not None else PipelinePart("vae", pipeline=self)
        source = self.latent_upsampler.source
        if source is not None and owner is not None and str(source) != str(owner.source):
            self.notices.tell(
                f"the upsampler of {source} has no effect: that of the pipeline's own model is used"
            )

    @classmethod
    def from_pretrained(cls, model: Any, *, vae: Any = None, **words: Any) -> Self:
        """Make a pipeline of another one's vae, or of a model. words: those of LOADING."""
        notices = Notices()
        check_words(words, {**LOADING, **UPSAMPLER}, notices, "from_pretrained")
        if vae is not None:
            return cls(vae, LTX2LatentUpsamplerModel(source=model))
        found = model_of(model, words.get("revision"), words.get("cache_dir"))
        return cls(engine=Engine(found, device=words.get("device") or "auto", dtype=dtype_of(words)))

    @property
    def components(self) -> dict[str, Any]:
        return {"vae": self.vae, "latent_upsampler": self.latent_upsampler}

    def place(self, **options: Any) -> None:
        """Change options of the engine it shares with the pipeline of its vae."""
        if self._owner is None:
            super().place(**options)
            return
        self._owner.place(**options)
        self.engine = self._owner.engine

    def __call__(self, *values: Any, **words: Any) -> Any:
        """Upsample: a PipelineOutput, or (frames,) with return_dict=False.

        words: those of UPSAMPLE_CALL; video is the first. Raises RequestError naming what does not fit.
        """
        if self._owner is not None:
            self.engine = self._owner.engine
        words = {**dict(zip(("video", "height", "width"), values, strict=False)), **words}
        given = {name: value for name, value in words.items() if value is not None}
        check_words(given, UPSAMPLE_CALL, self.notices, "this call")
        output_type = given.get("output_type", "pil")
        check_output_type(output_type)
        if ("video" in given) == ("latents" in given):
            raise RequestError("give either latents or video", field="latents")
        watch, decode = self.new_watch(), output_type != "latent"
        changes = _changes(given)
        made = [self._made(watch, *one, changes, decode) for one in self._plans(given)]
        found = outputs(made, output_type)
        return (
            PipelineOutput(found.frames, None, found.clips)
            if words.get("return_dict", True)
            else (found.frames,)
        )

    def _plans(self, words: dict[str, Any]) -> list[tuple[Plan, GivenLatents | None]]:
        """Return the plan of each clip, which enlarges what it starts from and makes no step."""
        if "video" in words:
            return [(self._of_video(words), None)]
        plans: list[tuple[Plan, GivenLatents | None]] = []
        latents = words["latents"]
        for one in given_latents({"latents": latents}, len(latents) if hasattr(latents, "__len__") else 1):
            assert one is not None
            shape = one.shape
            assert shape is not None
            size = (shape.width * FACTOR, shape.height * FACTOR)
            request = Request(
                prompt=PROMPT,
                size=size,
                num_frames=shape.num_frames,
                modalities=frozenset({"video"}),
                allow_unfit=True,
            )
            plans.append((_stepless(self.engine.plan(request), "previous"), one))
        return plans

    def _of_video(self, words: dict[str, Any]) -> Plan:
        source = Source(media_of(words["video"], "video"), denoise=0.5, modalities=frozenset({"video"}))
        info = None if source.video is None or size_of(words) else probe(source.video)
        width, height = (info.width, info.height) if info is not None else size_of(words)["size"]
        step = SPACE_SCALE * FACTOR
        request = Request(
            prompt=PROMPT,
            source=source,
            size=tuple(step * max(1, round(side * FACTOR / step)) for side in (width, height)),
            modalities=frozenset({"video"}),
            allow_unfit=True,
        )
        return _stepless(self.engine.plan(request), "source")

    def _made(
        self, watch: CallWatch, plan: Plan, given: GivenLatents | None, changes: Changes, decode: bool
    ) -> Done:
        latents = None if given is None else given.latents
        if not changes.any:
            return watch.run(self.engine, plan, latents, decode=decode)
        from soundstage.rendering.prepare import Latents

        made = watch.run(self.engine, plan, latents, decode=False)
        assert made.video_latents is not None
        like = None if latents is None or latents.video is None else latents.video.to(made.video_latents)
        changed = changes.applied(made.video_latents, like)
        same = replace(plan, passes=(replace(plan.passes[0], start="previous", upsample=(), source=None),))
        return watch.run(self.engine, same, Latents(changed), decode=decode)


class LTXLatentUpsamplePipeline(LTX2LatentUpsamplePipeline):
    """Latents to twice the width and height, under the name of LTX-Video's pipeline."""


def _changes(words: Mapping[str, Any]) -> Changes:
    """Return what a call asks to be done to its latents. Raises RequestError for values out of range."""
    adain, tone_map = (number(words.get(name, 0.0), name) for name in ("adain_factor", TONE_MAP))
    if adain and "latents" not in words:
        raise RequestError(
            "adain_factor goes with latents; give latents, or leave it out", field="adain_factor"
        )
    if not 0 <= tone_map <= 1:
        raise RequestError(f"{TONE_MAP} is {shown(words[TONE_MAP])}; give 0 to 1", field=TONE_MAP)
    return Changes(adain, tone_map)


def _stepless(plan: Plan, start: str) -> Plan:
    """Return a plan of one pass that only upsamples."""
    pass_ = replace(plan.passes[0], start=start, upsample=("space-x2",), sigmas=(0.0,), conditions=())
    return replace(plan, passes=(pass_,))
