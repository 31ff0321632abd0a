"""Small ComfyUI graphs of our own, in both forms that ComfyUI saves."""

from __future__ import annotations

import copy
from typing import Any

from soundstage.compat.comfy.nodes import NODES, widget_names

Prompt = dict[str, dict[str, Any]]

DISTILLED = "1., 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0"
REFINE = "0.909375, 0.725, 0.421875, 0.0"


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def one_pass(**changes: dict[str, Any]) -> Prompt:
    """Return a text-to-video graph with guidance, sound and one pass. changes: nodes, by number with an n."""
    graph = {
        "1": node("CheckpointLoaderSimple", ckpt_name="ltx-2.3-22b-dev.safetensors"),
        "2": node("LTXAVTextEncoderLoader", text_encoder="gemma.safetensors", ckpt_name="a.safetensors"),
        "3": node("CLIPTextEncode", text="A red ball bounces.", clip=["2", 0]),
        "4": node("CLIPTextEncode", text="blurry", clip=["2", 0]),
        "5": node("LTXVConditioning", frame_rate=24.0, positive=["3", 0], negative=["4", 0]),
        "6": node("EmptyLTXVLatentVideo", width=768, height=512, length=97, batch_size=1),
        "7": node("LTXVAudioVAELoader", ckpt_name="ltx-2.3-22b-dev.safetensors"),
        "8": node("LTXVEmptyLatentAudio", frames_number=97, frame_rate=24, batch_size=1, audio_vae=["7", 0]),
        "9": node("LTXVConcatAVLatent", video_latent=["6", 0], audio_latent=["8", 0]),
        "10": node("LTXVScheduler", steps=20, max_shift=2.05, base_shift=0.95, stretch=True, terminal=0.1),
        "11": node("KSamplerSelect", sampler_name="euler"),
        "12": node("RandomNoise", noise_seed=42),
        "13": node("CFGGuider", cfg=3.0, model=["1", 0], positive=["5", 0], negative=["5", 1]),
        "14": node(
            "SamplerCustomAdvanced",
            noise=["12", 0],
            guider=["13", 0],
            sampler=["11", 0],
            sigmas=["10", 0],
            latent_image=["9", 0],
        ),
        "15": node("LTXVSeparateAVLatent", av_latent=["14", 0]),
        "16": node("VAEDecodeTiled", samples=["15", 0], vae=["1", 2]),
        "17": node("LTXVAudioVAEDecode", samples=["15", 1], audio_vae=["7", 0]),
        "18": node("CreateVideo", fps=24.0, images=["16", 0], audio=["17", 0]),
        "19": node("SaveVideo", filename_prefix="out", format="auto", codec="auto", video=["18", 0]),
    }
    return graph | {name.removeprefix("n"): value for name, value in changes.items()}


def two_passes(strength: float = 1.0, refine: str = REFINE, **changes: dict[str, Any]) -> Prompt:
    """Return a graph of a distilled draft at half size and a refinement."""
    lora = "ltx-2.3-22b-distilled-lora-384-1.1.safetensors"
    graph = one_pass(
        n10=node("ManualSigmas", sigmas=DISTILLED),
        n13=node("CFGGuider", cfg=1.0, model=["20", 0], positive=["5", 0], negative=["5", 1]),
        n20=node("LoraLoaderModelOnly", lora_name=lora, strength_model=strength, model=["1", 0]),
        n21=node("LatentUpscaleModelLoader", model_name="ltx-2.3-spatial-upscaler-x2-1.1.safetensors"),
        n22=node("LTXVLatentUpsampler", samples=["15", 0], upscale_model=["21", 0], vae=["1", 2]),
        n23=node("LTXVConcatAVLatent", video_latent=["22", 0], audio_latent=["15", 1]),
        n24=node("ManualSigmas", sigmas=refine),
        n25=node("RandomNoise", noise_seed=7),
        n26=node("CFGGuider", cfg=1.0, model=["20", 0], positive=["5", 0], negative=["5", 1]),
        n27=node(
            "SamplerCustomAdvanced",
            noise=["25", 0],
            guider=["26", 0],
            sampler=["11", 0],
            sigmas=["24", 0],
            latent_image=["23", 0],
        ),
        n28=node("LTXVSeparateAVLatent", av_latent=["27", 0]),
        n16=node("VAEDecode", samples=["28", 0], vae=["1", 2]),
        n17=node("LTXVAudioVAEDecode", samples=["28", 1], audio_vae=["7", 0]),
    )
    return graph | {name.removeprefix("n"): value for name, value in changes.items()}


