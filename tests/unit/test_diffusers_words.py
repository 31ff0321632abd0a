"""The tables of words hold every argument and every public name of diffusers' LTX pipelines."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import pytest
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.ltx2 import utils as ltx2_utils

from soundstage.compat import diffusers as compat
from soundstage.compat.diffusers.words import ABSENT, CALL, LOADING, METHODS, PART_METHODS, UPSAMPLE_CALL
from soundstage.sampling.schedules import DISTILLED, REFINE

MAKING = (
    "LTX2Pipeline", "LTX2ImageToVideoPipeline", "LTX2ConditionPipeline", "LTX2InContextPipeline",
    "LTXPipeline", "LTXImageToVideoPipeline", "LTXConditionPipeline",
)  # fmt: skip
UPSAMPLING = ("LTX2LatentUpsamplePipeline", "LTXLatentUpsamplePipeline")
# What every class of diffusers has for its own use.
INTERNAL = {
    "config_name", "ignore_for_config", "has_compatibles", "model_cpu_offload_seq", "hf_device_map",
    "transformer_name", "connectors_name", "text_encoder_name", "unet_name",
}  # fmt: skip


def arguments(name: str) -> list[str]:
    return [
        word for word in inspect.signature(getattr(diffusers, name).__call__).parameters if word != "self"
    ]


@pytest.mark.parametrize("name", MAKING)
def test_every_argument_of_a_call_is_known(name: str) -> None:
    assert set(arguments(name)) <= set(CALL)
    ours = getattr(compat, name)
    assert tuple(arguments(name)[: len(ours.ORDER)]) == ours.ORDER


@pytest.mark.parametrize("name", UPSAMPLING)
def test_every_argument_of_upsampling_is_known(name: str) -> None:
    assert set(arguments(name)) <= set(UPSAMPLE_CALL)


def test_no_argument_is_made_up() -> None:
    assert set(CALL) == {word for name in MAKING for word in arguments(name)}
    assert set(UPSAMPLE_CALL) == {word for name in UPSAMPLING for word in arguments(name)}


@pytest.mark.parametrize("name", [*MAKING, *UPSAMPLING])
def test_every_public_name_of_a_pipeline_is_known(name: str) -> None:
    public = {word for word in dir(getattr(diffusers, name)) if not word.startswith("_")}
    assert public - INTERNAL <= set(METHODS)


@pytest.mark.parametrize("name", [name for name, word in METHODS.items() if word.fate == "mapped"])
def test_what_is_mapped_is_there(name: str) -> None:
    assert hasattr(compat.LTX2Pipeline.from_pretrained("nano"), name)


def test_defaults_of_diffusers_ask_for_nothing() -> None:
    """An argument that is given at its default is neither told nor refused."""
    for name in MAKING:
        parameters = inspect.signature(getattr(diffusers, name).__call__).parameters
        plain = [word for word in arguments(name) if CALL[word].fate != "mapped"]
        assert {word for word in plain if CALL[word].asks(parameters[word].default)} == set(), name


def test_every_class_of_the_family_is_there_or_told() -> None:
    family = {name for name in dir(diffusers) if name.startswith("LTX") and not name.endswith("Output")}
    assert family - set(compat.__all__) - set(ABSENT) == set()


def test_arguments_of_from_pretrained_are_known() -> None:
    source = inspect.getsource(diffusers.DiffusionPipeline.from_pretrained)
    popped = {line.split('"')[1] for line in source.splitlines() if 'kwargs.pop("' in line}
    assert popped
    assert popped <= set(LOADING)


def test_habits_of_parts_are_those_of_diffusers_models() -> None:
    vae = diffusers.AutoencoderKLLTX2Video
    names = {*dir(ModelMixin), *dir(vae), *dir(diffusers.LTX2VideoTransformer3DModel)}
    assert set(PART_METHODS) - names == set()


def test_the_published_lists_of_noise_levels_are_the_same() -> None:
    assert compat.DISTILLED_SIGMA_VALUES == ltx2_utils.DISTILLED_SIGMA_VALUES == list(DISTILLED[:-1])
    assert (
        compat.STAGE_2_DISTILLED_SIGMA_VALUES
        == ltx2_utils.STAGE_2_DISTILLED_SIGMA_VALUES
        == list(REFINE[:-1])
    )


def test_diffusers_own_scheduler_is_read_too() -> None:
    from soundstage.compat.diffusers.schedule import fields_of

    theirs: Any = diffusers.FlowMatchEulerDiscreteScheduler.from_config(  # type: ignore[no-untyped-call]
        compat.FlowMatchEulerDiscreteScheduler().config, use_dynamic_shifting=False, shift_terminal=None
    )
    assert fields_of(theirs) == {"schedule": "linear"}
