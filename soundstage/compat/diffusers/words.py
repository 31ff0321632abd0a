"""Every word of diffusers' LTX pipelines, and what becomes of it: mapped, ignored with a notice, or refused.

The pipelines ask these lists, and docs/diffusers.md shows them. tests/unit/test_diffusers_words.py compares
them with the signatures of diffusers itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from soundstage.compat.diffusers.telling import Word, by_name

# --- arguments of a call ---------------------------------------------------------------------------------

_NO_EMBEDS = "prompts are read within the engine, which keeps what it has read; give prompt as text"
_NO_ENHANCER = "the prompt is used as it is written; have it enhanced before, where you want that"
_NO_HEAD = "LTX-2.3 does not choose a length; give num_frames"
_PLAIN_DECODER = "the decoder of LTX-2.3 takes no noise"


def _mapped(**words: str) -> tuple[Word, ...]:
    return tuple(Word(name, "mapped", becomes) for name, becomes in words.items())


CALL = by_name(
    *_mapped(
        prompt="`prompt`; a list makes a clip of each",
        negative_prompt="`negative_prompt`, one or a list; left out where no guidance reads it",
        height="`size`, with width",
        width="`size`, with height",
        num_frames="`num_frames`; left out, the model's own",
        frame_rate="`fps`; left out, the model's own",
        num_inference_steps="`steps`; the length of sigmas wins",
        sigmas="`sigmas`; the 0 at the end is added",
        timesteps="`sigmas`, divided by 1000",
        guidance_scale="`video_guidance`; 1 or less, and nothing else of guidance given: no guidance at all",
        stg_scale="`video_scales.stg`",
        modality_scale="`video_scales.modality`",
        guidance_rescale="`video_scales.rescale`",
        audio_guidance_scale="`audio_guidance`",
        audio_stg_scale="`audio_scales.stg`",
        audio_modality_scale="`audio_scales.modality`",
        audio_guidance_rescale="`audio_scales.rescale`",
        spatio_temporal_guidance_blocks="`video_scales.stg_blocks`, `audio_scales.stg_blocks`",
        noise_scale="with latents: must be the first of sigmas, to which they are noised",
        num_videos_per_prompt="so many clips of each prompt",
        generator="one or a list: its seed, or one drawn from it where it was used before",
        latents="what the clip starts from; its size and length",
        audio_latents="what the sound starts from",
        denoise_strength="with latents: that share of the steps, the last ones",
        image="a guide at the first frame; of a list one for each prompt",
        image_crf="`crf` of the image's guide",
        conditions="`guides`, at the frame of each index",
        video="a guide, as a clip",
        frame_index="the frame of image or video",
        strength="the strength of image or video",
        reference_conditions="`references`",
        reference_downscale_factor="`downscale` of the references",
        conditioning_attention_strength="`attention` of the references",
        conditioning_attention_mask="`mask` of the references",
        output_type='"pil", "np", "pt" or "latent"',
        return_dict="a PipelineOutput, or (frames, audio)",
        attention_kwargs='`{"scale": x}` multiplies the strength of the LoRAs; others are refused',
        callback_on_step_end="called after each step as (pipe, i, timestep, tensors)",
        callback_on_step_end_tensor_inputs='"latents" and "audio_latents", as tokens (1, N, 128)',
    ),
    Word("decode_timestep", "ignored", _PLAIN_DECODER, (0.0,)),
    Word("decode_noise_scale", "ignored", _PLAIN_DECODER, (0.0,)),
    Word(
        "image_cond_noise_scale",
        "ignored",
        "LTX-2.3 gets guides without noise; strength says how closely",
        (0.0, 0.15),
    ),
    Word("max_sequence_length", "ignored", "the model has one length of prompt", (1024, 256, 128)),
    Word("min_seconds", "ignored", _NO_HEAD, (1.0,)),
    Word("max_seconds", "ignored", _NO_HEAD, (20.0,)),
    Word("enable_prompt_enhancement", "ignored", _NO_ENHANCER, (False,)),
    Word("system_prompt", "ignored", _NO_ENHANCER, ("",)),
    Word("prompt_max_new_tokens", "ignored", _NO_ENHANCER),
    Word("prompt_enhancement_kwargs", "ignored", _NO_ENHANCER),
    Word("prompt_enhancement_seed", "ignored", _NO_ENHANCER, (10,)),
    Word("use_cross_timestep", "refused", "only LTX-2.0 is run without it; leave it True", (True,)),
    Word("motion_speed", "refused", "Soundstage has no such control; leave it at 1", (1.0,)),
    Word("prompt_embeds", "refused", _NO_EMBEDS),
    Word("prompt_attention_mask", "refused", _NO_EMBEDS),
    Word("negative_prompt_embeds", "refused", _NO_EMBEDS),
    Word("negative_prompt_attention_mask", "refused", _NO_EMBEDS),
)

UPSAMPLE_CALL = by_name(
    *_mapped(
        video="a clip to be encoded first: a file, pictures, an array or a Clip",
        latents="(B, 128, T, h, w)",
        height="the size at which video is encoded, with width; left out, its own",
        width="the size at which video is encoded, with height; left out, its own",
        adain_factor="how far the channels are moved to the statistics they had",
        tone_map_compression_ratio="how far large values are pressed together, from 0 to 1",
        output_type='"pil", "np", "pt" or "latent"',
        return_dict="a PipelineOutput, or (frames,)",
    ),
    Word("num_frames", "ignored", "latents and video have their own length", (121,)),
    Word(
        "latents_normalized",
        "ignored",
        "latents that go between these pipelines are as the model has them",
        (False,),
    ),
    Word("spatial_patch_size", "refused", "LTX-2.3 has patches of 1", (1,)),
    Word("temporal_patch_size", "refused", "LTX-2.3 has patches of 1", (1,)),
    Word("decode_timestep", "ignored", _PLAIN_DECODER, (0.0,)),
    Word("decode_noise_scale", "ignored", _PLAIN_DECODER, (0.0,)),
    Word("generator", "ignored", "an upsampler draws no numbers"),
)

# Arguments of a call that go with others: those, and the value that asks for nothing.
_OF_IMAGE = ("image", "video")
_OF_REFERENCES = ("reference_conditions",)
IDLE: Mapping[str, tuple[tuple[str, ...], Any]] = {
    "strength": (_OF_IMAGE, 1.0),
    "frame_index": (_OF_IMAGE, 0),
    "image_crf": (("image",), None),
    "noise_scale": (("latents", "audio_latents"), None),
    "reference_downscale_factor": (_OF_REFERENCES, 1),
    "conditioning_attention_strength": (_OF_REFERENCES, 1.0),
    "conditioning_attention_mask": (_OF_REFERENCES, None),
}

# --- arguments of from_pretrained ------------------------------------------------------------------------

_OWN_PLACES = "Soundstage places weights by itself; see enable_model_cpu_offload"
_HUB = "nothing is downloaded here: `soundstage models pull` and `hf download` do that"
_ANY_FILE = "files are known by what they hold"

LOADING = by_name(
    *_mapped(
        torch_dtype="`dtype` of `ss.load`",
        dtype="`dtype` of `ss.load`",
        device="`device` of `ss.load`",
        weights="`weights` of `ss.load`",
        residency="`residency` of `ss.load`",
        memory_gb="`memory_gb` of `ss.load`",
        device_map="a device's name",
        revision="the revision in the hub's cache",
        cache_dir="where the hub's cache is",
        quantization_config="`weights`: 8-bit integers are int8, 8-bit floats fp8-cast; 4 bits are refused",
        transformer="the same model's, with what was set on it",
        vae="the same model's",
        audio_vae="the same model's",
        vocoder="the same model's",
        text_encoder="the same model's",
        connectors="the same model's",
        scheduler="see `scheduler` below",
    ),
    Word("local_files_only", "ignored", _HUB, (True, False)),
    Word("force_download", "ignored", _HUB, (False,)),
    Word("token", "ignored", _HUB),
    Word("proxies", "ignored", _HUB),
    Word("mirror", "ignored", _HUB),
    Word("variant", "ignored", _ANY_FILE),
    Word("use_safetensors", "ignored", _ANY_FILE, (True,)),
    Word("subfolder", "ignored", "a pipeline takes the whole model", ("",)),
    Word("low_cpu_mem_usage", "ignored", _OWN_PLACES, (True,)),
    Word("max_memory", "ignored", "give memory_gb"),
    Word("offload_folder", "ignored", _OWN_PLACES),
    Word("offload_state_dict", "ignored", _OWN_PLACES, (False,)),
    Word("disable_mmap", "ignored", _OWN_PLACES, (False,)),
    Word("use_flashpack", "ignored", _ANY_FILE, (False,)),
    Word("tokenizer", "ignored", "the model's own is used"),
    Word("processor", "ignored", _NO_ENHANCER),
    Word("prompt_enhancer", "ignored", _NO_ENHANCER),
    Word("load_connected_pipeline", "ignored", "a pipeline takes the whole model", (False,)),
    Word("custom_pipeline", "refused", "no foreign code is run; write it around the engine"),
    Word("custom_revision", "refused", "no foreign code is run; write it around the engine"),
    Word("trust_remote_code", "refused", "no foreign code is run; write it around the engine", (False,)),
    Word("use_onnx", "refused", "only PyTorch's weights are read", (False,)),
    Word("provider", "refused", "only PyTorch's weights are read"),
    Word("sess_options", "refused", "only PyTorch's weights are read"),
    Word("provider_options", "refused", "only PyTorch's weights are read"),
)

# --- methods and attributes ------------------------------------------------------------------------------

_TILES = "Soundstage decodes in pieces by itself, as memory asks for it"
_ATTENTION = "Soundstage picks the attention kernel by itself"
_FAST = "Soundstage has its own fast paths, and records steps as CUDA graphs"
_INNER = "the work is done by the engine, which takes whole requests"

METHODS = by_name(
    *_mapped(
        from_pretrained="a name of ours, a path, or a repository of the hub that is here",
        from_single_file="a file, with others beside it",
        from_pipe="the same engine in another pipeline",
        to="`device`, `dtype` of `ss.load`",
        enable_model_cpu_offload='`residency="offload"`',
        enable_sequential_cpu_offload='`residency="stream"`',
        enable_group_offload='`residency="stream"`; with offload_to_disk_path `"disk"`',
        remove_all_hooks='`residency="auto"`',
        reset_device_map='`residency="auto"`',
        maybe_free_model_hooks="nothing: memory is given back by itself",
        set_progress_bar_config="`disable`; left out, bars are shown on a terminal",
        load_lora_weights="a LoRA at strength 1: a file, a folder, a repository of the hub that is here",
        set_adapters="strengths by name; a dict multiplies groups of layers",
        get_active_adapters="names in use",
        get_list_adapters="names loaded",
        delete_adapters="forgets by name",
        disable_lora="none is used",
        enable_lora="those from before disable_lora are used again",
        fuse_lora="keeps the adapters in use as they are, whatever is set or unloaded later",
        unfuse_lora="undoes fuse_lora",
        unload_lora_weights="forgets all that are not fused",
        fused_loras="names fused",
        num_fused_loras="how many are fused",
        scheduler='its config: static shifting is `schedule="linear"`, dynamic with a terminal `"ltx2"`',
        components="the parts by name",
        config="a dict with the class and the model's name",
        name_or_path="the model's name",
        device="the device",
        dtype="the dtype",
        interrupt="set `_interrupt = True` in a callback: what is there is decoded",
        num_timesteps="steps of the last call",
        current_timestep="of the last step",
        guidance_scale="of the last call",
        guidance_rescale="of the last call",
        stg_scale="of the last call",
        modality_scale="of the last call",
        audio_guidance_scale="of the last call",
        audio_guidance_rescale="of the last call",
        audio_stg_scale="of the last call",
        audio_modality_scale="of the last call",
        attention_kwargs="of the last call",
        lora_scale="`scale` of the last call's attention_kwargs",
        do_classifier_free_guidance="whether the last call asked for guidance above 1",
        do_spatio_temporal_guidance="whether the last call asked for STG",
        do_modality_isolation_guidance="whether the last call asked for modality guidance",
    ),
    Word("enable_vae_tiling", "ignored", _TILES),
    Word("disable_vae_tiling", "ignored", _TILES),
    Word("enable_vae_slicing", "ignored", _TILES),
    Word("disable_vae_slicing", "ignored", _TILES),
    Word("enable_attention_slicing", "ignored", _ATTENTION),
    Word("disable_attention_slicing", "ignored", _ATTENTION),
    Word("set_attention_slice", "ignored", _ATTENTION),
    Word("enable_xformers_memory_efficient_attention", "ignored", _ATTENTION),
    Word("disable_xformers_memory_efficient_attention", "ignored", _ATTENTION),
    Word("set_use_memory_efficient_attention_xformers", "ignored", _ATTENTION),
    Word("enable_lora_hotswap", "ignored", "LoRAs are changed between two calls at no cost"),
    Word("set_lora_device", "ignored", "LoRAs are where the transformer is"),
    Word("encode_prompt", "refused", _NO_EMBEDS),
    Word("enhance_prompt", "refused", _NO_ENHANCER),
    Word("save_pretrained", "refused", "`soundstage models convert` writes a model"),
    Word("push_to_hub", "refused", "`hf upload` does that"),
    Word("download", "refused", "`soundstage models pull` does that"),
    Word("save_lora_weights", "refused", "no LoRA is trained here"),
    Word("lora_state_dict", "refused", "`soundstage.lora.files` reads LoRAs"),
    Word("load_lora_into_transformer", "refused", "load_lora_weights takes a file"),
    Word("check_inputs", "refused", "`ss.Request` and `stage.plan` check"),
    *(
        Word(name, "refused", _INNER)
        for name in (
            "prepare_latents",
            "prepare_audio_latents",
            "prepare_image_latents",
            "add_noise_to_image_conditioning_latents",
            "convert_velocity_to_x0",
            "convert_x0_to_velocity",
            "progress_bar",
            "numpy_to_pil",
            "preprocess_conditions",
            "apply_first_frame_conditioning",
            "apply_visual_conditioning",
            "trim_conditioning_sequence",
            "prepare_keyframe_extras",
            "prepare_reference_latents",
            "preprocess_reference_video",
            "get_timesteps",
            "adain_filter_latent",
            "tone_map_latents",
            "write_lora_layers",
            "pack_weights",
            "register_modules",
            "register_to_config",
            "register_for_auto_class",
            "from_config",
            "load_config",
            "save_config",
            "get_config_dict",
            "extract_init_dict",
            "to_json_file",
            "to_json_string",
            "parameters",
        )
    ),
)

PART_METHODS = by_name(
    *_mapped(
        to="`device`, `dtype`; memory_format is ignored with a notice",
        enable_layerwise_casting='of the transformer: `weights="fp8-cast"`',
        enable_group_offload='`residency="stream"`',
        from_pretrained="a part of a model, to be handed to from_pretrained of a pipeline",
        from_single_file="likewise, from a file",
        config="a dict",
    ),
    Word("enable_tiling", "ignored", _TILES),
    Word("disable_tiling", "ignored", _TILES),
    Word("enable_slicing", "ignored", _TILES),
    Word("disable_slicing", "ignored", _TILES),
    Word("set_attention_backend", "ignored", _ATTENTION),
    Word("reset_attention_backend", "ignored", _ATTENTION),
    Word("set_attn_processor", "ignored", _ATTENTION),
    Word("fuse_qkv_projections", "ignored", "Soundstage has its own fast paths"),
    Word("compile", "ignored", _FAST),
    Word("compile_repeated_blocks", "ignored", _FAST),
    Word("eval", "ignored", "nothing is trained here"),
    Word("requires_grad_", "ignored", "nothing is trained here"),
    *(
        Word(name, "refused", "its weights are within the engine, which reads them for each run")
        for name in (
            "parameters",
            "named_parameters",
            "modules",
            "named_modules",
            "state_dict",
            "load_state_dict",
            "num_parameters",
            "get_memory_footprint",
            "train",
        )
    ),
    *(
        Word(name, "refused", "the pipeline's to takes a device and a dtype")
        for name in ("cuda", "cpu", "half", "float", "bfloat16")
    ),
    Word("disable_cache", "refused", "a cache is used where the call gives one"),
    Word("enable_cache", "refused", 'give cache in the call, such as cache="first-block:0.1"'),
    Word("encode", "refused", "give an image, conditions or latents to a pipeline"),
    Word("decode", "refused", "give latents to a pipeline"),
    Word("forward", "refused", _INNER),
    Word("add_adapter", "refused", "load_lora_weights of the pipeline takes a file"),
    Word("load_lora_adapter", "refused", "load_lora_weights of the pipeline takes a file"),
    Word("save_pretrained", "refused", "`soundstage models convert` writes a model"),
)

# Names of diffusers' LTX family that have no counterpart.
ABSENT: Mapping[str, str] = {
    "LTX2HDRPipeline": "HDR is not there yet",
    "LTX2DFRPipeline": "the frame rate is raised by the recipe 'smooth'",
    "LTX2DFRTemporalRefinePipeline": "the frame rate is raised by the recipe 'smooth'",
    "LTX2VideoDiffusionDecodePipeline": "LTX-2.3 has no diffusion decoder",
    "LTX2VideoDiffusionDecoderModel": "LTX-2.3 has no diffusion decoder",
    "LTXI2VLongMultiPromptPipeline": "divide a long prompt by '|' or times: docs/timed-prompts.md",
    "LTX2ModularPipeline": "modular blocks are not there; LTX2Pipeline takes all that they take",
    "LTX25ModularPipeline": "modular blocks are not there; LTX2Pipeline takes all that they take",
    "LTXModularPipeline": "modular blocks are not there; LTX2Pipeline takes all that they take",
    "LTX2AutoBlocks": "modular blocks are not there; LTX2Pipeline takes all that they take",
    "LTX25AutoBlocks": "modular blocks are not there; LTX2Pipeline takes all that they take",
    "LTXAutoBlocks": "modular blocks are not there; LTX2Pipeline takes all that they take",
    "LTX2Guidance": "give guidance_scale and the other words of guidance in the call",
    **dict.fromkeys(
        (
            "PyramidAttentionBroadcastConfig",
            "FasterCacheConfig",
            "FirstBlockCacheConfig",
            "TaylorSeerCacheConfig",
            "MagCacheConfig",
            "apply_first_block_cache",
        ),
        'give cache in the call, such as cache="first-block:0.1": docs/sampling.md',
    ),
    "ModularPipeline": "modular blocks are not there; LTX2Pipeline takes all that they take",
    "ComponentsManager": "Soundstage places weights by itself",
}


def call_words() -> Iterable[Word]:
    """Return the arguments of a call, for the table of the docs."""
    return CALL.values()


def upsample_words() -> Iterable[Word]:
    """Return the arguments of the upsampling pipelines' call, for the table of the docs."""
    return UPSAMPLE_CALL.values()


def loading_words() -> Iterable[Word]:
    """Return the arguments of from_pretrained, for the table of the docs."""
    return LOADING.values()


def method_words() -> Iterable[Word]:
    """Return the methods and attributes of a pipeline, for the table of the docs."""
    return METHODS.values()


def part_words() -> Iterable[Word]:
    """Return the methods of a pipeline's parts, for the table of the docs."""
    return PART_METHODS.values()


def absent_words() -> Iterable[Word]:
    """Return the names that have no counterpart, for the table of the docs."""
    return [Word(name, "refused", becomes) for name, becomes in ABSENT.items()]
