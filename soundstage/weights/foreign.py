"""Recognise files made for another model or by another quantizer, by names and dtypes.

Only for the sentence that refuses it: what a file is called here is never read. Loads no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from soundstage.weights.entry import WeightsFile

# Quantizers by the last word in the names of tensors that only they store, the surest first.
_QUANTIZERS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"weight_scale_2"), "NVFP4"),
    (re.compile(r"pre_quant_scale"), "AWQ or NVFP4 (ComfyUI)"),
    (re.compile(r"_data|_scale|_shift|_qdata"), "quanto (as WanGP's int8 files are)"),
    (re.compile(r"bitsandbytes__(nf4|fp4)|absmax|quant_map|nested_absmax"), "bitsandbytes in 4 bits"),
    (re.compile(r"SCB|weight_format"), "bitsandbytes in 8 bits (LLM.int8)"),
    (re.compile(r"wscales|wtscale|smooth_factor(_orig)?|smooth"), "SVDQuant (nunchaku)"),
    (re.compile(r"g_idx"), "GPTQ"),
    (re.compile(r"qzeros"), "AWQ or GPTQ"),
    (re.compile(r"weight_packed|weight_zero_point"), "compressed-tensors (llm-compressor)"),
    (re.compile(r"weight_scale_inv"), "FP8 in blocks (weight_scale_inv)"),
    (re.compile(r"W_q"), "HQQ"),
    (re.compile(r"q_weight|q_scale_max|q_perm"), "EXL2"),
    (re.compile(r"qweight"), "GPTQ or AWQ"),
)

# How config.json names a quantizer -> how people call it.
_METHODS = {
    "quanto": "quanto",
    "bitsandbytes": "bitsandbytes",
    "bitsandbytes_4bit": "bitsandbytes in 4 bits",
    "bitsandbytes_8bit": "bitsandbytes in 8 bits",
    "gptq": "GPTQ",
    "awq": "AWQ",
    "modelopt": "ModelOpt (NVFP4 or FP8)",
}

# Other models by their modules. LoRAs write dots as underscores in some dialects.
_MODELS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"blocks[._]\d+[._]attn[._]qkv_[xy]\b"), "Mochi"),
    (re.compile(r"(^|\.|unet_|lycoris_)blocks[._]\d+[._](self_attn|cross_attn|ffn|attn1|attn2)[._]"), "Wan"),
    (re.compile(r"(double_blocks|single_blocks|single_transformer_blocks)[._]\d+[._]"),
     "Flux or HunyuanVideo"),
    (re.compile(r"joint_blocks[._]\d+[._]"), "Stable Diffusion 3"),
    (re.compile(r"transformer_blocks[._]\d+[._](img_mlp|txt_mlp|img_mod|txt_mod)[._]"), "Qwen-Image"),
    (re.compile(r"transformer_blocks[._]\d+[._]attn[._]"), "Flux, Stable Diffusion 3 or Qwen-Image"),
    (re.compile(r"(input_blocks|output_blocks|middle_block)[._]\d+|"
                r"(^|unet[._])(down_blocks|up_blocks|mid_block)[._](\d+[._])?attentions|"
                r"^(lora_te\d?_|te\d?[._])text_model"), "Stable Diffusion 1.5 or XL"),
    (re.compile(r"(noise_refiner|context_refiner)[._]\d+|(^|\.)layers\.\d+\.attention\."),
     "Lumina or Z-Image"),
    (re.compile(r"(^|\.)encoder\.block\.\d+\.layer\.|(^|\.)blocks\.\d+\.attn\.[qkvo]\.weight$"), "T5"),
    (re.compile(r"(^|\.)text_model\.encoder\.layers\.\d+"), "CLIP"),
    (re.compile(r"(^|[._])layers[._]\d+[._](self_attn|mlp)[._]"), "a language model"),
)  # fmt: skip
_FIRST_LTX = re.compile(r"transformer_blocks[._]\d+[._]attn1[._]to_[qkv][._]")
LOOKED_AT = 300  # names of a checkpoint, evenly spread
FIRST_LTX_WIDTH = 2048  # of LTX-Video 0.9 with 2 billion parameters


def quantizer_of(file: WeightsFile) -> tuple[str, str] | None:
    """Return the quantizer that wrote a file and the tensor that shows it; None if it is read here."""
    by_last_word = {name.rpartition(".")[2]: name for name in file.tensors if "." in name}
    for pattern, quantizer in _QUANTIZERS:
        for word, name in by_last_word.items():
            if pattern.fullmatch(word):
                return quantizer, name
    for name in file.tensors:
        if name.endswith(".comfy_quant") and (declared := _comfy_format(file, name)) is not None:
            return declared, name
    for key in ("quantization_format", "quant_method"):
        if key in file.metadata:
            return _METHODS.get(file.metadata[key].lower(), file.metadata[key]), key
    return None


def _comfy_format(file: WeightsFile, name: str) -> str | None:
    """NVFP4 or MXFP8, where ComfyUI's marker of a layer says so."""
    if file.tensors[name].num_bytes > 4096 or not file.path.is_file():
        return None
    text = file.read(name).lower()
    return next((kind.decode().upper() for kind in (b"nvfp4", b"mxfp8", b"mxfp4") if kind in text), None)


def quantizer_in_config(config: Any) -> str | None:
    """Return the quantizer that the content of a config.json names; None for one without."""
    stored = config.get("quantization_config") if isinstance(config, Mapping) else None
    if not isinstance(stored, Mapping):
        return None
    method = str(stored.get("quant_method", "a quantizer that it does not name")).lower()
    if method == "bitsandbytes":
        return f"bitsandbytes in {4 if stored.get('load_in_4bit') else 8} bits"
    return _METHODS.get(method, method)


def quantizer_beside(path: Path) -> str | None:
    """Return the quantizer that the config.json beside a file names; None without one or a damaged one."""
    try:
        return quantizer_in_config(json.loads((path.parent / "config.json").read_text()))
    except (OSError, ValueError, RecursionError):
        return None


def other_model(names: Iterable[str]) -> str | None:
    """Return the model that most of these names of tensors belong to; None for LTX's and for unknown ones."""
    names = list(names)
    names = names[:: -(-len(names) // LOOKED_AT) or 1]
    for pattern, model in _MODELS:
        if 2 * sum(pattern.search(name) is not None for name in names) > len(names):
            return model
    return None


def is_first_ltx(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether a LoRA is one of LTX-Video 0.9 (2B). shapes: by tensor name."""
    if any("audio" in name for name in shapes):
        return False
    queries = (shape for name, shape in shapes.items() if _FIRST_LTX.search(name) and len(shape) == 2)
    return any(FIRST_LTX_WIDTH in shape for shape in queries)
