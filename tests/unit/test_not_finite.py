"""Values that are not numbers stop a run with the place and the likely cause; no black film is made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import soundstage as ss
from soundstage.engine import Engine
from soundstage.errors import NotFiniteError, RequestError
from soundstage.library.model_files import TRANSFORMER, find_model
from soundstage.memory.policy import Residency
from soundstage.rendering.encoding_cache import EncodingCache
from soundstage.rendering.events import Done
from soundstage.rendering.finite import Watch, finite
from soundstage.rendering.parts import ModelParts
from soundstage.weights.header import read_header
from tests.tiny_model import HEADS, VIDEO_HEAD, QuickSound, write_text_encoder, write_tiny_model

WIDTH = HEADS * VIDEO_HEAD
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


class Quick(QuickSound):
    """A picture that is the latents' mean."""

    def decode_pieces(self, latents: Tensor) -> Iterator[Tensor]:
        yield latents.mean() + torch.zeros(1, 3, 8 * (latents.shape[2] - 1) + 1, 64, 64)


def stage_of(folder: Path, kind: type[QuickSound] = Quick) -> Engine:
    model = find_model(folder)
    return Engine(model, parts=kind(model, torch.device("cpu"), torch.float32), cache=EncodingCache())


def run(stage: Engine, **fields: Any) -> list[Any]:
    asked = {"prompt": "a", "steps": 3, "guidance": 1, "stg": 0, "modality_guidance": 1, **fields}
    return list(stage.run(ss.Request(**asked)))


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("modalities", [{"video"}, {"video", "audio"}])
def test_a_damaged_weight_is_named_with_pass_and_step(
    folder: Path, value: float, modalities: set[str]
) -> None:
    stage = stage_of(folder)
    run(stage, modalities=modalities)
    transformer: Any = stage._parts.transformer  # type: ignore[union-attr]
    # A value: PyTorch's attention on a CPU loses such queries where keys are fewer than its vectors are wide.
    with torch.no_grad():
        transformer.transformer_blocks[1].attn1.to_v.weight[0, 0] = value
    with pytest.raises(NotFiniteError) as error:
        run(stage, modalities=modalities)
    assert (error.value.stage, error.value.step) == ("denoise", 1)
    assert "pass 'denoise', after step 1 of 3: the latents of picture" in str(error.value)
    assert "the weight transformer.transformer_blocks.1.attn1.to_v.weight holds such values" in str(
        error.value
    )


def test_a_damaged_weight_is_found_where_weights_are_read_from_their_files(tmp_path: Path) -> None:
    place = write_tiny_model(tmp_path / "tiny")
    tensors = load_file(place / TRANSFORMER)
    key = "model.diffusion_model.transformer_blocks.1.attn1.to_v.weight"
    tensors[key][0, 0] = NAN
    save_file(tensors, place / TRANSFORMER, read_header(place / TRANSFORMER).metadata)
    model = find_model(place)
    for policy in ("stream", "disk"):
        parts = Quick(model, torch.device("cpu"), torch.float32, Residency(policy))  # type: ignore[arg-type]
        stage = Engine(model, parts=parts, cache=EncodingCache())
        with pytest.raises(
            NotFiniteError, match=r"the weight transformer\.transformer_blocks\.1\.attn1\.to_v"
        ):
            run(stage)
        parts.close()


def test_a_damaged_weight_of_the_text_encoder_is_named(tmp_path: Path) -> None:
    place = write_tiny_model(tmp_path / "tiny")
    write_text_encoder(place / "text")
    file, key = place / "text" / "model.safetensors", "language_model.model.layers.1.mlp.up_proj.weight"
    tensors = load_file(file)
    tensors[key][0, 0] = NAN
    save_file(tensors, file)
    model = find_model(place)
    for policy in ("resident", "stream", "disk"):
        parts = ModelParts(model, torch.device("cpu"), torch.float32, Residency(policy))  # type: ignore[arg-type]
        with pytest.raises(
            NotFiniteError, match=r"text encoder reads it.*weight text encoder\.layers\.1\.mlp\.up_proj"
        ):
            run(Engine(model, parts=parts, cache=EncodingCache()))
        parts.close()


def test_the_step_and_the_stream_are_those_where_it_began(folder: Path) -> None:
    """A sound that overflows at the third step is told as that, not as a picture at the end."""

    class Overflowing(Quick):
        calls = 0

        @property
        def transformer(self) -> Any:
            inner: Any = super().transformer

            def forward(video: Any, audio: Any, **how: Any) -> Any:
                self.calls += 1
                made = inner(video, audio, **how)
                return made if self.calls < 3 else (made[0], made[1] * INF)

            forward.prepare = inner.prepare  # type: ignore[attr-defined]
            return forward

    stage = stage_of(folder, Overflowing)
    events = stage.run(ss.Request(prompt="a", steps=5, guidance=1, stg=0, modality_guidance=1))
    seen = []
    with pytest.raises(NotFiniteError, match="after step 3 of 5: the latents of sound are not") as error:
        seen.extend(events)
    assert error.value.step == 3
    assert "numbers grew beyond what the format holds" in str(error.value)


