"""A short clip from beginning to end on this machine as it is, with AVX2 only, and without fast paths.

`make test` runs some of this file with AVX2 too. ONEDNN_MAX_CPU_ISA reproduces what a processor
without bfloat16 units does on one that has them, so each case sets its own in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
PLAIN = {"SOUNDSTAGE_FAST_PATHS": "off"}
REFUSED = """
import torch

x = torch.ones(8, 8, dtype=torch.bfloat16)
torch.ops.mkldnn._linear_pointwise(x, x, None, "none", [], "")
"""
CLIP = """
import sys

import numpy as np
import torch

import soundstage as ss

stage = ss.load("nano", device="cpu", dtype=sys.argv[1])
clip = stage.generate("A red ball rolls to the right.", num_frames=9, size=(64, 64), steps=1, seed=5)
assert clip.provenance["dtype"] == sys.argv[2] or sys.argv[2] == "any", clip.provenance["dtype"]
assert clip.frames.shape[0] == 9 and clip.frames.std() > 1
assert np.isfinite(clip.waveform).all()
"""


def run(code: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.parametrize("guise", [{}, AVX2, PLAIN], ids=["as it is", "AVX2", "plain"])
def test_a_clip_is_made_in_the_format_that_the_guise_is_fast_in(guise: dict[str, str]) -> None:
    done = run(CLIP, "auto", "float32" if guise is AVX2 else "any", **guise)
    assert done.returncode == 0, done.stderr[-2000:]


def test_bfloat16_works_on_a_processor_whose_onednn_refuses_it() -> None:
    refused = run(REFUSED, **AVX2)
    assert refused.returncode != 0
    assert "could not create a primitive descriptor" in refused.stderr
    done = run(CLIP, "bfloat16", "bfloat16", **AVX2)
    assert done.returncode == 0, done.stderr[-2000:]


SAME = """
import hashlib

import soundstage as ss

clip = ss.load("nano", device="cpu", dtype="float32").generate("A red ball.", num_frames=9, steps=1, seed=5)
print(hashlib.sha256(clip.frames.tobytes()).hexdigest(), hashlib.sha256(clip.waveform.tobytes()).hexdigest())
"""


@pytest.mark.skipif(
    os.environ.get("SOUNDSTAGE_FAST_PATHS") == "off",
    reason="PyTorch's own GELU differs at the edges of what each thread takes (docs/processors.md)",
)
def test_a_clip_has_the_same_bits_on_one_thread_and_on_two() -> None:
    one, two = (run(SAME, OMP_NUM_THREADS=count, MKL_NUM_THREADS=count) for count in ("1", "2"))
    assert one.returncode == 0, one.stderr[-2000:]
    assert one.stdout == two.stdout
