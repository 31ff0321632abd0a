"""The sound parts compute in float32, whatever the process has allowed, and leave its settings alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from soundstage.model.audio_vae import AudioVae
from soundstage.model.config import AudioVaeConfig, VocoderConfig
from soundstage.model.mel import log_mel, resample
from soundstage.model.precision import _settings, exact_products
from soundstage.model.published import audio_vae_header, vocoder_header
from soundstage.model.vocoder import Vocoder
from tests.limits import LONG_S, joined

backends: Any = torch.backends


def now() -> list[str]:
    return [setting.fp32_precision for setting in _settings()]


@pytest.fixture(autouse=True)
def as_they_were() -> Iterator[None]:
    before = now()
    yield
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = True
    for setting, value in zip(_settings(), before, strict=True):
        setting.fp32_precision = value


def old_settings() -> tuple[object, ...]:
    """What the older settings say; PyTorch refuses to answer once the newer ones were used."""
    found: list[object] = []
    for read in (lambda: backends.cudnn.allow_tf32, torch.get_float32_matmul_precision):
        try:
            found.append(read())
        except RuntimeError:
            found.append("refused")
    return tuple(found)


def old_way() -> None:
    backends.cudnn.allow_tf32 = True
    backends.cuda.matmul.allow_tf32 = True


def new_way() -> None:
    backends.cudnn.conv.fp32_precision = "tf32"
    backends.cuda.matmul.fp32_precision = "tf32"


ALLOWED: list[Callable[[], None]] = [
    lambda: None,
    old_way,
    new_way,
    lambda: torch.set_float32_matmul_precision("medium"),
]


@pytest.mark.parametrize("allow", ALLOWED)
def test_settings_are_exact_within_and_as_before_after(allow: Callable[[], None]) -> None:
    allow()
    before, old = now(), old_settings()
    with exact_products():
        assert set(now()) == {"ieee"}
        with exact_products():
            pass
        assert set(now()) == {"ieee"}
    assert now() == before
    assert old_settings() == old


def test_an_error_within_restores_them() -> None:
    new_way()
    before = now()
    with pytest.raises(ZeroDivisionError), exact_products():
        _ = 1 // 0
    assert now() == before


def test_threads_do_not_restore_each_others() -> None:
    new_way()
    before, entered, leave, seen = now(), threading.Event(), threading.Event(), []

    def stay() -> None:
        with exact_products():
            entered.set()
            leave.wait(LONG_S)
            seen.append(now())

    thread = threading.Thread(target=stay)
    thread.start()
    assert entered.wait(LONG_S)
    with exact_products():
        pass
    assert set(now()) == {"ieee"}  # the other is still at work
    leave.set()
    joined(thread)
    assert set(seen[0]) == {"ieee"}
    assert now() == before


def watched(module: nn.Module, seen: list[list[str]]) -> None:
    """Note the settings whenever a convolution of the module runs."""
    for part in module.modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d):
            part.register_forward_pre_hook(lambda *_: seen.append(now()))


def vocoder() -> Vocoder:
    header = {"vocoder": vocoder_header(base_channels=64, bwe_channels=32)}
    return Vocoder(VocoderConfig.from_header(header))


def audio_vae() -> AudioVae:
    return AudioVae(AudioVaeConfig.from_header({"audio_vae": audio_vae_header(base_channels=32)}))


CALLS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Tensor]]] = {
    "vocoder": (vocoder, lambda module: module(torch.zeros(1, 2, 4, 64))),
    "decode": (audio_vae, lambda module: module.decode(torch.zeros(1, 8, 2, 16))),
    "encode": (audio_vae, lambda module: module.encode(torch.zeros(1, 2, 5, 64))),
}


@pytest.mark.parametrize("name", list(CALLS))
def test_the_sound_parts_run_within(name: str) -> None:
    build, call = CALLS[name]
    module, seen = build(), []
    watched(module, seen)
    new_way()
    with torch.no_grad():
        call(module)
    assert len(seen) > 5
    assert all(set(settings) == {"ieee"} for settings in seen)
    assert backends.cuda.matmul.fp32_precision == "tf32"


def test_the_way_in_for_sound_runs_within(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    real_conv, real_stft = torch.nn.functional.conv1d, torch.stft

    def conv1d(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(now())
        return real_conv(*args, **kwargs)

    def stft(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(now())
        return real_stft(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "conv1d", conv1d)
    monkeypatch.setattr(torch, "stft", stft)
    new_way()
    sound = torch.randn(1, 2, 4800, generator=torch.Generator().manual_seed(0))
    log_mel(resample(sound, 48000, 16000))
    assert len(seen) >= 2
    assert all(set(settings) == {"ieee"} for settings in seen)
