"""Configs that were saved again by other programs: what may be missing, what may not, what is refused."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from soundstage.errors import SoundstageError
from soundstage.model.config import UpsamplerConfig
from soundstage.model.published import upsampler_header
from soundstage.weights.configs import FILLED, completed, part_config, stored_config
from soundstage.weights.header import read_header
from soundstage.weights.layouts import PARTS, Part, PartTensors, find_parts

NANO = Path(__file__).parents[2] / "soundstage" / "nano" / "weights"
NAMES = ("transformer", "video_vae", "audio_vae")
HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 3, 10**9, 10**30, 0.0, -1.5, 1e308, float("nan"), float("inf"), "", "x",
    "zeros", [], [0], [None], [[]], ["res_x", 4], {}, {"num_layers": 0}, {"a": {}},
]  # fmt: skip
# Sizes, layers and heads: what a file alone knows.
REQUIRED: dict[tuple[str, ...], tuple[str, ...]] = {
    ("transformer",): (
        "num_layers", "num_attention_heads", "attention_head_dim", "cross_attention_dim", "caption_channels",
        "audio_num_attention_heads", "audio_attention_head_dim", "audio_cross_attention_dim",
        "connector_num_layers", "connector_num_attention_heads", "connector_attention_head_dim",
    ),
    ("vae",): (
        "encoder_base_channels", "decoder_base_channels", "encoder_blocks", "decoder_blocks",
    ),
    ("audio_vae", "model", "params", "ddconfig"): ("ch",),
    ("vocoder", "vocoder"): ("upsample_initial_channel",),
    ("vocoder", "bwe"): ("upsample_initial_channel",),
}  # fmt: skip


@pytest.fixture(scope="module")
def nano() -> tuple[dict[Part, PartTensors], dict[str, Any]]:
    files = [read_header(NANO / f"{name}.safetensors") for name in NAMES]
    return dict(find_parts(files)), stored_config(files)


def section(config: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for name in path:
        config = config[name]
    return config


def configs(parts: dict[Part, PartTensors], config: dict[str, Any]) -> list[Any]:
    return [part_config(part, parts, config) for part in PARTS]


def cases(table: Mapping[tuple[str, ...], Sequence[str]]) -> list[Any]:
    return [
        pytest.param(path, key, id=".".join((*path, key))) for path, keys in table.items() for key in keys
    ]


def refusal(read: Callable[[], Any]) -> str:
    """The sentence of our own that reading ends in, or nothing."""
    try:
        read()
    except SoundstageError as error:
        return str(error)
    return ""


def test_a_complete_config_has_no_notice(nano: Any) -> None:
    parts, config = nano
    assert completed(config, parts) == (config, ())


@pytest.mark.parametrize(("path", "key"), cases(FILLED))
def test_a_missing_key_takes_the_published_value_and_a_notice_names_it(
    nano: Any, path: tuple[str, ...], key: str
) -> None:
    parts, config = nano
    lacking = copy.deepcopy(config)
    value = section(lacking, path).pop(key)
    assert configs(parts, lacking) == configs(parts, config)
    (notice,) = completed(lacking, parts)[1]
    assert notice.startswith(f"the stored {'.'.join(path)} config lacks {key} ({value!r})")


@pytest.mark.parametrize(("path", "key"), cases(REQUIRED))
def test_what_only_the_file_knows_stays_required(nano: Any, path: tuple[str, ...], key: str) -> None:
    parts, config = nano
    lacking = copy.deepcopy(config)
    del section(lacking, path)[key]
    with pytest.raises(SoundstageError, match=f"config has no '{key}'"):
        configs(parts, lacking)


@pytest.mark.parametrize(("path", "key"), [*cases(FILLED), *cases(REQUIRED)])
def test_a_key_with_an_unknown_value_is_refused_by_name(nano: Any, path: tuple[str, ...], key: str) -> None:
    parts, config = nano
    for value in ("something else", None, -3):
        changed = copy.deepcopy(config)
        section(changed, path)[key] = value
        with pytest.raises(SoundstageError, match=key):
            configs(parts, changed)


def test_a_section_without_its_preprocessing_is_filled(nano: Any) -> None:
    parts, config = nano
    lacking = copy.deepcopy(config)
    del lacking["audio_vae"]["preprocessing"]
    assert configs(parts, lacking) == configs(parts, config)
    assert len(completed(lacking, parts)[1]) == 2


def test_hostile_configs_end_in_our_own_errors(nano: Any) -> None:
    """Any value anywhere, seeded: a config of its own, or one sentence."""
    parts, config = nano
    rng = random.Random(8)
    for _ in range(1500):
        changed = copy.deepcopy(config)
        place: Any = changed
        while True:
            key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.2:
                break
            place = place[key]
        if isinstance(place, dict) and rng.random() < 0.2:
            del place[key]
        else:
            place[key] = rng.choice(HOSTILE)
        assert refusal(lambda changed=changed: configs(parts, changed)).isprintable()


def test_hostile_configs_of_upsamplers_end_in_our_own_errors() -> None:
    for key in upsampler_header("x1.5"):
        for value in HOSTILE:
            sentence = refusal(
                lambda key=key, value=value: UpsamplerConfig.from_header(
                    {**upsampler_header("x1.5"), key: value}
                )
            )
            assert not sentence or key in sentence or key == "rational_resampler"


def test_nano_stores_block_lists_as_other_loaders_read_them() -> None:
    """A number with its name: a bare one is taken for a number of layers elsewhere."""
    stored = read_header(NANO / "video_vae.safetensors").config
    assert stored is not None
    for half in ("encoder_blocks", "decoder_blocks"):
        for name, settings in stored["vae"][half]:
            assert list(settings) == ["num_layers" if name == "res_x" else "multiplier"]


def test_older_nano_files_with_bare_numbers_are_read(nano: Any) -> None:
    parts, config = nano
    older = json.loads(json.dumps(config))
    for half in ("encoder_blocks", "decoder_blocks"):
        older["vae"][half] = [[name, next(iter(settings.values()))] for name, settings in older["vae"][half]]
    assert part_config("video_vae", parts, older) == part_config("video_vae", parts, config)
