"""Soundstage's nodes for ComfyUI: link this folder into ComfyUI's custom_nodes (docs/comfyui.md)."""

from .inputs import GuideNode, LoraNode, OptionsNode, ReferenceNode, SoundNode, SourceNode, TakeNode
from .making import DecodeNode, GenerateNode, ModelNode, ServerNode, UpscaleNode

_NODES = {
    "Model": (ModelNode, "Model"),
    "Server": (ServerNode, "Server"),
    "Generate": (GenerateNode, "Generate"),
    "Guide": (GuideNode, "Picture Guide"),
    "Reference": (ReferenceNode, "Reference Clip"),
    "Sound": (SoundNode, "Sound"),
    "Lora": (LoraNode, "LoRA"),
    "Source": (SourceNode, "Source: Retake, Extend, Restyle"),
    "Upscale": (UpscaleNode, "Upscale"),
    "Take": (TakeNode, "Long Take"),
    "Options": (OptionsNode, "Options"),
    "Decode": (DecodeNode, "Decode Latents"),
}
NODE_CLASS_MAPPINGS = {f"Soundstage{name}": node for name, (node, _) in _NODES.items()}
NODE_DISPLAY_NAME_MAPPINGS = {
    f"Soundstage{name}": f"Soundstage {title}" for name, (_, title) in _NODES.items()
}
__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
