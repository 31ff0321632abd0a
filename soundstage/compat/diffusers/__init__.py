"""diffusers' names for the engine: a published snippet runs with `diffusers` replaced in its imports.

    from soundstage.compat.diffusers import LTX2Pipeline
    from soundstage.compat.diffusers.utils import encode_video
    from soundstage.compat.diffusers.pipelines.ltx2.utils import DISTILLED_SIGMA_VALUES

All names are in this module; the modules in which diffusers has them are this one by other names. What is
mapped, ignored and refused: docs/diffusers.md.
"""

from __future__ import annotations

import sys
from typing import Any

from soundstage.compat.diffusers.adapters import PipelineAdapters
from soundstage.compat.diffusers.conditions import (
    LTX2ReferenceCondition,
    LTX2VideoCondition,
    LTXVideoCondition,
)
from soundstage.compat.diffusers.media import (
    encode_video,
    export_to_gif,
    export_to_video,
    load_image,
    load_video,
)
from soundstage.compat.diffusers.outputs import PipelineOutput
from soundstage.compat.diffusers.parts import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoModel,
    LTX2LatentUpsamplerModel,
    LTX2VideoTransformer3DModel,
    PipelinePart,
    apply_group_offloading,
)
from soundstage.compat.diffusers.pipeline import (
    LTX2ConditionPipeline,
    LTX2ImageToVideoPipeline,
    LTX2InContextPipeline,
    LTX2Pipeline,
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoPipeline,
)
from soundstage.compat.diffusers.placing import PipelinePlacement
from soundstage.compat.diffusers.quantizing import (
    BitsAndBytesConfig,
    GGUFQuantizationConfig,
    PipelineQuantizationConfig,
    QuantoConfig,
    TorchAoConfig,
)
from soundstage.compat.diffusers.schedule import (
    FlowMatchEulerDiscreteScheduler,
    LTXEulerAncestralRFScheduler,
)
from soundstage.compat.diffusers.shell import PipelineShell
from soundstage.compat.diffusers.upsampling import LTX2LatentUpsamplePipeline, LTXLatentUpsamplePipeline
from soundstage.compat.diffusers.words import ABSENT
from soundstage.errors import RequestError
from soundstage.request.defaults import NEGATIVE_PROMPT
from soundstage.sampling.schedules import DISTILLED, REFINE

DISTILLED_SIGMA_VALUES = list(DISTILLED[:-1])
STAGE_2_DISTILLED_SIGMA_VALUES = list(REFINE[:-1])
DEFAULT_NEGATIVE_PROMPT = NEGATIVE_PROMPT
LTXLatentUpsamplerModel = LTX2LatentUpsamplerModel
LTXVideoTransformer3DModel = LTX2VideoTransformer3DModel
AutoencoderKLLTXVideo = AutoencoderKLLTX2Video
DiffusionPipeline = LTX2Pipeline
# Prompts are used as they are written, so that there is nothing to tell an enhancer.
T2V_DEFAULT_SYSTEM_PROMPT = I2V_DEFAULT_SYSTEM_PROMPT = ""
LTX2_5_T2V_DEFAULT_SYSTEM_PROMPT = LTX2_5_I2V_DEFAULT_SYSTEM_PROMPT = ""

__all__ = [
    "DEFAULT_NEGATIVE_PROMPT",
    "DISTILLED_SIGMA_VALUES",
    "I2V_DEFAULT_SYSTEM_PROMPT",
    "LTX2_5_I2V_DEFAULT_SYSTEM_PROMPT",
    "LTX2_5_T2V_DEFAULT_SYSTEM_PROMPT",
    "STAGE_2_DISTILLED_SIGMA_VALUES",
    "T2V_DEFAULT_SYSTEM_PROMPT",
    "AutoModel",
    "AutoencoderKLLTX2Audio",
    "AutoencoderKLLTX2Video",
    "AutoencoderKLLTXVideo",
    "BitsAndBytesConfig",
    "DiffusionPipeline",
    "FlowMatchEulerDiscreteScheduler",
    "GGUFQuantizationConfig",
    "LTX2ConditionPipeline",
    "LTX2ImageToVideoPipeline",
    "LTX2InContextPipeline",
    "LTX2LatentUpsamplePipeline",
    "LTX2LatentUpsamplerModel",
    "LTX2Pipeline",
    "LTX2ReferenceCondition",
    "LTX2VideoCondition",
    "LTX2VideoTransformer3DModel",
    "LTXConditionPipeline",
    "LTXEulerAncestralRFScheduler",
    "LTXImageToVideoPipeline",
    "LTXLatentUpsamplePipeline",
    "LTXLatentUpsamplerModel",
    "LTXPipeline",
    "LTXVideoCondition",
    "LTXVideoPipeline",
    "LTXVideoTransformer3DModel",
    "PipelineAdapters",
    "PipelineOutput",
    "PipelinePart",
    "PipelinePlacement",
    "PipelineQuantizationConfig",
    "PipelineShell",
    "QuantoConfig",
    "TorchAoConfig",
    "apply_group_offloading",
    "encode_video",
    "export_to_gif",
    "export_to_video",
    "load_image",
    "load_video",
]

# The modules in which diffusers has these names.
_MODULES = (
    "utils",
    "utils.export_utils",
    "utils.loading_utils",
    "hooks",
    "quantizers",
    "models",
    "pipelines",
    "schedulers",
    "pipelines.ltx2.latent_upsampler",
    "pipelines.ltx2.utils",
    "pipelines.ltx2.export_utils",
    "pipelines.ltx2.pipeline_ltx2",
    "pipelines.ltx2.pipeline_ltx2_condition",
    "pipelines.ltx2.pipeline_ltx2_ic_lora",
    "pipelines.ltx2.pipeline_ltx2_image2video",
    "pipelines.ltx2.pipeline_ltx2_latent_upsample",
    "pipelines.ltx2",
    "pipelines.ltx.modeling_latent_upsampler",
    "pipelines.ltx.pipeline_ltx_condition",
    "pipelines.ltx",
)


def __getattr__(name: str) -> Any:
    if name in ABSENT:
        raise RequestError(f"'{name}' has no counterpart in Soundstage: {ABSENT[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


sys.modules.update({f"{__name__}.{path}": sys.modules[__name__] for path in _MODULES})
