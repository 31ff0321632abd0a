"""The benchmark's command on a small structure: all its rows, on the CPU, with the device's marked."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from click.testing import CliRunner

from soundstage.cli.main import app
from soundstage.diagnostics import benchmark, random_weights
from soundstage.memory.policy import Residency
from soundstage.model.published import transformer_header, video_vae_header

runner = CliRunner()
CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published structure at a narrow width."""
    heads = {"num_heads": 2, "head_dim": 32, "audio_num_heads": 2, "audio_head_dim": 16}
    monkeypatch.setattr(random_weights, "transformer_header", partial(transformer_header, **heads))
    widths = {"encoder_base_channels": 16, "decoder_base_channels": 16}
    monkeypatch.setattr(random_weights, "video_vae_header", partial(video_vae_header, **widths))
    monkeypatch.setattr(benchmark, "CUT_DECODE", (64, 64, 9))


def test_without_a_device_the_cut_is_timed_and_the_rest_is_marked(small: None) -> None:
    options = ["--device", "cpu", "--size", "64x64x9", "--repeats", "1", "--weights", "bfloat16", "--json"]
    result = runner.invoke(app, ["bench", *options])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    timed = [row for row in rows if row["seconds"] is not None]
    assert [row["what"] for row in timed] == [
        "resident step", "streamed step", "decode whole", "decode in pieces",
    ]  # fmt: skip
    assert timed[1]["kept"] == 0
    rest = [row for row in rows if row["seconds"] is None]
    assert len(rest) == 2 * len(benchmark.FULL_SIZES) * (1 + len(benchmark.CAPS_GB)) + 1
    assert {row["note"] for row in rest} == {"not measured: no CUDA device"}


@pytest.mark.parametrize(
    "weights",
    [w if w == "fp8" else pytest.param(w, marks=pytest.mark.slow) for w in benchmark.WEIGHTS],
)
def test_resident_and_streamed_have_the_same_random_weights(small: None, weights: str) -> None:
    outputs = []
    for residency in (Residency(), Residency("stream", resident_blocks=1), Residency("stream")):
        model, placed = random_weights.random_transformer(3, weights, CPU, residency)
        video, audio = random_weights.modalities((64, 64, 9), CPU, model)
        with torch.no_grad():
            outputs.append(torch.cat([x.flatten() for x in model(video, audio)]))
        if placed is not None:
            placed.streamer.close()
    assert torch.isfinite(outputs[0].float()).all()
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--model", "70b"], "model is '70b'; the benchmark builds 22b-random"),
        (["--size", "100x64x9"], "size is '100x64x9'; give WIDTHxHEIGHTxFRAMES"),
        (["--weights", "int3"], "weights is 'int3'; give one of int8, bfloat16, fp8"),
    ],
)
def test_bad_options_are_one_sentence(options: list[str], sentence: str) -> None:
    result = runner.invoke(app, ["bench", "--device", "cpu", *options])
    assert result.exit_code == 2
    assert sentence in result.output.replace("--model is", "model is").replace("--size is", "size is")
