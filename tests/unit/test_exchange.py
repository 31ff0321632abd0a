"""Which references take part in the attention between picture and sound, from a LoRA's file to the block."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import soundstage as ss
from soundstage.conditioning.positions import audio_positions, identity_positions
from soundstage.conditioning.tokens import Added, Tokens
from soundstage.errors import RequestError, WeightsError
from soundstage.library.model_files import find_model
from soundstage.lora.files import LoraFile, write_lora
from soundstage.lora.layers import Layer, LowRank
from soundstage.lora.metadata import LoraReferences, metadata_of, read_references, strictest
from soundstage.model.transformer import ModalityInputs, Transformer
from soundstage.planning.planner import make_plan
from soundstage.request.request import Request
from soundstage.sampling.streams import Stream
from soundstage.types import Exchange
from tests.tiny_transformer import NUM_AUDIO, modalities, random_lora, transformer

NANO_AUDIO = 128  # numbers of a token of the sound in nano

NUM_VOICE = 3  # the last audio tokens are those of a voice


@pytest.fixture(scope="module")
def one_block() -> Transformer:
    """With one block, what a token says cannot go by way of another token of the other stream."""
    model = transformer()
    model.transformer_blocks = model.transformer_blocks[:1]
    return model


def flags() -> Tensor:
    return torch.arange(NUM_AUDIO) >= NUM_AUDIO - NUM_VOICE


@torch.no_grad()
def run(model: Transformer, video: ModalityInputs, audio: ModalityInputs) -> tuple[Tensor, Tensor]:
    made = model(video, audio)
    assert made[0] is not None
    assert made[1] is not None
    return made[0], made[1]


def voiced_modalities() -> tuple[ModalityInputs, ModalityInputs]:
    """Inputs whose voice and sound do not attend to each other, so that only the other stream can tell."""
    video, audio = modalities()
    alike = (flags()[:, None] == flags()[None]).float()[None]
    return video, replace(audio, attention_mask=alike)


def louder_voice(audio: ModalityInputs) -> ModalityInputs:
    latents = audio.latents.clone()
    latents[:, -NUM_VOICE:] += 1
    return replace(audio, latents=latents)


def test_the_other_stream_does_not_read_what_is_unread(one_block: Transformer) -> None:
    video, audio = voiced_modalities()
    read = [run(one_block, video, one)[0] for one in (audio, louder_voice(audio))]
    assert not torch.allclose(*read)
    audio = replace(audio, unread=flags())
    kept = [run(one_block, video, one)[0] for one in (audio, louder_voice(audio))]
    torch.testing.assert_close(*kept)


def test_unread_tokens_are_to_the_other_stream_as_if_they_were_not_there(one_block: Transformer) -> None:
    video, audio = voiced_modalities()
    own = {name: getattr(audio, name)[:, :-NUM_VOICE] for name in ("latents", "timesteps")}
    shorter = replace(audio, attention_mask=None, positions=audio.positions[:, :, :-NUM_VOICE], **own)
    masked = run(one_block, video, replace(audio, unread=flags()))[0]
    torch.testing.assert_close(masked, run(one_block, video, shorter)[0])


def test_what_is_unreading_does_not_read_the_other_stream(one_block: Transformer) -> None:
    video, audio = modalities()
    audio = replace(audio, unreading=flags())
    first, again = (
        run(one_block, one, audio)[1] for one in (video, replace(video, latents=video.latents + 1))
    )
    torch.testing.assert_close(first[:, -NUM_VOICE:], again[:, -NUM_VOICE:])
    assert not torch.allclose(first[:, :-NUM_VOICE], again[:, :-NUM_VOICE])


def voiced(exchange: Exchange) -> Stream:
    tokens = Tokens.fresh(audio_positions(4), 16, torch.float32)
    voice = Added(torch.ones(1, 2, 16), 0.0, identity_positions(2), is_reference=True, exchange=exchange)
    tokens.add(voice)
    return tokens.stream()


@pytest.mark.parametrize(("exchange", "unread", "unreading"), [("reads", True, False), ("clip", True, True)])
def test_a_stream_marks_the_tokens_of_its_references(
    exchange: Exchange, unread: bool, unreading: bool
) -> None:
    stream = voiced(exchange)
    marked = [False] * 4 + [True] * 2
    for found, expected in ((stream.unread, unread), (stream.unreading, unreading)):
        assert (found is not None) is expected
        assert found is None or found.tolist() == marked
    bare = stream.without_reference()
    assert bare.unread is not None
    assert not bare.unread.any()
    assert voiced("all").unread is None


# --- what decides ---------------------------------------------------------------------------------------


@pytest.fixture
def lora(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A LoRA of nano's layers whose file names the mask that the test is parametrized with."""
    path = tmp_path / "dub.safetensors"
    pair = LowRank(torch.ones(2, NANO_AUDIO), torch.ones(NANO_AUDIO, 2))
    file = LoraFile({Layer("transformer", "transformer_blocks.0.audio_attn1.to_q"): pair})
    references = LoraReferences(in_context=True, exchange=request.param)
    write_lora(path, replace(file, references=references))
    return path


@pytest.mark.parametrize("lora", ["clip"], indirect=True)
def test_a_loras_file_says_which_references_take_part(lora: Path) -> None:
    assert read_references(lora).exchange == "clip"
    made = make_plan(Request(prompt="A ball.", loras=[ss.Lora(str(lora))]), find_model("nano"))
    assert [pass_.exchange for pass_ in made.passes] == ["clip"]


@pytest.mark.parametrize("lora", ["clip"], indirect=True)
def test_a_recipe_decides_before_the_file(lora: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "open.yaml"
    recipe.write_text("summary: all is read\npasses: [{name: one, exchange: all}]\n")
    fields: dict[str, Any] = {"recipe": str(recipe), "loras": [ss.Lora(str(lora))]}
    made = make_plan(Request(prompt="A ball.", **fields), find_model("nano"))
    assert made.passes[0].exchange == "all"


@pytest.mark.parametrize("lora", ["some"], indirect=True)
def test_an_unknown_mask_in_a_file_is_refused_by_name(lora: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"reference_exchange is 'some'; it must be one of all, reads, clip"
    ):
        read_references(lora)
    with pytest.raises(RequestError, match="reference_exchange"):
        make_plan(Request(prompt="A ball.", loras=[ss.Lora(str(lora))]), find_model("nano"))


def test_of_several_loras_the_strictest_mask_holds() -> None:
    assert strictest(["all", "reads"]) == "reads"
    assert strictest(["clip", "all"]) == "clip"
    assert strictest([]) == "all"
    assert "reference_exchange" not in metadata_of(random_lora(transformer()).references)
