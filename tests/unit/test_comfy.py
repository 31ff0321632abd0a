"""ComfyUI workflows become requests: both forms, every kind of file, the same numbers, and honest notes."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, PngImagePlugin

import soundstage as ss
from soundstage.cli.main import app
from soundstage.compat.comfy.levels import simple_levels
from soundstage.compat.comfy.nodes import NODES, with_nodes
from soundstage.compat.comfy.values import expression
from soundstage.compat.comfy.workflow import Workflow, import_workflow
from soundstage.request.recipes import read_recipe, recipe_named
from soundstage.sampling import schedules
from tests.comfy_graphs import (
    DISTILLED,
    REFINE,
    Prompt,
    as_editor,
    as_subgraph,
    node,
    one_pass,
    two_passes,
    with_guide,
)

ROOT = Path(__file__).parents[2]


def read(tmp_path: Path, graph: Any, **options: Any) -> Workflow:
    file = tmp_path / "graph.json"
    file.write_text(json.dumps(graph))
    return import_workflow(file, **options)


def left(found: Workflow) -> list[str]:
    return [str(note) for note in found.notes if not note.carried]


def png(path: Path, size: tuple[int, int] = (64, 32), **texts: str) -> Path:
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    Image.new("RGB", size, "red").save(path, pnginfo=info)
    return path


def film(path: Path, **tags: str) -> None:
    """Write a clip with metadata, as ComfyUI's nodes do."""
    with av.open(path, "w", options={"movflags": "use_metadata_tags"}) as container:
        container.metadata.update(tags)
        stream = container.add_stream("vp9" if path.suffix == ".webm" else "mpeg4", rate=24)
        stream.width = stream.height = 64
        for packet in stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")):
            container.mux(packet)
        container.mux(stream.encode())


def test_one_pass_becomes_the_fields_of_a_request(tmp_path: Path) -> None:
    found = read(tmp_path, one_pass())
    assert found.recipe is None
    assert found.to_dict() == {
        "prompt": "A red ball bounces.",
        "negative_prompt": "blurry",
        "size": [768, 512],
        "num_frames": 97,
        "fps": 24.0,
        "seed": 42,
        "schedule": "ltx2",
        "steps": 20,
        "sampler": "euler",
        "guidance": 3.0,
        "stg": 0.0,
        "modality_guidance": 1.0,
        "rescale": 0.0,
        "recipe": "single",
    }
    assert set(found.models) == {"ltx-2.3-22b-dev.safetensors", "gemma.safetensors", "a.safetensors"}
    assert left(found) == ["ComfyUI draws its noise otherwise: the same seed makes another clip here"]


@pytest.mark.parametrize("graph", [one_pass(), two_passes(), two_passes(0.5, "0.85, 0.725, 0.4219, 0")])
def test_both_forms_and_subgraphs_give_one_request(tmp_path: Path, graph: Prompt) -> None:
    run = read(tmp_path, graph)
    edited = read(tmp_path, as_editor(graph))
    nested = read(tmp_path, as_subgraph(graph, prompt="A blue cube."))
    assert edited.request == run.request
    assert edited.recipe == run.recipe == nested.recipe
    assert nested.request == run.request.model_copy(update={"prompt": "A blue cube."})


def test_passes_with_a_shipped_recipes_numbers_are_that_recipe(tmp_path: Path) -> None:
    found = read(tmp_path, two_passes())
    assert found.request.recipe == "fast"
    assert found.request.size == (1536, 1024)
    assert found.request.negative_prompt is None
    assert "the negative prompt is left out, as nothing reads it at guidance 1" in left(found)
    dev = two_passes(n10=one_pass()["10"])
    dev["10"]["inputs"]["steps"] = 30
    parameters = {"cfg": 3.0, "stg": 1.0, "perturb_attn": True, "rescale": 0.7, "modality_scale": 3.0}
    rest = {"skip_step": 0, "cross_attn": True}
    dev["40"] = node("GuiderParameters", modality="VIDEO", **parameters, **rest)
    dev["41"] = node(
        "GuiderParameters", modality="AUDIO", **parameters | {"cfg": 7.0}, **rest, parameters=["40", 0]
    )
    words: dict[str, Any] = {"positive": ["5", 0], "negative": ["5", 1]}
    dev["13"] = node("MultimodalGuider", skip_blocks="28", model=["1", 0], parameters=["41", 0], **words)
    dev["17"]["inputs"]["samples"] = ["15", 1]
    pro = read(tmp_path, dev)
    assert pro.request.recipe == "pro"
    assert pro.request.negative_prompt == "blurry"


