"""What the residency says of decoding is what the parts do, without building them again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from soundstage.library.model_files import find_model
from soundstage.memory.policy import Residency
from soundstage.rendering.parts import ModelParts
from tests.tiny_model import write_tiny_model

# Longer than a piece: the streaming decoder hands out several of it.
LATENTS = torch.randn(1, 128, 9, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_a_clip_is_decoded_as_the_residency_says(tmp_path: Path) -> None:
    model = find_model(write_tiny_model(tmp_path / "tiny"))
    parts = ModelParts(model, torch.device("cpu"), torch.float32)
    decoder = parts.video_vae
    in_pieces = list(parts.decode_pieces(LATENTS))
    assert parts.takes(Residency(decode="whole"), "full")
    (whole,) = parts.decode_pieces(LATENTS)
    torch.testing.assert_close(torch.cat(in_pieces, dim=2), whole, rtol=1e-4, atol=1e-4)
    assert torch.equal(whole, parts.decode_video(LATENTS))
    assert parts.video_vae is decoder
    assert parts.takes(Residency(), "full")
    assert not parts.takes(Residency("offload"), "full")
    assert not parts.takes(replace(parts.residency, num_slots=1), "full")
    assert not parts.takes(Residency(), "int8")
    assert parts.residency == Residency()
