"""Calls in diffusers' words, and the requests that they would run."""

from typing import Any

import pytest

import soundstage as ss
from soundstage.engine import Engine

PROMPT = "A red ball bounces."
SHORT: dict[str, Any] = {
    "num_frames": 9,
    "num_inference_steps": 1,
    "guidance_scale": 1.0,
    "output_type": "np",
}


def asked_by(pipe: Any, monkeypatch: pytest.MonkeyPatch, *values: Any, **words: Any) -> ss.Request:
    """The request of a call."""
    seen: list[ss.Request] = []

    def stop(engine: Any, request: ss.Request) -> None:
        seen.append(request)
        raise StopIteration

    monkeypatch.setattr(Engine, "plan", stop)
    with pytest.raises(StopIteration):
        pipe(*values, **words)
    return seen[-1]