def test_each_pass_has_its_strength_of_guides(tmp_path: Path) -> None:
    graph = with_guide(two_passes(), "a.png", "LTXVImgToVideoInplace", strength=0.7, bypass=False)
    found = read(tmp_path, graph)
    assert found.recipe is not None
    assert [one.guides for one in found.recipe.passes] == ["as asked", "none"]
    graph["50"] = node(
        "LTXVImgToVideoInplace", strength=1.0, bypass=False, vae=["1", 2], latent=["22", 0], image=["31", 0]
    )
    graph["23"]["inputs"]["video_latent"] = ["50", 0]
    found = read(tmp_path, graph)
    assert found.request.guides[0].strength == 0.7
    assert found.recipe is not None
    assert [one.guide_strength for one in found.recipe.passes] == [None, 1.0]
    graph["50"]["inputs"]["strength"] = 0.7
    assert read(tmp_path, graph).request.recipe == "fast"


def test_nodes_with_several_pictures_give_a_guide_for_each(tmp_path: Path) -> None:
    Image.new("RGB", (800, 1200)).save(tmp_path / "a.png")
    graph = one_pass()
    graph["30"] = node("LoadImage", image="a.png")
    graph["31"] = node(
        "ImageResizeKJv2", width=640, height=960, keep_proportion="resize", divisible_by=32, image=["30", 0]
    )
    graph["6"]["inputs"] |= {"width": ["31", 1], "height": ["31", 2]}
    graph["33"] = node("LTXVAddGuideMulti", num_guides="2", positive=["5", 0], negative=["5", 1])
    for i, (frame, strength) in enumerate(((0, 1.0), (48, 0.5)), 1):
        graph["33"]["inputs"] |= {
            f"num_guides.{name}_{i}": value
            for name, value in {"image": ["31", 0], "frame_idx": frame, "strength": strength}.items()
        }
    graph["33"]["inputs"]["latent"] = ["6", 0]
    graph["9"]["inputs"]["video_latent"] = ["33", 2]
    found = read(tmp_path, graph)
    assert found.request.size == (640, 960)
    assert [(one.frame, one.strength, one.attention, one.mode) for one in found.request.guides] == [
        (0, 1.0, 1.0, "guide"),
        (48, 0.5, 0.5, "guide"),
    ]
    assert read(tmp_path, as_editor(graph)).request == found.request
    graph["33"] = node("LTXVImgToVideoInplaceKJ", num_images="2", latent=["6", 0])
    for i, index in enumerate((0, 40), 1):
        graph["33"]["inputs"] |= {
            f"num_images.{name}_{i}": value
            for name, value in {"image": ["31", 0], "index": index, "strength": 0.8}.items()
        }
    graph["9"]["inputs"]["video_latent"] = ["33", 0]
    placed = [(one.frame, one.mode) for one in read(tmp_path, graph).request.guides]
    assert placed == [(0, "replace"), (33, "replace")]  # latent 5 holds frames 33 to 40


def test_patches_of_speed_are_passed_over_and_nag_is_guidance(tmp_path: Path) -> None:
    graph = one_pass()
    graph["13"]["inputs"] |= {"cfg": 1.0, "model": ["42", 0]}
    graph["40"] = node("LTXVChunkFeedForward", chunks=2, model=["1", 0])
    graph["41"] = node("PathchSageAttentionKJ", sage_attention="auto", model=["40", 0])
    graph["43"] = node("CLIPTextEncode", text="static", clip=["2", 0])
    graph["42"] = node(
        "LTX2_NAG", nag_scale=9.0, nag_alpha=0.2, nag_tau=2.0, model=["41", 0], nag_cond_video=["43", 0]
    )
    found = read(tmp_path, graph)
    assert found.request.video_scales["nag"] == 9.0
    assert found.request.video_scales["nag_alpha"] == 0.2
    assert found.request.audio_scales.get("nag", 0) == 0
    assert found.request.negative_prompt == "static"
    assert len(left(found)) == 1
    graph["13"]["inputs"]["cfg"] = 3.0
    assert any("NAG has another text" in text for text in left(read(tmp_path, graph)))


def test_a_seed_below_0_is_drawn(tmp_path: Path) -> None:
    graph = one_pass(n50=node("Seed (rgthree)", seed=-1))
    graph["12"]["inputs"]["noise_seed"] = ["50", 0]
    found = read(tmp_path, graph)
    assert "seed" not in found.to_dict()
    assert any("drawn for each run" in text for text in left(found))


def from_clip() -> Prompt:
    """Return a graph that makes a clip anew from a noise level below 1, and keeps its sound."""
    graph = one_pass(n10=node("ManualSigmas", sigmas=REFINE))
    graph["30"] = node("LoadVideo", file="a.mp4")
    graph["31"] = node("GetVideoComponents", video=["30", 0])
    graph["32"] = node("ImageScale", upscale_method="lanczos", width=320, height=192, image=["31", 0])
    graph["33"] = node("VAEEncode", pixels=["32", 0], vae=["1", 2])
    graph["14"]["inputs"]["latent_image"] = ["33", 0]
    graph["16"]["inputs"]["samples"] = ["14", 0]
    graph["18"]["inputs"]["audio"] = ["31", 1]
    return graph


