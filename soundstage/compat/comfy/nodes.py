"""Nodes of ComfyUI that are read: the names of their values in order, and what becomes of each. Data only.

The editor saves the values of a node as a list without names, so the order here is that of the node's own
inputs. docs/comfyui.md prints the table; `python -m soundstage.compat.comfy.nodes docs/comfyui.md` writes it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class NodeKind:
    """Describe a type of node.

    role: what the reader takes it for. becomes: what it fills of a request, for the docs. values: names of
    its values, in order. through: for a node that hands on, the input that each output leads back to; the
    last one stands for the outputs that follow.
    """

    role: str
    becomes: str
    values: tuple[str, ...] = ()
    through: tuple[str, ...] = ()


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _kind(role: str, becomes: str, values: str = "", through: str = "") -> NodeKind:
    return NodeKind(role, becomes, _words(values), _words(through))


_MODEL_FILE = "a file for `--model`"
_SIZE = "`size`, `num_frames`; rounded down as the node does"
_FIRST = "`guides`, in place at the first frame"
_BESIDE = "`guides`, as a guide at `frame_idx`; below 0 it counts from the end"
_REFERENCE = "`references`: strength, `downscale`, `attention`"
_DECODED = "nothing: the engine decodes, in tiles where memory asks for it"
_RESIZED = "`crop`; the engine fits pictures to the result in one go"
_DRAWN = "not carried: save the clip that it makes, and give it as a reference"
_NUMBER = "the number or text that another node gets"
_SPEED = "nothing: memory and fast paths are chosen here by the machine"
_LORA = "`loras` with their strength, or a pass's distilled LoRA"
_TEXT_FILES = "files for `--model`"
_COND = "positive negative"
_PART = "a part of the list; parts that follow each other are one pass"

NODES: dict[str, NodeKind] = {
    # What is saved
    "SaveVideo": _kind("output", "where reading starts", "filename_prefix format codec", "video"),
    "VHS_VideoCombine": _kind(
        "output",
        "where reading starts",
        "frame_rate loop_count filename_prefix format pingpong save_output",
        "images",
    ),
    "SaveWEBM": _kind("output", "where reading starts", "filename_prefix codec fps crf", "images"),
    "SaveAnimatedWEBP": _kind(
        "output", "where reading starts", "filename_prefix fps lossless quality method", "images"
    ),
    "SaveAnimatedPNG": _kind(
        "output", "where reading starts", "filename_prefix fps compress_level", "images"
    ),
    "SaveImage": _kind("output", "where reading starts", "filename_prefix", "images"),
    "PreviewImage": _kind("output", "where reading starts", "", "images"),
    "SaveAudio": _kind("output", "where reading starts: sound alone", "filename_prefix", "audio"),
    "SaveAudioMP3": _kind("output", "where reading starts: sound alone", "filename_prefix quality", "audio"),
    "PreviewAudio": _kind("output", "where reading starts: sound alone", "", "audio"),
    "CreateVideo": _kind("clip", "the sound beside the picture; its `fps` is compared", "fps", "images"),
    # Decoding
    "VAEDecode": _kind("decode", _DECODED, "", "samples"),
    "VAEDecodeTiled": _kind(
        "decode", _DECODED, "tile_size overlap temporal_size temporal_overlap", "samples"
    ),
    "LTXVTiledVAEDecode": _kind(
        "decode",
        _DECODED,
        "horizontal_tiles vertical_tiles overlap last_frame_fix working_device working_dtype",
        "latents",
    ),
    "LTXVSpatioTemporalTiledVAEDecode": _kind(
        "decode",
        _DECODED,
        "spatial_tiles spatial_overlap temporal_tile_length temporal_overlap last_frame_fix working_device "
        "working_dtype",
        "latents",
    ),
    "LTXVAudioVAEDecode": _kind("decode", _DECODED, "", "samples"),
    "VAEDecodeAudio": _kind("decode", _DECODED, "", "samples"),
    # Passes
    "SamplerCustomAdvanced": _kind("sampler", "a pass"),
    "SamplerCustom": _kind("sampler", "a pass with its guidance and seed", "add_noise noise_seed cfg"),
    "KSampler": _kind(
        "sampler",
        "a pass with its guidance, seed and noise levels",
        "seed steps cfg sampler_name scheduler denoise",
    ),
    "LTXVNormalizingSampler": _kind(
        "sampler",
        "a pass; its factors are not carried",
        "video_normalization_factors audio_normalization_factors",
    ),
    "LTXVLoopingSampler": _kind(
        "sampler",
        "a pass; its tiles are not carried: `take` splits long clips",
        "temporal_tile_size temporal_overlap guiding_strength temporal_overlap_cond_strength "
        "cond_image_strength horizontal_tiles vertical_tiles spatial_overlap adain_factor guiding_start_step "
        "guiding_end_step optional_cond_image_indices",
    ),
    "KSamplerSelect": _kind("sampler name", "`sampler`", "sampler_name"),
    "SamplerEulerAncestral": _kind("sampler name", "`sampler`: euler-ancestral", "eta s_noise"),
    "SamplerEulerAncestralCFGPP": _kind("sampler name", "`sampler`: euler-ancestral-cfg-pp", "eta s_noise"),
    "SamplerER_SDE": _kind("sampler name", "`sampler`: er-sde", "solver_type max_stage eta s_noise"),
    "ClownSampler_Beta": _kind("sampler name", "`sampler`: res2s", "eta sampler_name seed bongmath"),
    "RandomNoise": _kind("noise", "`seed`, of the first pass", "noise_seed"),
    "DisableNoise": _kind("noise", "steps that go on with the pass before, as one pass"),
    # Noise levels
    "ManualSigmas": _kind("sigmas", "`sigmas`", "sigmas"),
    "StringToSigmas": _kind("sigmas", "`sigmas`", "string"),
    "LTXVScheduler": _kind(
        "sigmas",
        "`schedule` ltx2 and `steps`; `sigmas` where a latent, a shift or a terminal value changes them",
        "steps max_shift base_shift stretch terminal",
    ),
    "BasicScheduler": _kind(
        "sigmas", "`schedule` linear-quadratic or beta, or `sigmas` for simple", "scheduler steps denoise"
    ),
    "LinearQuadraticSchedule": _kind(
        "sigmas", "`schedule` linear-quadratic", "steps threshold_noise linear_steps"
    ),
    "SplitSigmas": _kind("sigmas", _PART, "step"),
    "SplitSigmasDenoise": _kind("sigmas", _PART, "denoise"),
    "SetFirstSigma": _kind("sigmas", "the first of `sigmas`", "sigma"),
    # Guidance
    "CFGGuider": _kind("guider", "`guidance`; stg, modality guidance and rescale are off", "cfg"),
    "BasicGuider": _kind("guider", "guidance 1"),
    "LTXVDualCFGGuider": _kind("guider", "`video_guidance`, `audio_guidance`", "video_cfg audio_cfg"),
    "MultimodalGuider": _kind("guider", "`video_scales`, `audio_scales`, with stg_blocks", "skip_blocks"),
    "LTX2_NAG": _kind(
        "model",
        "`video_scales`, `audio_scales`: nag, nag_alpha, nag_tau, with the text as `negative_prompt`",
        "nag_scale nag_alpha nag_tau inplace",
        "model",
    ),
    "GuiderParameters": _kind(
        "guidance",
        "`video_scales` or `audio_scales`: cfg, stg, rescale, modality, skip_step",
        "modality cfg stg perturb_attn rescale modality_scale skip_step cross_attn",
    ),
    "STGGuider": _kind("guider", "`guidance`, `stg`, `rescale`", "cfg stg rescale"),
    "APGGuider": _kind(
        "guider",
        "`video_scales`: cfg, apg_eta, apg_norm, apg_momentum",
        "cfg_scale eta norm_threshold momentum_coefficient",
    ),
    # Words
    "CLIPTextEncode": _kind("text", "`prompt`, `negative_prompt`", "text"),
    "GemmaAPITextEncode": _kind(
        "text", "`prompt`, `negative_prompt`; text is encoded here", "api_key prompt enhance_prompt ckpt_name"
    ),
    "ConditioningZeroOut": _kind(
        "conditioning", "nothing, as a negative prompt that guidance 1 does not read", "", "conditioning"
    ),
    "LTXVConditioning": _kind("conditioning", "`fps`", "frame_rate", _COND),
    "LTXVReferenceAudio": _kind(
        "conditioning",
        "`audio` in mode identity, with its guidance",
        "identity_guidance_scale start_percent end_percent",
        "model positive negative",
    ),
    "LTXVSetAudioRefTokens": _kind(
        "conditioning", "`audio` in mode identity", "", "positive negative audio_latent"
    ),
    "TextGenerateLTX2Prompt": _kind("enhancer", "the text as it was typed", "prompt"),
    "LTXVGemmaEnhancePrompt": _kind("enhancer", "the text as it was typed", "prompt"),
    # LatentReader
    "EmptyLTXVLatentVideo": _kind("empty video", _SIZE, "width height length batch_size"),
    "LTXVEmptyLatentAudio": _kind(
        "empty audio", "the sound that is made; its length is compared", "frames_number frame_rate batch_size"
    ),
    "LTXVAudioOnlyEmptyVideoLatent": _kind("empty video", "`modalities`: audio"),
    "LTXVAudioOnlyModel": _kind("model", "`modalities`: audio", "", "model"),
    "LTXVConcatAVLatent": _kind("join", "picture and sound of a pass"),
    "LTXVSeparateAVLatent": _kind("latent", "picture and sound of a pass", "", "av_latent"),
    "LTXVCropGuides": _kind(
        "latent", "nothing: guides are dropped after each pass", "", "positive negative latent"
    ),
    "LTXVLatentUpsampler": _kind("upsampler", "`upsample` of the next pass", "", "samples"),
    "VAEEncode": _kind("source video", "`source`", "", "pixels"),
    "VAEEncodeTiled": _kind(
        "source video", "`source`", "tile_size overlap temporal_size temporal_overlap", "pixels"
    ),
    "LTXVAudioVAEEncode": _kind(
        "source audio", "`audio` in mode driving, or the sound of `source`", "", "audio"
    ),
    "VAEEncodeAudio": _kind("source audio", "`audio` in mode driving, or the sound of `source`", "", "audio"),
    "SetLatentNoiseMask": _kind(
        "mask", "an even mask of 0 keeps the sound; others are not carried", "", "samples"
    ),
    "SolidMask": _kind("value", "the mask of SetLatentNoiseMask", "value width height"),
    "LTXVSetAudioVideoMaskByTime": _kind(
        "time mask",
        "`source.regenerate` and `source.modalities`",
        "start_time end_time video_fps mask_video mask_audio mask_init_value_video mask_init_value_audio "
        "slope_len",
        "positive negative av_latent",
    ),
    # Pictures and clips given
    "LTXVImgToVideo": _kind(
        "first picture", f"{_FIRST}; {_SIZE}", "width height length batch_size strength", f"{_COND} latent"
    ),
    "LTXVImgToVideoInplace": _kind("first picture", _FIRST, "strength bypass", "latent"),
    "LTXVImgToVideoConditionOnly": _kind("first picture", _FIRST, "strength bypass", "latent"),
    "LTXVAddGuide": _kind("guide", _BESIDE, "frame_idx strength", f"{_COND} latent"),
    "LTXVAddGuideMulti": _kind("guides", f"{_BESIDE}; several", "", f"{_COND} latent"),
    "LTXVImgToVideoInplaceKJ": _kind("pictures in place", "`guides`, in place at their frames", "", "latent"),
    "LTXVAddGuideAdvanced": _kind(
        "guide",
        f"{_BESIDE}; `crf`, `crop`",
        "frame_idx strength crf blur_radius interpolation crop",
        f"{_COND} latent",
    ),
    "LTXVAddGuideAdvancedAttention": _kind(
        "guide",
        f"{_BESIDE}; `crf`, `crop`, `attention`",
        "frame_idx strength crf blur_radius interpolation crop attention_strength",
        f"{_COND} latent",
    ),
    "LTXAddVideoICLoRAGuide": _kind(
        "reference",
        _REFERENCE,
        "frame_idx strength latent_downscale_factor crop use_tiled_encode tile_size tile_overlap",
        f"{_COND} latent",
    ),
    "LTXAddVideoICLoRAGuideAdvanced": _kind(
        "reference",
        _REFERENCE,
        "frame_idx strength latent_downscale_factor crop use_tiled_encode tile_size tile_overlap "
        "attention_strength",
        f"{_COND} latent",
    ),
    "GetICLoRAParameters": _kind("loader", "nothing: read from the LoRA's file"),
    "LoadImage": _kind("file", "a picture's file", "image upload"),
    "LoadVideo": _kind("file", "a clip's file", "file upload"),
    "VHS_LoadVideo": _kind("file", "a clip's file", "video"),
    "LoadAudio": _kind("file", "a sound's file", "audio"),
    "VHS_LoadAudio": _kind("file", "a sound's file, from `seek_seconds`", "audio_file seek_seconds"),
    "VHS_LoadAudioUpload": _kind("file", "a sound's file, from `start_time`", "audio start_time duration"),
    "GetVideoComponents": _kind("image", "a clip's picture, sound and rate", "", "video video video"),
    "TrimAudioDuration": _kind("audio", "`audio.start_s`", "start_index duration", "audio"),
    "MelBandRoFormerSampler": _kind("audio", "the whole sound: voice and music are not parted", "", "audio"),
    "MelBandRoFormerModelLoader": _kind("other loader", "nothing: see MelBandRoFormerSampler", "model_name"),
    "LTXVPreprocess": _kind("image", "`guides.crf`", "img_compression", "image"),
    "ImageScale": _kind("image", _RESIZED, "upscale_method width height crop", "image"),
    "ImageScaleBy": _kind("image", _RESIZED, "upscale_method scale_by", "image"),
    "ImageScaleToMaxDimension": _kind("image", _RESIZED, "upscale_method largest_size", "image"),
    "ResizeImageMaskNode": _kind("image", _RESIZED, "", "input"),
    "ImageScaleToTotalPixels": _kind("image", _RESIZED, "upscale_method megapixels", "image"),
    "ImageResizeKJv2": _kind(
        "image",
        _RESIZED,
        "width height upscale_method keep_proportion pad_color crop_position divisible_by device",
        "image image image",
    ),
    "ResizeAndPadImage": _kind(
        "image", _RESIZED, "target_width target_height padding_color interpolation", "image"
    ),
    "ResizeImagesByLongerEdge": _kind("image", _RESIZED, "longer_edge", "images"),
    "Canny": _kind("drawn", _DRAWN, "low_threshold high_threshold", "image"),
    "CannyEdgePreprocessor": _kind("drawn", _DRAWN, "low_threshold high_threshold resolution", "image"),
    "DWPreprocessor": _kind("drawn", _DRAWN, "", "image"),
    "ImageInvert": _kind("drawn", _DRAWN, "", "image"),
    "VideoDepthAnythingProcess": _kind("drawn", _DRAWN, "", "images"),
    "VideoDepthAnythingOutput": _kind("drawn", _DRAWN, "", "depths"),
    "DepthCrafter": _kind("drawn", _DRAWN, "", "images"),
    "SDPoseDrawKeypoints": _kind("drawn", _DRAWN),
    "LTXVInpaintPreprocess": _kind("drawn", _DRAWN, "", "images"),
    "LTXVDrawTracks": _kind("drawn", _DRAWN),
    "ImagePadForOutpaintTargetSize": _kind(
        "drawn", _DRAWN, "target_width target_height feathering upscale_method"
    ),
    "RepeatImageBatch": _kind("drawn", _DRAWN, "amount", "image"),
    "ImageFromBatch": _kind(
        "image", "the first frames of a clip, as the engine takes them", "batch_index length", "image"
    ),
    "EmptyImage": _kind("value", "a size that another node gets", "width height batch_size color"),
    "GetImageSize": _kind("value", "a size that another node gets"),
    "GetImageSizeAndCount": _kind("value", "a size that another node gets"),
    # Model files
    "CheckpointLoaderSimple": _kind("loader", _MODEL_FILE, "ckpt_name"),
    "LowVRAMCheckpointLoader": _kind("loader", _MODEL_FILE, "ckpt_name"),
    "UNETLoader": _kind("loader", _MODEL_FILE, "unet_name weight_dtype"),
    "UnetLoaderGGUF": _kind("loader", _MODEL_FILE, "unet_name"),
    "UnetLoaderGGUFAdvanced": _kind("loader", _MODEL_FILE, "unet_name"),
    "DiffusionModelLoaderKJ": _kind("loader", _MODEL_FILE, "model_name"),
    "CLIPLoader": _kind("loader", _TEXT_FILES, "clip_name type device"),
    "DualCLIPLoader": _kind("loader", _TEXT_FILES, "clip_name1 clip_name2 type device"),
    "CLIPLoaderGGUF": _kind("loader", _TEXT_FILES, "clip_name type"),
    "DualCLIPLoaderGGUF": _kind("loader", _TEXT_FILES, "clip_name1 clip_name2 type"),
    "LTXAVTextEncoderLoader": _kind("loader", _TEXT_FILES, "text_encoder ckpt_name device"),
    "LTXVGemmaCLIPModelLoader": _kind("loader", _TEXT_FILES, "gemma_path ltxv_path max_length"),
    "VAELoader": _kind("loader", _MODEL_FILE, "vae_name"),
    "VAELoaderKJ": _kind("loader", _MODEL_FILE, "vae_name"),
    "LTXVAudioVAELoader": _kind("loader", _MODEL_FILE, "ckpt_name"),
    "LowVRAMAudioVAELoader": _kind("loader", _MODEL_FILE, "ckpt_name"),
    "LatentUpscaleModelLoader": _kind(
        "loader", f"{_MODEL_FILE}; x2, x1.5 or temporal by its name", "model_name"
    ),
    "LowVRAMLatentUpscaleModelLoader": _kind(
        "loader", f"{_MODEL_FILE}; x2, x1.5 or temporal by its name", "model_name"
    ),
    "LoraLoaderModelOnly": _kind("lora", _LORA, "lora_name strength_model", "model"),
    "LoraLoader": _kind(
        "lora",
        f"{_LORA}; of the text encoder: not carried",
        "lora_name strength_model strength_clip",
        "model clip",
    ),
    "LTXICLoRALoaderModelOnly": _kind(
        "lora", f"{_LORA}; seen where references are", "lora_name strength_model", "model"
    ),
    "LoraLoaderBypassModelOnly": _kind("lora", _LORA, "lora_name strength_model", "model"),
    "LTX2LoraLoaderAdvanced": _kind(
        "lora",
        f"{_LORA}; factors of single layers: not carried",
        "lora_name strength_model video video_to_audio audio audio_to_video other",
        "model",
    ),
    "LTXVQ8LoraModelLoader": _kind("lora", _LORA, "lora_name strength_model", "model"),
    "Power Lora Loader (rgthree)": _kind("lora", f"{_LORA}; those that are switched on", "", "model clip"),
    "LTXQ8Patch": _kind("model", "not carried: give `--weights int8` or `fp8`", "", "model"),
    "LTX2AttentionTunerPatch": _kind("model", "not carried: the model runs without its factors", "", "model"),
    "LTX2AudioLatentNormalizingSampling": _kind(
        "model", "not carried: the model runs without its factors", "audio_normalization_factors", "model"
    ),
    **{
        name: _kind("model", _SPEED, "", "model")
        for name in (
            "LTXVChunkFeedForward",
            "LTX2MemoryEfficientSageAttentionPatch",
            "LTX2SamplingPreviewOverride",
            "PathchSageAttentionKJ",
            "ModelPatchTorchSettings",
            "TorchCompileModel",
            "TorchCompileModelAdvanced",
        )
    },
    "ModelSamplingLTXV": _kind(
        "model", "the shift of BasicScheduler's simple list", "max_shift base_shift", "model"
    ),
    # NodeValues and ways
    "PrimitiveInt": _kind("value", _NUMBER, "value"),
    "PrimitiveFloat": _kind("value", _NUMBER, "value"),
    "PrimitiveBoolean": _kind("value", _NUMBER, "value"),
    "PrimitiveString": _kind("value", _NUMBER, "value"),
    "PrimitiveStringMultiline": _kind("value", _NUMBER, "value"),
    "INTConstant": _kind("value", _NUMBER, "value"),
    "FloatConstant": _kind("value", _NUMBER, "value"),
    "StringConstant": _kind("value", _NUMBER, "string"),
    "Int": _kind("value", _NUMBER, "Number"),
    "Float": _kind("value", _NUMBER, "Number"),
    "String": _kind("value", _NUMBER, "String"),
    "Text Multiline": _kind("value", _NUMBER, "text"),
    "Seed (rgthree)": _kind("value", f"{_NUMBER}; below 0 a seed is drawn", "seed"),
    "SimpleCalculatorKJ": _kind("value", _NUMBER, "expression"),
    "StringConcatenate": _kind("value", _NUMBER, "string_a string_b delimiter"),
    "ComfyMathExpression": _kind("value", _NUMBER, "expression"),
    "MathExpression|pysssss": _kind("value", _NUMBER, "expression"),
    "SimpleMath+": _kind("value", _NUMBER, "value"),
    "CM_FloatToInt": _kind("value", _NUMBER, "a"),
    "LTXFloatToInt": _kind("value", _NUMBER, "a"),
    "ComfySwitchNode": _kind("switch", "the way that is switched on", "switch"),
    "LazySwitchKJ": _kind("switch", "the way that is switched on", "switch"),
    "InversionDemoLazySwitch": _kind("switch", "the way that is switched on", "switch"),
    "ImpactExecutionOrderController": _kind("image", "nothing: it orders the work", "", "signal value"),
    "PreviewAny": _kind("image", "nothing: it shows a value", "preview", "source"),
}

_RESIZE_VALUES = {
    "scale dimensions": ("width", "height", "crop"),
    "scale by multiplier": ("multiplier",),
    "scale longer dimension": ("longer_size",),
    "scale shorter dimension": ("shorter_size",),
    "scale width": ("width",),
    "scale height": ("height",),
    "scale total pixels": ("megapixels",),
    "match size": ("crop",),
    "scale to multiple": ("multiple",),
}


# The value that says how many pictures there are, and the values of each.
_COUNTED = {
    "LTXVAddGuideMulti": ("num_guides", "frame_idx", "strength"),
    "LTXVImgToVideoInplaceKJ": ("num_images", "index", "strength"),
}


def widget_names(kind: str, values: Sequence[Any]) -> list[str]:
    """Return the names of a node's values, in the order in which the editor saves them."""
    if kind == "ResizeImageMaskNode":  # what follows depends on the way that is chosen
        chosen = str(values[0]) if values else ""
        more = (f"resize_type.{name}" for name in _RESIZE_VALUES.get(chosen, ()))
        return ["resize_type", *more, "scale_method"]
    if kind in _COUNTED:
        first, *others = _COUNTED[kind]
        pairs = range(1, len(values) // len(others) + 1)
        return [first, *(f"{first}.{name}_{i}" for i in pairs for name in others)]
    if kind.startswith("Power Lora Loader"):
        return [f"value_{i}" for i in range(len(values))]
    return list(NODES[kind].values) if kind in NODES else []


def nodes_table() -> str:
    """Return the table of nodes for the docs."""
    rows = ["| node | becomes |", "|---|---|"]
    groups: dict[str, list[str]] = {}
    for name, kind in NODES.items():
        groups.setdefault(kind.becomes, []).append(f"`{name}`".replace("|", "\\|"))
    rows += [f"| {', '.join(names)} | {becomes} |" for becomes, names in groups.items()]
    return "\n".join(rows) + "\n"


BEGIN, END = "<!-- nodes of ComfyUI -->\n", "<!-- end of nodes -->"


def with_nodes(page: str) -> str:
    """Return a page of the docs with the table as it is now."""
    before, begin, rest = page.partition(BEGIN)
    return f"{before}{begin}{nodes_table()}{END}{rest.partition(END)[2]}" if begin else page


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(with_nodes(Path(name).read_text()))
