"""What was encoded once is not encoded again, by this engine or the next process; no bit changes by it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import soundstage as ss
from soundstage.engine import Engine
from soundstage.errors import ConfigError, RequestError, WeightsError
from soundstage.library.model_files import find_model
from soundstage.planning.plan import LoraUse
from soundstage.rendering.encoded_prompts import encoded_prompts
from soundstage.rendering.encoding_cache import EncodingCache
from soundstage.rendering.events import Done, LoraAttached
from soundstage.rendering.parts import ModelParts
from soundstage.text.gemma import Gemma
from tests.tiny_model import HEADS, VIDEO_HEAD, write_text_encoder, write_tiny_model

ASKED: dict[str, Any] = {"prompt": "a red ball", "seed": 3, "modalities": {"video"}, "steps": 1}
CONNECTOR = "diffusion_model.video_embeddings_connector.transformer_1d_blocks.0.attn1.to_v"
BLOCK = "diffusion_model.transformer_blocks.0.attn1.to_v"


class Counted(ModelParts):
    """The true parts with a decoder that takes no time. num_encoded: passes of the video encoder."""

    num_encoded = 0

    def encode_video(self, pixels: Tensor) -> Tensor:
        self.num_encoded += 1
        return super().encode_video(pixels)

    def decode_pieces(self, latents: Tensor) -> Any:
        yield torch.zeros(1, 3, 8 * (latents.shape[2] - 1) + 1, 32 * latents.shape[3], 32 * latents.shape[4])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    write_text_encoder(folder / "text")
    return folder


def stage_of(folder: Path, cache: Path | None = None, dtype: torch.dtype = torch.float32) -> Engine:
    model = find_model(folder)
    return Engine(model, parts=Counted(model, torch.device("cpu"), dtype), cache=EncodingCache(cache))


def parts_of(stage: Engine) -> Counted:
    assert isinstance(stage._parts, Counted)
    return stage._parts


def made(stage: Engine, **fields: Any) -> Tensor:
    *_, done = stage.run(ss.Request(**{**ASKED, **fields}))
    assert isinstance(done, Done)
    assert done.video_latents is not None
    return done.video_latents


def equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


def write_lora(path: Path, *layers: str, seed: int = 7) -> str:
    generator = torch.Generator().manual_seed(seed)
    width = HEADS * VIDEO_HEAD
    tensors = {}
    for layer in layers:
        tensors[f"{layer}.lora_A.weight"] = torch.randn(4, width, generator=generator)
        tensors[f"{layer}.lora_B.weight"] = torch.randn(width, 4, generator=generator)
    save_file(tensors, path)
    return str(path)


@pytest.fixture
def without_gemma(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, Gemma can neither be opened nor loaded."""

    def forbid() -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("Gemma was asked for")

        monkeypatch.setattr(Gemma, "open", refuse)
        monkeypatch.setattr(Gemma, "load", refuse)

    return forbid


# --- prompts -----------------------------------------------------------------------------------------


def test_a_prompt_seen_before_loads_no_gemma(
    folder: Path, tmp_path: Path, without_gemma: Callable[[], None]
) -> None:
    uncached = made(stage_of(folder))
    assert torch.equal(made(stage_of(folder, tmp_path)), uncached)
    without_gemma()
    again = stage_of(folder, tmp_path)
    assert torch.equal(made(again), uncached)
    assert torch.equal(made(again, prompt=" a red ball\n"), uncached)
    assert not vars(parts_of(again)).get("_text_parts")  # nor the projection and the connectors
    with pytest.raises(AssertionError, match="Gemma was asked for"):
        made(again, prompt="a blue ball")


def test_a_context_is_another_one_for_another_model_dtype_or_length(folder: Path, tmp_path: Path) -> None:
    def identity(place: Path, dtype: torch.dtype = torch.float32) -> tuple[str, ...]:
        return ModelParts(find_model(place), torch.device("cpu"), dtype).identity("text")

    shutil.copytree(folder, tmp_path / "same")
    base = identity(folder)
    assert identity(tmp_path / "same") == base
    assert identity(folder, torch.bfloat16) != base
    changes: list[tuple[str, Callable[[Path], object]]] = [
        ("text/model.safetensors", lambda p: save_file({k: 2 * v for k, v in load_file(p).items()}, p)),
        ("text/tokenizer.json", lambda p: p.write_text(p.read_text() + "\n")),
        ("transformer.safetensors", lambda p: p.write_bytes(p.read_bytes()[:-4] + b"\0\0\1\0")),
        (
            "bundle.json",
            lambda p: p.write_text(p.read_text().replace('"text_tokens": 6', '"text_tokens": 3')),
        ),
    ]
    found = [base]
    for number, (name, change) in enumerate(changes):
        place = tmp_path / str(number)
        shutil.copytree(folder, place)
        change(place / name)
        found.append(identity(place))
    assert len(set(found)) == len(found)