def test_a_clip_that_is_encoded_is_what_the_first_pass_starts_from(tmp_path: Path) -> None:
    found = read(tmp_path, from_clip())
    assert found.recipe is not None
    assert found.recipe.passes[0].start == "source"
    assert found.request.size == (320, 192)
    assert found.request.modalities == {"video", "audio"}
    assert found.request.source is not None
    assert found.request.source.modalities == {"video"}
    beside = from_clip()
    beside["34"] = node("LoadAudio", audio="b.wav")
    beside["18"]["inputs"]["audio"] = ["34", 0]
    found = read(tmp_path, beside)
    assert found.request.modalities == {"video"}
    assert "the sound of b.wav, put beside the finished clip, is not carried" in left(found)


def test_what_is_cut_from_a_clip_is_noted(tmp_path: Path) -> None:
    graph = from_clip()
    graph["30"] = node("VHS_LoadVideo", video="a.mp4", skip_first_frames=10, select_every_nth=1, force_rate=0)
    graph["32"]["inputs"]["image"] = ["30", 0]
    told = " ".join(left(read(tmp_path, graph)))
    assert "skip_first_frames is not carried" in told
    assert "select_every_nth" not in told


def in_two_parts(cfg: float = 1.0, sampler: str = "euler") -> Prompt:
    """Return one denoising by two nodes: the second goes on without noise of its own."""
    graph = one_pass(n10=node("ManualSigmas", sigmas=DISTILLED))
    graph["30"] = node("SplitSigmas", step=5, sigmas=["10", 0])
    graph["14"]["inputs"]["sigmas"] = ["30", 0]
    graph["31"] = node("DisableNoise")
    graph["32"] = node("KSamplerSelect", sampler_name=sampler)
    graph["33"] = node("CFGGuider", cfg=cfg, model=["1", 0], positive=["5", 0], negative=["5", 1])
    given = {"noise": ["31", 0], "guider": ["33", 0], "sampler": ["32", 0], "sigmas": ["30", 1]}
    graph["34"] = node("SamplerCustomAdvanced", **given, latent_image=["14", 0])
    graph["15"]["inputs"]["av_latent"] = ["34", 0]
    return graph


@pytest.mark.parametrize(
    ("kind", "values", "told"),
    [
        ("LTXVScheduler", {"steps": 20, "max_shift": 1e308}, "noise levels cannot be"),
        ("LTXVScheduler", {"steps": 10**18, "max_shift": 2.05, "base_shift": 0.95}, "steps cannot be run"),
        ("BasicScheduler", {"scheduler": "simple", "steps": 8, "denoise": 1e-300}, "cannot be worked out"),
        ("BasicScheduler", {"scheduler": "beta", "steps": 8, "denoise": 1e-300}, "denoise"),
    ],
)
def test_levels_out_of_range_are_noted(tmp_path: Path, kind: str, values: dict[str, Any], told: str) -> None:
    assert any(told in text for text in left(read(tmp_path, one_pass(n10=node(kind, **values)))))


def test_parts_of_one_denoising_are_one_pass(tmp_path: Path) -> None:
    whole = read(tmp_path, one_pass(n10=node("ManualSigmas", sigmas=DISTILLED)))
    found = read(tmp_path, in_two_parts(cfg=3.0))
    assert found.request == whole.request
    assert len(left(found)) == 1
    changed = read(tmp_path, in_two_parts(cfg=1.0))
    assert changed.request.sigmas == whole.request.sigmas
    assert changed.request.video_scales["cfg"] == 3.0
    assert changed.request.video_scales["0.909375"] == {"cfg": 1.0}
    graph = in_two_parts(cfg=1.0)
    graph["40"] = node("LoraLoaderModelOnly", lora_name="distilled_lora", strength_model=0.5, model=["1", 0])
    for guider in ("13", "33"):
        graph[guider]["inputs"]["model"] = ["40", 0]
    recipe = read(tmp_path, graph).recipe  # the same guidance by noise level, in a recipe
    assert recipe is not None
    assert isinstance(recipe.passes[0].video, Mapping)
    assert set(recipe.passes[0].video) == {1.0, 0.909375}
    other = left(read(tmp_path, in_two_parts(sampler="res_2s")))
    assert any("a pass without noise of its own is not carried" in text for text in other)
    assert any("its noise levels cannot be run" in text for text in other)


