"""diffusers' pipelines that upsample latents: a pass without steps over the engine of another pipeline."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from soundstage.compat.diffusers.conditions import media_of
from soundstage.compat.diffusers.given import given_latents
from soundstage.compat.diffusers.loading import model_of
from soundstage.compat.diffusers.outputs import PipelineOutput, check_output_type, outputs
from soundstage.compat.diffusers.parts import LTX2LatentUpsamplerModel, PipelinePart
from soundstage.compat.diffusers.placing import PipelinePlacement
from soundstage.compat.diffusers.running import RunWatch
from soundstage.compat.diffusers.telling import Notices, check_words, number
from soundstage.compat.diffusers.words import UPSAMPLE_CALL
from soundstage.engine import Engine
from soundstage.errors import RequestError
from soundstage.planning.plan import Plan
from soundstage.request.inputs import Source
from soundstage.request.request import Request

if TYPE_CHECKING:
    from soundstage.compat.diffusers.given import GivenLatents
    from soundstage.rendering.events import Done

FACTOR = 2
PROMPT = "latents upsampled"  # of the request; nothing reads it


class LTX2LatentUpsamplePipeline(PipelinePlacement):
    """Latents or a clip to twice the width and height.

    vae: that of a pipeline, whose engine is used. latent_upsampler: the model's own is used.
    """

    def __init__(
        self, vae: Any = None, latent_upsampler: Any = None, *, engine: Engine | None = None
    ) -> None:
        owner = vae.pipeline if isinstance(vae, PipelinePart) else None
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
        self._watch = RunWatch(self.notices)
        source = self.latent_upsampler.source
        if source is not None and owner is not None and str(source) != str(owner.source):
            self.notices.tell(
                f"the upsampler of {source} has no effect: that of the pipeline's own model is used"
            )

    @classmethod
    def from_pretrained(cls, model: Any, *, vae: Any = None, **words: Any) -> Self:
        """Make a pipeline of another one's vae, or of a model."""
        if isinstance(vae, PipelinePart) and vae.pipeline is not None:
            return cls(vae, LTX2LatentUpsamplerModel(source=model))
        dtype = words.get("dtype") or words.get("torch_dtype")
        return cls(engine=Engine(model_of(model), device=words.get("device") or "auto", dtype=dtype))

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
        made = [self._made(*one, given, output_type) for one in self._plans(given)]
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
        size = {}
        if words.get("width") and words.get("height"):
            size["size"] = (words["width"] * FACTOR, words["height"] * FACTOR)
        request = Request(
            prompt=PROMPT,
            source=Source(media_of(words["video"], "video"), denoise=0.5, modalities=frozenset({"video"})),
            modalities=frozenset({"video"}),
            allow_unfit=True,
            **size,
        )
        return _stepless(self.engine.plan(request), "source")

    def _made(self, plan: Plan, given: GivenLatents | None, words: dict[str, Any], output_type: str) -> Done:
        latents = None if given is None else given.latents
        factor = number(words.get("adain_factor", 0.0), "adain_factor")
        decode = output_type != "latent"
        if not factor:
            return self._watch.run(self.engine, plan, latents, decode=decode)
        from soundstage.rendering.prepare import Latents
        from soundstage.rendering.seams import adain

        if latents is None or latents.video is None:
            raise RequestError(
                "adain_factor goes with latents; give latents, or leave it out", field="adain_factor"
            )
        made = self._watch.run(self.engine, plan, latents, decode=False)
        assert made.video_latents is not None
        moved = adain(made.video_latents, latents.video.to(made.video_latents), factor)
        same = replace(plan, passes=(replace(plan.passes[0], upsample=()),))
        return self._watch.run(self.engine, same, Latents(moved), decode=decode)


class LTXLatentUpsamplePipeline(LTX2LatentUpsamplePipeline):
    """Latents to twice the width and height, under the name of LTX-Video's pipeline."""


def _stepless(plan: Plan, start: str) -> Plan:
    """Return a plan of one pass that only upsamples."""
    pass_ = replace(plan.passes[0], start=start, upsample=("space-x2",), sigmas=(0.0,), conditions=())
    return replace(plan, passes=(pass_,))