def test_flags_that_are_read_late_still_name_the_first_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where no step waits for the one before."""
    monkeypatch.setattr("soundstage.rendering.finite._is_ready", lambda _: False)
    watch = Watch("refine", stage_of(folder)._parts)
    for step in range(4):
        bad = torch.full((1, 4, 2), NAN if step >= 2 else 1.0)
        watch.see(step, 3, video=torch.ones(1, 4, 2), audio=bad)
    with pytest.raises(
        NotFiniteError, match="pass 'refine', after step 2 of 3: the latents of sound"
    ) as error:
        watch.check()
    assert error.value.step == 2
    watch.check()  # what was told is forgotten


def test_a_lora_that_overflows_is_named(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    key = "diffusion_model.transformer_blocks.0.attn1.to_v"
    save_file(
        {
            f"{key}.lora_A.weight": torch.full((2, WIDTH), 1e20),
            f"{key}.lora_B.weight": torch.full((WIDTH, 2), 1e20),
        },
        path,
    )
    stage = stage_of(folder)
    with pytest.raises(
        NotFiniteError, match=r"the LoRA .*huge\.safetensors at strength 1 changes the weights by"
    ):
        run(stage, loras=[ss.Lora(str(path))])
    assert isinstance(run(stage)[-1], Done)  # and the engine goes on without it


@pytest.mark.parametrize("part", ["picture", "sound"])
def test_what_is_decoded_is_checked(folder: Path, part: str) -> None:
    class Broken(Quick):
        def decode_pieces(self, latents: Tensor) -> Iterator[Tensor]:
            for pixels in super().decode_pieces(latents):
                yield pixels * (NAN if part == "picture" else 1)

        def decode_audio(self, latents: Tensor, num_samples: int | None = None) -> Tensor:
            return super().decode_audio(latents, num_samples) * (INF if part == "sound" else 1)

    with pytest.raises(NotFiniteError, match=f"the decoded {part} holds values that are not numbers"):
        run(stage_of(folder, Broken))


def test_a_prompt_or_input_that_is_not_a_number_is_not_kept(folder: Path) -> None:
    class Broken(Quick):
        broken = True

        def encode(self, prompts: Any) -> Any:
            from dataclasses import replace

            found = super().encode(prompts)
            return [replace(c, audio=c.audio * NAN) for c in found] if self.broken else found

        def encode_video(self, pixels: Tensor) -> Tensor:
            found = super().encode_video(pixels)
            return found * NAN if self.broken else found

    stage = stage_of(folder, Broken)
    parts: Any = stage._parts
    with pytest.raises(NotFiniteError, match="the prompt, as the text encoder reads it,"):
        run(stage)
    parts.broken = False
    run(stage)
    guide = {"guides": [ss.Guide(np.zeros((64, 64, 3), np.uint8))]}
    parts.broken = True
    with pytest.raises(NotFiniteError, match="an input, as the VAE encodes it,"):
        run(stage, **guide)
    parts.broken = False
    assert isinstance(run(stage, **guide)[-1], Done)


def test_a_given_sound_that_is_not_a_number_is_refused_before_anything_is_loaded(
    folder: Path, tmp_path: Path
) -> None:
    samples = np.zeros((2, 48_000), np.float32)
    samples[0, 12_000:12_002] = NAN
    with pytest.raises(RequestError, match="2 of the sound's 96000 values are not numbers"):
        ss.Audio(samples)
    with pytest.raises(RequestError, match="values are not numbers"):
        ss.Source(ss.Clip(np.zeros((9, 64, 64, 3), np.uint8), samples, 24.0, {}), regenerate=(ss.Span(0, 1),))
    path = float_wav(tmp_path / "nan.wav", samples)
    stage = stage_of(folder)
    with pytest.raises(RequestError, match=r"nan\.wav holds 2 samples that are not numbers .* at 0\.25 s"):
        stage.plan(ss.Request(prompt="a", audio=ss.Audio(str(path))))


def float_wav(path: Path, samples: np.ndarray) -> Path:
    """A WAV of 32-bit floats, written by hand: no encoder lets such values through."""
    import struct

    data = samples.T.astype("<f4").tobytes()
    form = struct.pack("<HHIIHH", 3, samples.shape[0], 48_000, 48_000 * 8, 8, 32)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_every_format_of_values_and_weights_can_be_looked_at(dtype: torch.dtype) -> None:
    values = torch.randn(64, 64).to(dtype)
    assert finite(values)
    broken = values.clone()
    broken[3, 5] = NAN
    assert not finite(broken)