def test_large_files_of_one_structure_are_told_apart(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without reading them: a fine-tune has the size and the header of the model it was made from."""
    monkeypatch.setattr("soundstage.library.file_identity.MAX_HASHED_BYTES", 1000)
    monkeypatch.setattr("soundstage.library.file_identity._digests", {})
    shutil.copytree(folder, tmp_path / "other")
    one, other = (
        ModelParts(find_model(place), torch.device("cpu"), torch.float32).identity("text")
        for place in (folder, tmp_path / "other")
    )
    assert one != other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("language_model.model.layers.1.mlp.up_proj.weight"), "layer 1 of Gemma has not"),
        (lambda t: t.pop("language_model.model.norm.weight"), "is not a complete Gemma 3"),
        (
            lambda t: [t.pop(key) for key in list(t) if ".layers.1." in key],
            "has 2 states of width 16; this model's projection reads 3 of width 16",
        ),
    ],
)
def test_a_gemma_that_does_not_fit_is_found_by_its_headers_before_the_work(
    folder: Path, tmp_path: Path, without_gemma: Callable[[], None], change: Any, message: str
) -> None:
    shutil.copytree(folder, tmp_path / "tiny")
    path = tmp_path / "tiny" / "text" / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    without_gemma()
    with pytest.raises((WeightsError, ConfigError), match=message):  # when the model is opened
        stage_of(tmp_path / "tiny")


# --- inputs ------------------------------------------------------------------------------------------


def picture(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (48, 80, 3), dtype=np.uint8)


def test_a_picture_seen_before_is_not_encoded_again(folder: Path, tmp_path: Path) -> None:
    """It is known by its content, wherever it lies, together with all that is done to it."""
    for name in ("one", "copy", "edited"):
        Image.fromarray(picture(name == "edited")).save(tmp_path / f"{name}.png")

    def guide(name: str, **fields: Any) -> dict[str, Any]:
        return {"guides": [ss.Guide(str(tmp_path / f"{name}.png"), **fields)]}

    cache = tmp_path / "cache"
    uncached, first = stage_of(folder), stage_of(folder, cache)
    wanted = made(uncached, **guide("one"))
    assert torch.equal(made(first, **guide("one")), wanted)
    again = stage_of(folder, cache)
    assert torch.equal(made(again, **guide("one")), wanted)
    assert torch.equal(made(again, **guide("copy")), wanted)
    assert parts_of(again).num_encoded == 0
    others: list[dict[str, Any]] = [
        guide("edited"),
        guide("one", crf=0),
        guide("one", crop="stretch"),
        {**guide("one"), "size": (96, 64)},
    ]
    for count, other in enumerate(others, start=1):
        assert torch.equal(made(again, **other), made(uncached, **other))
        assert parts_of(again).num_encoded == count


def test_an_array_is_known_by_its_values_shape_and_rate(folder: Path, tmp_path: Path) -> None:
    film = np.stack([picture(seed) for seed in range(9)])
    stage, uncached = stage_of(folder, tmp_path), stage_of(folder)
    given = [film, film.copy(), film.reshape(9, 80, 48, 3), ss.Clip(film, None, 12.0, {}), film + 1]
    for clip, count in zip(given, (1, 1, 2, 3, 4), strict=True):
        asked = {"references": [ss.Reference(clip)], "num_frames": 9}
        assert torch.equal(made(stage, **asked), made(uncached, **asked))
        assert parts_of(stage).num_encoded == count


# --- LoRAs of the connectors ---------------------------------------------------------------------------


def test_a_lora_of_a_connector_changes_the_prompt_and_its_place_in_the_cache(
    folder: Path, tmp_path: Path, without_gemma: Callable[[], None]
) -> None:
    path = write_lora(tmp_path / "words.safetensors", CONNECTOR)
    stage = stage_of(folder, tmp_path / "cache")
    base = made(stage)
    full, half = (made(stage, loras=[ss.Lora(path, strength)]) for strength in (1.0, 0.5))
    assert torch.equal(made(stage), base)  # off again
    assert not torch.equal(full, base)
    assert not torch.equal(full, half)
    assert torch.equal(made(stage_of(folder), loras=[ss.Lora(path)]), full)
    without_gemma()
    again = stage_of(folder, tmp_path / "cache")
    assert torch.equal(made(again, loras=[ss.Lora(path)]), full)
    assert torch.equal(made(again, loras=[ss.Lora(path, 0.0)]), base)
    other = write_lora(tmp_path / "words2.safetensors", CONNECTOR, seed=8)
    with pytest.raises(AssertionError, match="Gemma was asked for"):
        made(again, loras=[ss.Lora(other)])


def test_a_lora_of_the_transformer_alone_reads_the_prompt_kept_without_it(
    folder: Path, tmp_path: Path, without_gemma: Callable[[], None]
) -> None:
    path = write_lora(tmp_path / "style.safetensors", BLOCK)
    base = made(stage_of(folder, tmp_path / "cache"))
    without_gemma()
    again = stage_of(folder, tmp_path / "cache")
    assert not torch.equal(made(again, loras=[ss.Lora(path)]), base)
    assert not vars(parts_of(again)).get("_text_parts")


def test_a_lora_with_its_text_off_reads_the_prompt_kept_without_it(
    folder: Path, tmp_path: Path, without_gemma: Callable[[], None]
) -> None:
    both = write_lora(tmp_path / "both.safetensors", BLOCK, CONNECTOR)
    block = write_lora(tmp_path / "block.safetensors", BLOCK)  # the same factors: they are drawn first
    stage = stage_of(folder, tmp_path / "cache")
    alone, half = (made(stage, loras=[lora]) for lora in (ss.Lora(block), ss.Lora(both, 0.5)))
    without_gemma()
    again = stage_of(folder, tmp_path / "cache")
    assert torch.equal(made(again, loras=[ss.Lora(both, groups={"text": 0})]), alone)
    assert torch.equal(made(again, loras=[ss.Lora(both, 1, groups={"text": 0.5, "video": 0.5})]), half)
    with pytest.raises(AssertionError, match="Gemma was asked for"):
        made(again, loras=[ss.Lora(both, groups={"text": 0.25})])


def test_a_lora_for_a_time_leaves_the_prompt_alone(folder: Path, tmp_path: Path) -> None:
    parts = ModelParts(find_model(folder), torch.device("cpu"), torch.float32)
    path = write_lora(tmp_path / "both.safetensors", BLOCK, CONNECTOR)
    base, (plain,) = parts.identity("text"), parts.encode(["a red ball"])
    positions = torch.zeros(1, 3, 4, 2)
    parts.adapt([LoraUse(path, 1.0, (0.0, 0.5))], positions, None)
    (timed,) = parts.encode(["a red ball"])
    assert parts.identity("text") == base
    assert equal(timed.video, plain.video)
    parts.adapt([LoraUse(path, 1.0)], None, None)
    assert parts.identity("text") != base
    assert not equal(parts.encode(["a red ball"])[0].video, plain.video)


def test_each_pass_reads_the_prompt_with_its_own_loras(folder: Path, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "words.safetensors", CONNECTOR)
    stage = stage_of(folder)
    parts = parts_of(stage)
    plan = stage.plan(ss.Request(**ASKED, guidance=1, stg=0, modality_guidance=1))
    (step,) = plan.passes
    contexts = []
    for loras in ((), (LoraUse(path, 1.0),), ()):
        positive, _ = encoded_prompts(parts, plan, replace(step, loras=loras), EncodingCache())
        contexts.append(positive[0].video)
    assert equal(contexts[0], contexts[2])
    assert not equal(contexts[0], contexts[1])


# --- the report ----------------------------------------------------------------------------------------


def test_a_lora_is_reported_when_it_is_first_attached_and_remembered_by_the_clip(
    folder: Path, tmp_path: Path
) -> None:
    path = write_lora(tmp_path / "both.safetensors", BLOCK, CONNECTOR)
    stage = stage_of(folder)
    request = ss.Request(**ASKED, loras=[ss.Lora(path, 0.5)])
    first, second = list(stage.run(request)), list(stage.run(request))
    (attached,) = [event for event in first if isinstance(event, LoraAttached)]
    assert "both.safetensors: 2 layers, rank 4, base model" in attached.report.line
    assert "\n" not in attached.report.line
    assert not [event for event in second if isinstance(event, LoraAttached)]
    for events in (first, second):
        done = events[-1]
        assert isinstance(done, Done)
        (lora,) = done.clip.provenance["loras"]
        assert lora["path"] == path
        assert len(lora["sha256"]) == 64
        assert (lora["layers"], lora["rank"]) == (2, 4)
        assert set(lora["change"]) == {"video", "text"}
        assert all(change > 0 for change in lora["change"].values())
    assert made(stage) is not None
    *_, plain = stage.run(ss.Request(**ASKED))
    assert isinstance(plain, Done)
    assert plain.clip.provenance["loras"] == []


def test_a_lora_of_another_model_is_refused_before_prompts_are_read(
    folder: Path, tmp_path: Path, without_gemma: Callable[[], None]
) -> None:
    width = HEADS * VIDEO_HEAD + 2
    path = tmp_path / "wide.safetensors"
    save_file(
        {f"{BLOCK}.lora_A.weight": torch.ones(4, width), f"{BLOCK}.lora_B.weight": torch.ones(width, 4)}, path
    )
    without_gemma()
    with pytest.raises(RequestError, match="it was made for another model"):
        made(stage_of(folder), loras=[ss.Lora(str(path))])