def dubbed() -> Prompt:
    """Return two passes over a reference, with its sound as the voice of the first."""
    words: dict[str, Any] = {"positive": ["5", 0], "negative": ["5", 1]}
    clip: dict[str, Any] = {
        "strength": 1.0,
        "crop": "center",
        "vae": ["1", 2],
        "image": ["31", 0],
        "frame_idx": 0,
    }
    return two_passes(
        n30=node("LoadVideo", file="a.mp4"),
        n31=node("GetVideoComponents", video=["30", 0]),
        n32=node("LTXAddVideoICLoRAGuide", latent=["6", 0], **words, **clip),
        n9=node("LTXVConcatAVLatent", video_latent=["32", 2], audio_latent=["8", 0]),
        n33=node("LTXVAudioVAEEncode", audio=["31", 1], audio_vae=["7", 0]),
        n34=node("LTXVSetAudioRefTokens", audio_latent=["33", 0], **words),
        n13=node("CFGGuider", cfg=1.0, model=["20", 0], positive=["34", 0], negative=["34", 1]),
        n35=node("LTXVSetAudioRefTokens", audio_latent=["15", 1], **words),
        n36=node("LTXAddVideoICLoRAGuide", latent=["22", 0], **words, **clip),
        n23=node("LTXVConcatAVLatent", video_latent=["36", 2], audio_latent=["35", 2]),
        n26=node("CFGGuider", cfg=1.0, model=["20", 0], positive=["35", 0], negative=["35", 1]),
    )


def test_a_dub_is_the_recipe_of_that_name(tmp_path: Path) -> None:
    request = read(tmp_path, dubbed()).request
    assert request.recipe == "dub"
    assert request.audio == ss.Audio("a.mp4", "identity", guidance=0.0)
    assert [clip.video for clip in request.references] == ["a.mp4"]


def test_files_of_other_generations_are_noted(tmp_path: Path) -> None:
    old = one_pass(n1=node("CheckpointLoaderSimple", ckpt_name="ltx-2-19b-dev-fp8.safetensors"))
    assert any("is of LTX 2; a request runs on LTX-2.3" in line for line in left(read(tmp_path, old)))


def test_other_passes_become_a_recipe_with_their_numbers(tmp_path: Path) -> None:
    found = read(tmp_path, two_passes(0.5, "0.85, 0.725, 0.4219, 0"))
    assert found.recipe is not None
    draft, refine = found.recipe.passes
    assert (draft.scale, draft.sigmas, draft.loras) == ("1/2", schedules.DISTILLED, (("distilled", 0.5),))
    assert (refine.start, refine.upsample, refine.sigmas) == (
        "previous",
        ("space-x2",),
        (0.85, 0.725, 0.4219, 0.0),
    )
    assert any("like fast but for" in str(note) for note in found.notes)
    path = found.save(tmp_path / "request.json")
    fields = json.loads(path.read_text())
    assert read_recipe(Path(fields["recipe"])).passes == found.recipe.passes
    assert ss.Request(**fields) == found.request.model_copy(update={"recipe": fields["recipe"]})


def test_a_workflow_is_planned_by_nano(tmp_path: Path) -> None:
    """Each pass at its size, its guides in the draft alone, or with another strength in the refinement."""
    picture = str(png(tmp_path / "a.png"))
    graph = with_guide(two_passes(0.5), picture, "LTXVImgToVideoInplace", strength=0.7, bypass=False)
    graph["6"] = node("EmptyLTXVLatentVideo", width=96, height=64, length=17, batch_size=1)
    assert strengths_planned(tmp_path, graph) == [((96, 64), [0.7]), ((192, 128), [])]
    words: dict[str, Any] = {"vae": ["1", 2], "latent": ["22", 0], "image": ["31", 0], "bypass": False}
    graph["50"] = node("LTXVImgToVideoInplace", strength=1.0, **words)
    graph["23"]["inputs"]["video_latent"] = ["50", 0]
    assert strengths_planned(tmp_path, graph) == [((96, 64), [0.7]), ((192, 128), [1.0])]


def strengths_planned(tmp_path: Path, graph: Prompt) -> list[tuple[tuple[int, int], list[float]]]:
    """Return size and strengths of guides of each pass, as the command plans them."""
    path = read(tmp_path, graph).save(tmp_path / "request.json")
    shown = CliRunner().invoke(app, ["generate", "--prompts", str(path), "--plan", "--json"])
    assert shown.exit_code == 0, shown.output
    passes = json.loads(shown.stdout)["passes"]
    return [((p["width"], p["height"]), [c["strength"] for c in p["conditions"]]) for p in passes]


def test_the_ltx_scheduler_is_repeated_for_any_tokens_and_shifts(tmp_path: Path) -> None:
    graph = one_pass()
    graph["10"] = node(
        "LTXVScheduler", steps=9, max_shift=1.9, base_shift=0.8, stretch=True, terminal=0.2, latent=["6", 0]
    )
    tokens = 13 * 24 * 16
    shift = math.exp(0.8 + (tokens - 1024) * 1.1 / 3072)
    raw = [shift / (shift + 1 / (1 - i / 9) - 1) for i in range(9)]
    wanted = [1 - (1 - one) * 0.8 / (1 - raw[-1]) for one in raw]
    sigmas = read(tmp_path, graph).request.sigmas
    assert sigmas is not None
    assert sigmas == pytest.approx([*wanted, 0.0], abs=1e-12)
    graph["10"]["inputs"]["stretch"] = False
    assert read(tmp_path, graph).request.sigmas == pytest.approx([*raw, 0.0], abs=1e-12)


