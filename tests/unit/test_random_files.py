"""Files of random values: true names and dtypes, a model that runs, under every policy alike."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import soundstage.rendering.parts
from benchmarks.random_files import (
    AUDIO_VAE_FILE,
    GEMMA_FILE,
    PROJECTION_FILE,
    TRANSFORMER_FILE,
    VIDEO_VAE_FILE,
    GemmaSizes,
    RandomFile,
    lora_file,
    made_pieces,
    model_files,
    sentencepiece_model,
    write_files,
)
from soundstage.engine import Engine
from soundstage.errors import RequestError, WeightsError
from soundstage.library.identify import identify
from soundstage.library.model_files import find_model
from soundstage.memory.machine import Machine
from soundstage.model.published import audio_vae_header, transformer_header, video_vae_header, vocoder_header
from soundstage.planning import placement
from soundstage.rendering.events import Done
from soundstage.request.request import Request
from soundstage.text.pieces import build_tokenizer, read_pieces
from soundstage.weights.configs import published_config
from soundstage.weights.header import read_header

GEMMA = GemmaSizes(
    width=16, num_layers=6, inner=32, num_heads=2, num_kv_heads=1, head_dim=8, rows=420, pieces=400
)
CONFIG: dict[str, Any] = {
    "transformer": transformer_header(
        num_layers=2,
        num_heads=4,
        head_dim=32,
        audio_num_heads=4,
        audio_head_dim=16,
        caption_channels=GEMMA.width,
        connector_num_layers=1,
        connector_num_registers=8,
    ),
    "vae": video_vae_header(encoder_base_channels=16, decoder_base_channels=16),
    "audio_vae": audio_vae_header(base_channels=32),
    "vocoder": vocoder_header(base_channels=128, bwe_channels=64),
}
DEFAULTS = {"size": [64, 64], "num_frames": 9, "text_tokens": 16, "dtype": "float32", "distilled": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 2 blocks and 6 layers of Gemma, its files written as those of full size are."""
    folder = tmp_path_factory.mktemp("random")
    write_files(folder, [*model_files(CONFIG, GEMMA, says_config=True), lora_file(CONFIG, 4)])
    defaults = {**DEFAULTS, "schedule": "linear", "steps": 2, "video": {}, "audio": {}}
    (folder / "bundle.json").write_text(json.dumps({"name": "random", "defaults": defaults}))
    return folder


@pytest.fixture(scope="module")
def full() -> dict[str, RandomFile]:
    """What would be written at full size; the tokenizer is a small one."""
    return {file.path: file for file in model_files(published_config(), GemmaSizes(pieces=400))}


# --- what is written --------------------------------------------------------------------------------


def test_at_full_size_the_files_have_the_published_tensors(full: dict[str, RandomFile]) -> None:
    transformer = full[TRANSFORMER_FILE].tensors
    scales = [name for name in transformer if name.endswith(".weight_scale")]
    assert len(transformer) - len(scales) == 4_186 + 258
    assert Counter(entry.dtype for entry in transformer.values()) == {
        "F8_E4M3": 47 * 28,  # all blocks but the first
        "F32": 47 * 28 + 290,
        "BF16": 4_186 + 258 - 47 * 28 - 290,
    }
    assert len(full[PROJECTION_FILE].tensors) == 4
    assert len(full[VIDEO_VAE_FILE].tensors) == 170
    assert len(full[AUDIO_VAE_FILE].tensors) == 102 + 1_227


def test_at_full_size_the_files_are_as_large_as_the_published_ones(full: dict[str, RandomFile]) -> None:
    """In GB; of Gemma without its vision half, 0.4 in FP8, and without its tokenizer."""
    sizes = {path: file.num_bytes / 1e9 for path, file in full.items()}
    wanted = {TRANSFORMER_FILE: 23.85, PROJECTION_FILE: 2.31, VIDEO_VAE_FILE: 1.45, AUDIO_VAE_FILE: 0.36}
    assert {path: sizes[path] for path in wanted} == pytest.approx(wanted, abs=0.05)
    assert sizes[GEMMA_FILE] == pytest.approx(13.2 - 0.42, abs=0.05)


def test_the_files_are_identified_as_what_they_stand_for(folder: Path) -> None:
    found = {path: identify(folder / path) for path in (TRANSFORMER_FILE, GEMMA_FILE, AUDIO_VAE_FILE)}
    assert [d.layout for d in found.values()] == ["split", "Gemma, one file with its tokenizer", "split"]
    assert found[TRANSFORMER_FILE].distilled
    assert found[TRANSFORMER_FILE].part_names == ("transformer", "video_connector", "audio_connector")
    assert found[TRANSFORMER_FILE].num_scales == 28


def test_written_again_nothing_is_touched_and_a_lost_file_comes_back_the_same(tmp_path: Path) -> None:
    files = model_files(CONFIG, GEMMA, says_config=True)[1:4]
    paths = write_files(tmp_path, files)
    before = {path: (digest(path), path.stat().st_mtime_ns) for path in paths}
    paths[1].unlink()
    seen: list[str] = []
    write_files(tmp_path, files, lambda path, done, total: seen.append(path))
    assert set(seen) == {files[1].path}
    assert digest(paths[1]) == before[paths[1]][0]
    assert (digest(paths[0]), paths[0].stat().st_mtime_ns) == before[paths[0]]
    assert not list(tmp_path.rglob("*.part"))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_disk_without_room_is_refused_before_the_first_byte(
    tmp_path: Path, full: dict[str, RandomFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10_000_000_000))
    with pytest.raises(WeightsError, match=r"needs 40\.\d GB and 2 to spare, and .* has 10\.0 free"):
        write_files(tmp_path / "new", list(full.values()))
    assert not (tmp_path / "new").exists()


