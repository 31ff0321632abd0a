"""Names of Gemma 3's weights: Hugging Face's, those of single files, llama.cpp's in GGUF."""

from __future__ import annotations

import re
from collections.abc import Collection

# In the order in which they are tried. Hugging Face files, transformers' modules, the text model alone.
GEMMA_PREFIXES = ("language_model.model.", "model.language_model.", "model.")
# The vision half, the tied output layer, and the tokenizer that some single files carry.
GEMMA_UNUSED = re.compile(
    r"(model\.)?(vision_tower|vision_model|multi_modal_projector)\.|(language_model\.)?lm_head\.|spiece_model$"
)
SPIECE = "spiece_model"  # the bytes of tokenizer.model, in a single file made for ComfyUI

# llama.cpp's names in a GGUF file -> ours. Its norms hold 1 + weight.
_LLAMA_CPP_TOP = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}
_LLAMA_CPP_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_LLAMA_CPP_BLOCK = re.compile(r"^blk\.(\d+)\.(\w+)\.weight$")


def is_gemma(names: Collection[str]) -> bool:
    """Return whether a checkpoint's names are those of a Gemma language model, in any spelling."""
    return any(name.endswith(("embed_tokens.weight", "token_embd.weight")) for name in names) or any(
        name.startswith(GEMMA_PREFIXES) and ".layers." in name for name in names
    )


def gemma_key(name: str) -> str | None:
    """Return the name in Gemma3TextModel of a tensor in any spelling; None for one that it does not have."""
    if name in _LLAMA_CPP_TOP:
        return _LLAMA_CPP_TOP[name]
    block = _LLAMA_CPP_BLOCK.match(name)
    if block is not None:
        module = _LLAMA_CPP_LAYER.get(block[2])
        return None if module is None else f"layers.{block[1]}.{module}.weight"
    prefix = next((p for p in GEMMA_PREFIXES if name.startswith(p)), None)
    return None if prefix is None else name.removeprefix(prefix)