def test_the_simple_scheduler_takes_every_nth_level_of_its_table(tmp_path: Path) -> None:
    table = [schedules.shifted((i + 1) / 10_000) for i in range(10_000)]
    wanted = [table[-(1 + int(i * len(table) / 7))] for i in range(7)]
    assert simple_levels(7, 1.0, schedules.BETA_SHIFT) == pytest.approx([*wanted, 0.0])
    assert len(simple_levels(4, 0.5, schedules.BETA_SHIFT)) == 5
    graph = one_pass(n10=node("BasicScheduler", scheduler="simple", steps=7, denoise=1.0, model=["1", 0]))
    assert read(tmp_path, graph).request.sigmas == pytest.approx([*wanted, 0.0])
    graph["10"]["inputs"]["scheduler"] = "linear_quadratic"
    assert read(tmp_path, graph).request.schedule == "linear-quadratic"


def test_samplers_have_their_names_and_unknown_ones_a_note(tmp_path: Path) -> None:
    names = {"euler_ancestral_cfg_pp": "euler-ancestral-cfg-pp", "res_2s": "res2s", "er_sde": "er-sde"}
    for theirs, ours in names.items():
        found = read(tmp_path, one_pass(n11=node("KSamplerSelect", sampler_name=theirs)))
        assert found.request.sampler == ours
    found = read(tmp_path, one_pass(n11=node("KSamplerSelect", sampler_name="uni_pc")))
    assert found.request.sampler == "euler"
    assert any("sampler is 'uni_pc'" in line and "euler is taken" in line for line in left(found))
    assert (
        read(tmp_path, one_pass(n11=node("SamplerEulerAncestral", eta=0, s_noise=1))).request.sampler
        == "euler"
    )


def test_guides_stand_where_comfyui_puts_them(tmp_path: Path) -> None:
    picture = png(tmp_path / "a.png")
    graph = with_guide(one_pass(), "a.png", "LTXVImgToVideoInplace", strength=0.7, bypass=False)
    graph = with_guide(graph, "a.png", frame_idx=-1, strength=1.0)
    graph = with_guide(graph, "clip.mp4", frame_idx=30, strength=0.5)
    found = read(tmp_path, graph)
    assert [(g.image, g.frame, g.mode, g.strength, g.crf, g.attention) for g in found.request.guides] == [
        (str(picture), 0, "replace", 0.7, 18, 1.0),
        (str(picture), -1, "guide", 1.0, 18, 1.0),
        ("clip.mp4", 25, "guide", 0.5, 18, 0.5),
    ]
    assert any("the file 'clip.mp4' is not here" in line for line in left(found))


def test_bypassed_muted_and_switched_off_pictures_are_not_given(tmp_path: Path) -> None:
    graph = with_guide(one_pass(), "a.png", "LTXVImgToVideoInplace", strength=0.7, bypass=True)
    assert read(tmp_path, graph).request.guides == ()
    graph = with_guide(one_pass(), "a.png", "LTXVImgToVideoInplace", strength=0.7, bypass=False)
    edited = as_editor(graph)
    guide = next(one for one in edited["nodes"] if one["type"] == "LTXVImgToVideoInplace")
    guide["outputs"] = [{"name": "latent", "type": "LATENT"}]
    for slot in guide["inputs"]:
        slot["type"] = {"latent": "LATENT", "vae": "VAE", "image": "IMAGE"}[slot["name"]]
    guide["mode"] = 4
    bypassed = read(tmp_path, edited)
    assert (bypassed.request.guides, bypassed.request.size) == ((), (768, 512))
    guide["mode"] = 2
    muted = read(tmp_path, edited)
    assert (muted.request.guides, muted.request.size) == ((), None)


def test_reroutes_primitives_and_set_and_get_nodes_are_followed(tmp_path: Path) -> None:
    edited = as_editor(one_pass())
    nodes, links = edited["nodes"], edited["links"]
    noise = next(one for one in nodes if one["type"] == "RandomNoise")
    noise["inputs"].append(
        {"name": "noise_seed", "type": "INT", "link": 201, "widget": {"name": "noise_seed"}}
    )
    nodes += [
        {"id": 50, "type": "PrimitiveNode", "mode": 0, "widgets_values": [99, "fixed"]},
        {"id": 51, "type": "Reroute", "mode": 0, "inputs": [{"name": "", "type": "*", "link": 200}]},
        {
            "id": 52,
            "type": "SetNode",
            "inputs": [{"name": "MODEL", "link": 202}],
            "widgets_values": ["model"],
        },
        {"id": 53, "type": "GetNode", "inputs": [], "widgets_values": ["model"]},
    ]
    links += [[200, 50, 0, 51, 0, "INT"], [201, 51, 0, 12, 0, "INT"], [202, 1, 0, 52, 0, "MODEL"]]
    model = next(link for link in links if link[1] == 1 and link[3] == 13)
    model[1:3] = [53, 0]
    found = read(tmp_path, edited)
    assert found.request.seed == 99
    assert "ltx-2.3-22b-dev.safetensors" in found.models