def with_guide(graph: Prompt, file: str, kind: str = "LTXVAddGuide", **values: Any) -> Prompt:
    """Return a graph with a picture between its empty latent and what reads it."""
    made = copy.deepcopy(graph)
    key = str(max(map(int, made)) + 1)
    source = made["9"]["inputs"]["video_latent"]
    load, squeeze = str(int(key) + 1), str(int(key) + 2)
    words = {} if "InPlace" in kind or "Inplace" in kind else {"positive": ["5", 0], "negative": ["5", 1]}
    made[key] = node(kind, **values, **words, vae=["1", 2], latent=source, image=[squeeze, 0])
    made[load] = node("LoadImage", image=file)
    made[squeeze] = node("LTXVPreprocess", img_compression=18, image=[load, 0])
    made["9"]["inputs"]["video_latent"] = [key, len(NODES[kind].through) - 1]
    return made


def as_editor(graph: Prompt) -> dict[str, Any]:
    """Return the form of the editor of a graph that is run: values without names, numbered links."""
    links: list[list[Any]] = []
    nodes = []
    for key, entry in graph.items():
        kind, given = entry["class_type"], entry["inputs"]
        inputs: list[dict[str, Any]] = []
        for name, value in given.items():
            if isinstance(value, list):
                links.append([len(links) + 1, int(value[0]), value[1], int(key), len(inputs), "*"])
                inputs.append({"name": name, "type": "*", "link": len(links)})
        names = widget_names(kind, [value for value in given.values() if not isinstance(value, list)])
        values = [None if isinstance(given.get(name), list) else given.get(name) for name in names]
        if "seed" in " ".join(names):
            values.insert(1, "randomize")
        nodes.append({"id": int(key), "type": kind, "mode": 0, "inputs": inputs, "widgets_values": values})
    return {"nodes": nodes, "links": links, "version": 0.4}


def as_subgraph(graph: Prompt, *, prompt: str) -> dict[str, Any]:
    """Return the editor's form with all but the saving node in a subgraph that takes the prompt."""
    flat = as_editor(graph)
    inner = [one for one in flat["nodes"] if one["type"] != "SaveVideo"]
    save = next(one for one in flat["nodes"] if one["type"] == "SaveVideo")
    text = next(one for one in inner if one["id"] == 3)
    text["inputs"].append({"name": "text", "type": "STRING", "link": 900, "widget": {"name": "text"}})
    ends = next(link for link in flat["links"] if link[3] == save["id"])
    held = [dict(zip(_LINK, link, strict=True)) for link in flat["links"] if link is not ends]
    held.append(
        {"id": 900, "origin_id": -10, "origin_slot": 0, "target_id": 3, "target_slot": 1, "type": "STRING"}
    )
    held.append({"id": 901, "origin_id": ends[1], "origin_slot": ends[2], "target_id": -20, "target_slot": 0})
    kind = {
        "id": "0a1b2c3d",
        "name": "Text to video",
        "nodes": inner,
        "links": held,
        "inputs": [{"name": "text", "type": "STRING", "linkIds": [900]}],
        "outputs": [{"name": "VIDEO", "type": "VIDEO", "linkIds": [901]}],
    }
    outer = {"id": 100, "type": "0a1b2c3d", "mode": 0, "inputs": [], "widgets_values": [prompt]}
    save["inputs"][0]["link"] = 1
    return {
        "nodes": [outer, save],
        "links": [[1, 100, 0, save["id"], 0, "VIDEO"]],
        "definitions": {"subgraphs": [kind]},
    }


_LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
