"""LoRAs and upsamplers as files, through a whole run over a tiny model: on for their pass, off after it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import soundstage as ss
from soundstage.clip import read_provenance
from soundstage.engine import Engine
from soundstage.library.model_files import EXTRAS, find_model
from soundstage.model.config import UpsamplerConfig
from soundstage.model.upsampler import LatentUpsampler
from soundstage.rendering.events import Done
from tests.quick_codecs import QuickCodecs
from tests.tiny_model import write_tiny_model

UNGUIDED = {"guidance": 1, "stg": 0, "modality_guidance": 1, "steps": 2}
UPSAMPLER = {
    "_class_name": "LatentUpsampler",
    "in_channels": 128,
    "mid_channels": 32,
    "num_blocks_per_stage": 1,
    "dims": 3,
    "spatial_upsample": True,
    "temporal_upsample": False,
    "spatial_scale": 2.0,
    "rational_resampler": False,
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    torch.manual_seed(5)
    upsampler = LatentUpsampler(UpsamplerConfig.from_header(UPSAMPLER))
    path = folder / EXTRAS["space-x2"][0]
    save_file(upsampler.state_dict(), path, {"config": json.dumps(UPSAMPLER)})
    write_lora(folder / EXTRAS["distilled"][0], seed=6)
    model = find_model(folder)
    return Engine(model, parts=QuickCodecs(model, torch.device("cpu"), torch.float32))


def write_lora(path: Path, seed: int, *layers: str) -> str:
    """A LoRA of these layers of the first block; a layer's factors do not depend on what others there are."""
    tensors = {}
    for layer in layers or ("attn1",):
        generator = torch.Generator().manual_seed(seed)
        width = 32 if layer.startswith("audio") else 64
        name = f"diffusion_model.transformer_blocks.0.{layer}.to_v"
        tensors[f"{name}.lora_A.weight"] = torch.randn(4, width, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(4, width, generator=generator).T.contiguous()
    save_file(tensors, path)
    return str(path)


def made(stage: Engine, **fields: Any) -> Done:
    *_, done = stage.run(ss.Request(**{"prompt": "a", "seed": 3, "num_frames": 17, **UNGUIDED, **fields}))
    assert isinstance(done, Done)
    return done


def test_a_lora_is_on_for_its_request_only(stage: Engine, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "style.safetensors", seed=7)
    base = made(stage).video_latents
    assert torch.equal(made(stage, loras=[ss.Lora(path, 0.0)]).video_latents, base)
    full = made(stage, loras=[ss.Lora(path)]).video_latents
    half = made(stage, loras=[ss.Lora(path, 0.5)]).video_latents
    assert 0 < (half - base).norm() < (full - base).norm()
    assert torch.equal(made(stage).video_latents, base)


def test_loras_of_all_stretches_of_time_are_a_whole_one(stage: Engine, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "style.safetensors", seed=7)
    base = made(stage).video_latents
    whole = made(stage, loras=[ss.Lora(path)]).video_latents
    spans = (ss.Span(0, 0.2), ss.Span(0.2, 9))
    early, late = (made(stage, loras=[ss.Lora(path, 1.0, span)]).video_latents for span in spans)
    for timed in (early, late):
        assert not torch.equal(timed, base)
        assert not torch.equal(timed, whole)
    both = made(stage, loras=[ss.Lora(path, 1.0, span) for span in spans])
    assert torch.allclose(both.video_latents, whole, atol=1e-4)


def test_a_timed_lora_goes_with_guides_and_a_voice(stage: Engine, tmp_path: Path) -> None:
    """Tokens beside the clip have weights of their own; the pass without the voice has fewer tokens."""
    path = write_lora(tmp_path / "voice.safetensors", 8, "audio_attn1")
    fields = {
        "loras": [ss.Lora(path, 1.0, ss.Span(0, 0.3))],
        "guides": [ss.Guide(np.zeros((64, 64, 3), np.uint8), "last")],
    }
    voice = np.zeros((2, 24_000), np.float32)
    done = made(stage, **fields, audio=ss.Audio(voice, "identity", guidance=0))
    assert torch.isfinite(done.audio_latents).all()
    with pytest.raises(
        ss.SoundstageError, match=r"loras\[0\].span does not go with a voice .* audio\.guidance to 0"
    ):
        made(stage, **fields, audio=ss.Audio(voice, "identity"))


def test_two_loras_act_each_in_its_passes(stage: Engine, tmp_path: Path) -> None:
    """Of two passes the first has one adapter and the second another, beside the recipe's own."""
    one, two = (write_lora(tmp_path / f"{seed}.safetensors", seed) for seed in (7, 8))
    fields: dict[str, Any] = {"recipe": "fast", "size": (128, 64), "num_frames": 9, "seed": 3}
    plain = stage.plan(ss.Request(prompt="a", **fields))
    first, last = (pass_.name for pass_ in plain.passes)
    loras = [ss.Lora(one, passes=(first,)), ss.Lora(two, passes=(last,))]
    both = stage.plan(ss.Request(prompt="a", loras=loras, **fields))
    assert [[Path(use.path).name for use in pass_.loras][-1] for pass_ in both.passes] == [
        "7.safetensors",
        "8.safetensors",
    ]


def test_two_timed_loras_of_different_spans_act_each_in_its_own(stage: Engine, tmp_path: Path) -> None:
    """Beside each other they are neither alone, and one with an empty partner is itself."""
    one, two = (write_lora(tmp_path / f"{seed}.safetensors", seed) for seed in (7, 8))
    early, late = ss.Lora(one, 1.0, ss.Span(0, 0.2)), ss.Lora(two, 1.0, ss.Span(0.2, 9))
    alone = [made(stage, loras=[lora]) for lora in (early, late)]
    both = made(stage, loras=[early, late])
    assert not any(same(both, other) for other in alone)
    quiet = ss.Lora(two, 0.0, ss.Span(0.2, 9))
    near = made(stage, loras=[early, quiet]).video_latents
    assert torch.allclose(near, alone[0].video_latents, atol=1e-5)


LAYERS = {"video": "attn1", "audio": "audio_attn1", "a2v": "audio_to_video_attn"}


def same(one: Done, other: Done) -> bool:
    pairs = ((one.video_latents, other.video_latents), (one.audio_latents, other.audio_latents))
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("group", LAYERS)
def test_a_group_at_zero_is_a_file_without_its_layers(stage: Engine, tmp_path: Path, group: str) -> None:
    others = [layer for name, layer in LAYERS.items() if name != group]
    whole = write_lora(tmp_path / "whole.safetensors", 7, *LAYERS.values())
    bare = write_lora(tmp_path / "bare.safetensors", 7, *others)
    without = made(stage, loras=[ss.Lora(whole, 0.7, groups={group: 0})])
    assert same(without, made(stage, loras=[ss.Lora(bare, 0.7)]))
    assert not same(without, made(stage, loras=[ss.Lora(whole, 0.7)]))  # and no group stays off


def test_a_groups_multiplier_is_a_strength_in_all_spans(stage: Engine, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "voice.safetensors", 7, "audio_attn1")
    base = made(stage)
    for span in (None, ss.Span(0, 0.3)):
        half = made(stage, loras=[ss.Lora(path, 1, span, groups={"audio": 0.5, "video": 3})])
        assert same(half, made(stage, loras=[ss.Lora(path, 0.5, span)]))
        assert not same(half, base)


def test_a_clip_remembers_the_groups(stage: Engine, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "style.safetensors", 7)
    loras = [ss.Lora(path, 0.5, groups={"audio": 0, "v2a": 2})]
    made(stage, loras=loras).clip.save(tmp_path / "a.mp4")
    stored = read_provenance(tmp_path / "a.mp4")
    assert ss.Request(**stored["request"]).loras == tuple(loras)
    assert stored["passes"][0]["loras"][0]["groups"] == {"audio": 0, "v2a": 2}


def test_fast_runs_with_upsampler_and_lora_from_their_files(stage: Engine) -> None:
    *_, done = stage.run(ss.Request(prompt="a", recipe="fast", size=(128, 64), num_frames=9, seed=3))
    assert done.clip.frames.shape == (9, 64, 128, 3)
    assert torch.isfinite(done.video_latents).all()
    assert [Path(u["path"]).name for u in done.clip.provenance["passes"][1]["loras"]] == [
        "distilled_lora.safetensors"
    ]