def test_numbers_of_other_nodes_are_worked_out(tmp_path: Path) -> None:
    graph = one_pass(
        n6=node("EmptyLTXVLatentVideo", width=["30", 1], height=["33", 1], length=["31", 1], batch_size=1),
        n30=node("ComfyMathExpression", expression="a/2 + 32", **{"values.a": ["32", 0]}),
        n31=node("ComfyMathExpression", expression="a * b + 1", **{"values.a": 5, "values.b": 24.9}),
        n32=node("PrimitiveInt", value=1280),
        n33=node("GetImageSize", image=["34", 0]),
        n34=node("ImageScaleBy", upscale_method="area", scale_by=0.5, image=["35", 0]),
        n35=node("EmptyImage", width=1280, height=720, batch_size=1, color=0),
    )
    request = read(tmp_path, graph).request
    assert (request.size, request.num_frames) == ((672, 352), 121)
    assert expression("(int((a - 1) / 8)) * 8 + 1", {"a": 100}) == 97
    for bad in ("__import__('os')", "a.b", "9**9", "(1).real", "1" * 600):
        with pytest.raises(ValueError, match=r"no part of a sum|too long"):
            expression(bad, {"a": 1})


def test_sounds_lead_or_lend_their_voice(tmp_path: Path) -> None:
    driven = one_pass(
        n8=node("SetLatentNoiseMask", samples=["60", 0], mask=["62", 0]),
        n60=node("LTXVAudioVAEEncode", audio=["61", 0], audio_vae=["7", 0]),
        n61=node("TrimAudioDuration", start_index=1.5, duration=4, audio=["63", 0]),
        n62=node("SolidMask", value=0, width=8, height=8),
        n63=node("LoadAudio", audio="beat.wav"),
    )
    assert read(tmp_path, driven).request.audio == ss.Audio("beat.wav", "driving", 1.5)
    driven["62"]["inputs"]["value"] = 1
    found = read(tmp_path, driven)
    assert found.request.audio is None
    assert any("noise takes its place" in line for line in left(found))
    voiced = one_pass(n63=node("LoadAudio", audio="voice.wav"))
    words: dict[str, Any] = {"positive": ["5", 0], "negative": ["5", 1]}
    voiced["64"] = node(
        "LTXVReferenceAudio", model=["1", 0], reference_audio=["63", 0], identity_guidance_scale=2.5, **words
    )
    voiced["13"] = node("CFGGuider", cfg=3.0, model=["64", 0], positive=["64", 1], negative=["64", 2])
    request = read(tmp_path, voiced).request
    assert request.audio == ss.Audio("voice.wav", "identity", guidance=2.5)
    assert (request.prompt, request.fps) == ("A red ball bounces.", 24.0)


def test_an_in_context_lora_brings_its_reference(tmp_path: Path) -> None:
    graph = with_guide(
        one_pass(
            n20=node(
                "LTXICLoRALoaderModelOnly",
                lora_name="ic-pose.safetensors",
                strength_model=0.9,
                model=["1", 0],
            )
        ),
        "pose.mp4",
        "LTXAddVideoICLoRAGuide",
        frame_idx=0,
        strength=0.8,
        latent_downscale_factor=2,
        crop="disabled",
    )
    graph["13"]["inputs"]["model"] = ["20", 0]
    request = read(tmp_path, graph).request
    assert request.references == (ss.Reference("pose.mp4", 0.8, downscale=2, crop="stretch"),)
    assert request.loras == (ss.Lora("ic-pose.safetensors", 0.9),)
    several = [
        {},
        {"on": True, "lora": "a.safetensors", "strength": 0.5},
        {"on": False, "lora": "b.safetensors"},
    ]
    edited = as_editor(one_pass(n20=node("Power Lora Loader (rgthree)", model=["1", 0])))
    next(one for one in edited["nodes"] if one["id"] == 20)["widgets_values"] = several
    next(link for link in edited["links"] if link[1] == 1 and link[3] == 13)[1] = 20
    assert read(tmp_path, edited).request.loras == (ss.Lora("a.safetensors", 0.5),)