def test_the_made_tokenizer_is_read_back_and_joins_letters() -> None:
    pieces = made_pieces(2000)
    assert read_pieces(sentencepiece_model(pieces)) == pieces
    assert len({piece.text for piece in pieces}) == 2000
    ids = build_tokenizer(pieces).encode("red ball").ids
    assert "".join(pieces[i].text for i in ids) == "red\u2581ball"
    assert len(ids) < len("red ball")


def test_values_keep_activations_of_order_one(folder: Path) -> None:
    """A weight times its scale has the deviation fan_in ** -0.5."""
    model = find_model(folder)
    parts = soundstage.rendering.parts.ModelParts(model, torch.device("cpu"), torch.float32)
    weight = parts.transformer.get_parameter("transformer_blocks.1.ff.net.0.proj.weight")
    assert float(weight.std()) == pytest.approx(weight.shape[1] ** -0.5, rel=0.02)
    norm = parts.transformer.get_parameter("transformer_blocks.1.attn1.q_norm.weight")
    assert float(norm.mean()) == pytest.approx(1, abs=0.02)


# --- a model that runs ------------------------------------------------------------------------------


def made(folder: Path, residency: str, **fields: Any) -> tuple[Done, Engine]:
    engine = Engine(find_model(folder), device="cpu", residency=residency)
    *_, last = engine.run(Request(prompt="a red ball", seed=3, **fields))
    assert isinstance(last, Done)
    return last, engine


@pytest.fixture(scope="module")
def resident(folder: Path) -> Done:
    return made(folder, "resident")[0]


def same(one: Done, other: Done) -> bool:
    clips = zip((one.clip.frames, one.clip.waveform), (other.clip.frames, other.clip.waveform), strict=True)
    return all(a is not None and b is not None and np.array_equal(a, b) for a, b in clips) and all(
        torch.equal(one.latents[name], other.latents[name]) for name in one.latents
    )


def test_random_files_make_a_clip_of_finite_values(resident: Done) -> None:
    assert resident.video_latents is not None
    assert resident.video_latents.isfinite().all()
    assert 0.1 < resident.video_latents.std() < 100
    assert resident.clip.frames is not None
    assert resident.clip.frames.shape == (9, 64, 64, 3)


@pytest.mark.parametrize("policy", ["offload", "stream", "disk"])
def test_every_policy_makes_the_same_clip_text_and_all(folder: Path, resident: Done, policy: str) -> None:
    assert same(made(folder, policy)[0], resident)


def test_on_disk_nothing_stays_but_the_part_that_was_used_last(folder: Path) -> None:
    _, engine = made(folder, "disk")
    assert engine._renderer is not None
    parts = engine._renderer.built
    assert parts is not None
    assert parts.manager.present == "vocoder"
    gemma, transformer = parts.text.encoder.gemma.model, parts.transformer
    for module in (gemma, transformer, parts.text.encoder.projection, parts.video_vae.decoder):
        assert all(weight.is_meta for weight in module.parameters())
    assert not any(weight.is_meta for weight in parts.vocoder.parameters())
    parts.close()


def test_a_lora_for_every_layer_changes_the_clip_alike_on_disk(folder: Path, resident: Done) -> None:
    path = folder / "loras/random_rank4.safetensors"
    lora = [{"path": str(path), "strength": 0.5}]
    wanted, _ = made(folder, "resident", loras=lora)
    assert not same(wanted, resident)
    assert same(made(folder, "disk", loras=lora)[0], wanted)
    num_layers = sum(key.endswith("lora_A.weight") for key in read_header(path).tensors)
    assert num_layers == 28 + 2 * 34


# --- the engine's choice ----------------------------------------------------------------------------


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets how much memory the machine seems to have."""

    def set_free(num_bytes: float) -> None:
        machine = Machine("the CPU", "cpu", num_bytes)
        monkeypatch.setattr(placement, "this_machine", lambda _: machine)

    return set_free


def test_the_engine_takes_what_fits_and_stays_with_it(folder: Path, free: Callable[[float], None]) -> None:
    engine = Engine(find_model(folder), device="cpu")
    plan = engine.plan(Request(prompt="a red ball"))
    free(10e9)
    everything = engine.choose(plan)
    assert everything.residency.policy == "resident"
    free(everything.price.host_bytes * 0.95)
    less = engine.choose(plan)
    assert less.residency.policy == "disk"
    assert less.price.host_bytes <= everything.price.host_bytes * 0.95
    assert engine._rendering().parts(less) is engine._rendering().parts(engine.choose(plan))
    free(10e9)
    assert engine.choose(plan).residency == less.residency
    free(1e6)
    with pytest.raises(RequestError, match=r"cannot make on this machine: it needs at least"):
        engine.choose(plan)


def test_memory_and_residency_that_were_asked_for_count(folder: Path, free: Callable[[float], None]) -> None:
    free(10e9)
    model = find_model(folder)
    plan = Engine(model).plan(Request(prompt="a red ball"))
    whole = Engine(model, device="cpu").choose(plan).price.host_bytes
    limited = Engine(model, device="cpu", memory_gb=0.95 * whole / 1e9).choose(plan)
    assert limited.residency.policy == "disk"
    assert "asked for" in Engine(model, device="cpu", residency="stream").choose(plan).reason
    for words in ({"residency": "ram"}, {"memory_gb": 0.0}):
        with pytest.raises(RequestError, match=r"give (one of .*resident|more than 0)"):
            Engine(model, **words)  # type: ignore[arg-type]
