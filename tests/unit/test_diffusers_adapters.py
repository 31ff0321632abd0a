"""LoRAs of a pipeline by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import soundstage as ss
from soundstage.errors import RequestError
from tests.pipelines import PROMPT, asked_by


@pytest.fixture
def asked(pipe: ss.LTXVideoPipeline, monkeypatch: pytest.MonkeyPatch) -> Callable[[], ss.Request]:
    """The request that a call would run."""
    return lambda: asked_by(pipe, monkeypatch, PROMPT)


def test_adapters_are_called_by_name(
    pipe: ss.LTXVideoPipeline, tmp_path: Path, asked: Callable[[], ss.Request]
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").touch()
    pipe.load_lora_weights(tmp_path / "a.safetensors")
    pipe.load_lora_weights(tmp_path, weight_name="b.safetensors", adapter_name="style")
    assert pipe.get_list_adapters() == {"transformer": ["default_0", "style"]}
    pipe.set_adapters(["style", "default_0"], [0.5, 0.25])
    assert [(Path(lora.path).stem, lora.strength) for lora in asked().loras] == [("b", 0.5), ("a", 0.25)]
    pipe.disable_lora()
    assert pipe.get_active_adapters() == []
    pipe.enable_lora()
    pipe.delete_adapters("style")
    assert pipe.get_active_adapters() == ["default_0"]


def test_a_dict_of_weights_is_multipliers_of_groups(
    pipe: ss.LTXVideoPipeline, tmp_path: Path, asked: Callable[[], ss.Request]
) -> None:
    a, b = (str(tmp_path / f"{name}.safetensors") for name in "ab")
    for path in (a, b):
        Path(path).touch()
        pipe.load_lora_weights(path, adapter_name=Path(path).stem)
    groups: dict[Any, float] = {"video": 1.0, "audio": 0.5}
    pipe.set_adapters(["a", "b"], [groups, 0.3])
    assert asked().loras == (ss.Lora(a, groups=groups), ss.Lora(b, 0.3))
    pipe.set_adapters(["a", "b"], {"audio": 0})
    assert asked().loras == (ss.Lora(a, groups={"audio": 0}), ss.Lora(b, groups={"audio": 0}))
    pipe.set_adapters("a")  # nothing stays of the weights before
    assert asked().loras == (ss.Lora(a),)
    wrong: tuple[tuple[Any, str], ...] = (
        ({"sound": 1}, "groups has 'sound'; it should be 'video'"),
        (11.0, "strength is 11"),
    )
    for weights, says in wrong:
        with pytest.raises(RequestError, match=says):
            pipe.set_adapters("a", weights)
    assert asked().loras == (ss.Lora(a),)


def test_adapters_that_do_not_fit_are_refused(pipe: ss.LTXVideoPipeline, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is no file"):
        pipe.load_lora_weights(tmp_path / "none.safetensors")
    (tmp_path / "a.safetensors").touch()
    pipe.load_lora_weights(tmp_path / "a.safetensors", adapter_name="a")
    with pytest.raises(RequestError, match="is loaded already"):
        pipe.load_lora_weights(tmp_path / "a.safetensors", adapter_name="a")
    with pytest.raises(RequestError, match="adapter b is not loaded; loaded: a"):
        pipe.set_adapters("b")
    asks: tuple[tuple[Callable[[], None], str], ...] = (
        (lambda: pipe.set_adapters(3), "adapter_names is 3; give a list"),  # type: ignore[arg-type]
        (lambda: pipe.set_adapters([3]), "an adapter's name is 3; give text"),  # type: ignore[list-item]
        (lambda: pipe.load_lora_weights(tmp_path, adapter_name=3), "an adapter's name is 3"),  # type: ignore[arg-type]
        (lambda: pipe.fuse_lora(lora_scale="a"), "lora_scale is 'a'; give a number"),  # type: ignore[arg-type]
    )
    for ask, says in asks:
        with pytest.raises(RequestError, match=says):
            ask()
    with pytest.raises(RequestError, match="2 values for 1 adapters"):
        pipe.set_adapters(["a"], [1.0, 2.0])


def test_fused_adapters_stay(
    pipe: ss.LTXVideoPipeline, tmp_path: Path, asked: Callable[[], ss.Request]
) -> None:
    file = tmp_path / "a.safetensors"
    file.touch()
    pipe.load_lora_weights(tmp_path, adapter_name="a")  # the only one in the folder
    pipe.set_adapters("a", 0.5)
    pipe.fuse_lora(lora_scale=0.5)
    assert (pipe.num_fused_loras, pipe.fused_loras) == (1, {"a"})
    assert asked().loras == (ss.Lora(str(file), 0.25),)
    pipe.unload_lora_weights()
    assert asked().loras == (ss.Lora(str(file), 0.25),)
    pipe.unfuse_lora()
    assert asked().loras == ()
    pipe.load_lora_weights(str(file), adapter_name="b")
    pipe.load_lora_weights(str(file), adapter_name="b", hotswap=True)
    (tmp_path / "b.safetensors").touch()
    with pytest.raises(RequestError, match=r"holds a.safetensors, b.safetensors; name one by weight_name"):
        pipe.load_lora_weights(tmp_path)