def test_a_time_mask_regenerates_a_part_of_a_clip(tmp_path: Path) -> None:
    graph = one_pass(
        n70=node("LoadVideo", file="a.mp4"),
        n71=node("GetVideoComponents", video=["70", 0]),
        n6=node("VAEEncode", pixels=["71", 0], vae=["1", 2]),
        n8=node("LTXVAudioVAEEncode", audio=["71", 1], audio_vae=["7", 0]),
        n72=node(
            "LTXVSetAudioVideoMaskByTime", av_latent=["9", 0], start_time=1.0, end_time=2.5, mask_audio=False
        ),
    )
    graph["14"]["inputs"]["latent_image"] = ["72", 2]
    request = read(tmp_path, graph).request
    assert request.source == ss.Source(
        "a.mp4", regenerate=(ss.Span(1, 2.5),), modalities=frozenset({"video"})
    )
    assert request.audio is None


def test_sound_alone_and_picture_alone_are_told_by_what_is_saved(tmp_path: Path) -> None:
    sound = one_pass(
        n6=node("LTXVAudioOnlyEmptyVideoLatent"), n19=node("SaveAudio", filename_prefix="s", audio=["17", 0])
    )
    request = read(tmp_path, sound).request
    assert (sorted(request.modalities), request.num_frames) == (["audio"], 97)
    silent = one_pass()
    silent["14"]["inputs"]["latent_image"] = ["6", 0]
    silent["16"]["inputs"]["samples"] = ["14", 0]
    del silent["18"]["inputs"]["audio"]
    assert read(tmp_path, silent).request.modalities == {"video"}


def test_of_several_clips_one_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    graph = two_passes()
    graph["80"] = node("VAEDecode", samples=["15", 0], vae=["1", 2])
    graph["81"] = node("SaveWEBM", filename_prefix="draft", images=["80", 0])
    found = read(tmp_path, graph)
    assert found.request.recipe == "fast"
    assert "SaveWEBM (node 81) is another clip; give --node 81 to read it" in left(found)
    assert read(tmp_path, graph, node="81").request.size == (768, 512)
    with pytest.raises(ss.RequestError, match="node 5 saves nothing that is sampled; those that do are"):
        read(tmp_path, graph, node="5")


def test_what_is_not_known_is_noted_with_its_node(tmp_path: Path) -> None:
    graph = one_pass(
        n90=node("SomeModelPatch", amount=3, model=["1", 0]), n16=node("Sharpen", images=["91", 0]),
        n91=node("VAEDecode", samples=["15", 0], vae=["1", 2]),
    )  # fmt: skip
    graph["90"]["_meta"] = {"title": "My patch"}
    graph["13"]["inputs"]["model"] = ["90", 0]
    lines = left(read(tmp_path, graph))
    assert "SomeModelPatch 'My patch' (node 90): this change of the model is not known, and left out" in lines
    assert "Sharpen (node 16): what it does to the finished clip is not known, and left out" in lines


def test_a_workflow_is_found_in_pictures_and_clips(tmp_path: Path) -> None:
    run, edited = json.dumps(one_pass()), json.dumps(as_editor(one_pass()))
    wanted = read(tmp_path, one_pass()).request
    both = png(tmp_path / "both.png", prompt=run, workflow=edited)
    alone = png(tmp_path / "alone.png", workflow=edited)
    exif = Image.Exif()
    exif[0x0110], exif[0x010F] = f"prompt:{run}", f"workflow:{edited}"
    for ending in ("webp", "jpg"):
        Image.new("RGB", (64, 64)).save(tmp_path / f"a.{ending}", exif=exif)
    nested = json.dumps({"prompt": run, "workflow": json.loads(edited)})
    for ending in ("mp4", "mkv", "webm", "mov"):
        film(tmp_path / f"b.{ending}", comment=nested)
        film(tmp_path / f"c.{ending}", prompt=run, workflow=edited)
    files = [both, alone, *(tmp_path / f"a.{e}" for e in ("webp", "jpg"))]
    for file in (*files, *(tmp_path / f"{s}.{e}" for s in "bc" for e in ("mp4", "mkv", "webm", "mov"))):
        assert import_workflow(file).request == wanted, file


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not JSON that can be read"),
        ('{"nodes": [', "is not JSON that can be read"),
        ("[" * 100_000, "is not JSON that can be read"),
        ("[1, 2]", "holds no ComfyUI workflow"),
        ('{"nodes": [], "links": []}', "has no LTX nodes"),
        (json.dumps({"1": node("SaveImage"), "2": node("KSampler")}), "has no LTX nodes"),
        ('{"prompt": "A ball."}', "is a request already; make its clip by `soundstage rerun`"),
        (
            json.dumps(
                {
                    "1": node("LTXVConditioning"),
                    "2": node("TurboSampler", positive=["1", 0]),
                    "3": node("SaveVideo", video=["2", 0]),
                }
            ),
            "makes its clip by TurboSampler (node 2), which is not known here",
        ),
        (json.dumps({"1": node("LTXVConditioning")}), "none that saves what they make"),
        (json.dumps(one_pass(n3=node("CLIPTextEncode", text=" "))), "has no prompt that can be read"),
        (json.dumps(one_pass(n6=node("LTXVCropGuides", latent=["9", 0]))), "links that go in a circle"),
    ],
)
def test_what_is_no_workflow_is_told_in_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "graph.json"
    file.write_text(text)
    result = CliRunner().invoke(app, ["import-workflow", str(file)])
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_files_without_a_workflow_are_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    for file, words in (
        (png(tmp_path / "plain.png"), "holds no ComfyUI workflow"),
        (png(tmp_path / "a.png", parameters="a cat, Steps: 20"), "settings of another program"),
        (tmp_path / "bad.png", "is not a picture that can be read"),
        (tmp_path / "bad.mp4", "holds no ComfyUI workflow that can be read"),
        (tmp_path / "none.json", "is not a file"),
        (tmp_path, "is not a file"),
    ):
        with pytest.raises(ss.RequestError, match=words):
            import_workflow(file)


def test_subgraphs_without_an_end_and_huge_graphs_are_refused(tmp_path: Path) -> None:
    held = {"id": "a1", "nodes": [{"id": 1, "type": "a1"}], "links": [], "inputs": [], "outputs": []}
    endless = {"nodes": [{"id": 1, "type": "a1"}], "links": [], "definitions": {"subgraphs": [held]}}
    with pytest.raises(ss.RequestError, match="subgraphs in each other without an end"):
        read(tmp_path, endless)
    with pytest.raises(ss.RequestError, match="has more than 20000 nodes"):
        read(tmp_path, {str(i): node("LTXVConditioning") for i in range(20_001)})
    wide = {"id": "b", "nodes": [{"id": i, "type": "c"} for i in range(300)], "links": []}
    deep = {"id": "c", "nodes": [{"id": i, "type": "Note2"} for i in range(300)], "links": []}
    with pytest.raises(ss.RequestError, match="has more than 20000 nodes"):
        read(
            tmp_path,
            {"nodes": [{"id": 1, "type": "b"}], "links": [], "definitions": {"subgraphs": [wide, deep]}},
        )


def test_damaged_graphs_give_a_request_or_a_sentence(tmp_path: Path) -> None:
    """Values of other types, lost links and lost nodes, in both forms."""
    junk: list[Any] = [None, -1, 1e400, "x", [], {}, True, ["14", 0], ["99", 0], [None, None], 10**30]
    dice, sentences = random.Random(5), []
    for turn in range(300):
        graph: Any = as_editor(two_passes()) if turn % 2 else two_passes()
        for _ in range(dice.randint(1, 4)):
            holder = graph
            while True:
                keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
                if not keys:
                    break
                key = dice.choice(keys)
                if isinstance(holder[key], (dict, list)) and holder[key] and dice.random() < 0.8:
                    holder = holder[key]
                    continue
                holder[key] = copy.deepcopy(dice.choice(junk))
                break
        try:
            read(tmp_path, graph)
        except ss.SoundstageError as error:
            sentences.append(str(error))
    assert min(map(len, sentences)) > 10


def test_the_command_prints_a_request_and_what_was_carried(tmp_path: Path) -> None:
    file = tmp_path / "graph.json"
    file.write_text(json.dumps(two_passes(0.5)))
    told = CliRunner().invoke(app, ["import-workflow", str(file), "-o", str(tmp_path / "out.json")])
    assert told.exit_code == 0
    assert told.stdout.strip() == str(tmp_path / "out.json")
    assert "carried over:\n" in told.stderr
    assert "ltx-2.3-22b-dev.safetensors, published as ltx-2.3-22b-dev" in told.stderr
    assert f"soundstage rerun {tmp_path / 'out.json'} --model NAME" in told.stderr
    assert (tmp_path / "out.yaml").is_file()
    again = CliRunner().invoke(app, ["import-workflow", str(file), "-o", str(tmp_path / "out.json")])
    assert again.exit_code == 2
    assert "which is there already" in again.stderr
    shown = CliRunner().invoke(app, ["import-workflow", str(file), "--json", "--prompt", "Rain."])
    found = json.loads(shown.stdout)
    assert found["request"]["prompt"] == "Rain."
    assert found["recipe"]["passes"][0]["loras"] == {"distilled": 0.5}
    assert {"carried", "what", "node"} == set(found["notes"][0])


def test_the_page_has_the_table_of_nodes() -> None:
    page = (ROOT / "docs" / "comfyui.md").read_text()
    assert with_nodes(page) == page, "run python -m soundstage.compat.comfy.nodes docs/comfyui.md"
    for name in NODES:
        assert f"`{name}`".replace("|", "\\|") in page


def test_recipes_of_the_same_numbers_are_the_shipped_ones() -> None:
    """The names that the page of workflows promises are there."""
    for name in ("fast", "pro", "hq", "dub", "single"):
        assert recipe_named(name).passes
