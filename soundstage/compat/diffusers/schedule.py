"""Read diffusers' schedulers as a Request's schedule and sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from soundstage.compat.diffusers.parts import FrozenConfig
from soundstage.errors import RequestError, shown
from soundstage.sampling.sampler_info import SAMPLER_INFO

# The config of the published dev model, which the engine follows by its schedule "ltx2".
PUBLISHED: Mapping[str, Any] = {
    "use_dynamic_shifting": True,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "base_image_seq_len": 1024,
    "max_image_seq_len": 4096,
    "shift": 1.0,
    "shift_terminal": 0.1,
    "num_train_timesteps": 1000,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
CURVES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


class FlowMatchEulerDiscreteScheduler:
    """Noise levels and straight steps, by config."""

    def __init__(self, **config: Any) -> None:
        self.config = FrozenConfig({**PUBLISHED, **config})

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **changes: Any) -> FlowMatchEulerDiscreteScheduler:
        if not isinstance(config, Mapping):
            raise RequestError(f"config is {shown(config)}; give the config of a scheduler", field="config")
        return cls(**{**config, **changes})

    @classmethod
    def from_pretrained(cls, model: Any, **words: Any) -> FlowMatchEulerDiscreteScheduler:
        """Return the published model's; the engine has each model's own schedule."""
        return cls()


class LTXEulerAncestralRFScheduler(FlowMatchEulerDiscreteScheduler):
    """Steps that add fresh noise."""


def fields_of(scheduler: Any) -> dict[str, Any]:
    """Return the fields of a Request for a scheduler of this file, or diffusers' own of the same name.

    Raises RequestError for a scheduler or a config that the engine does not have.
    """
    name, config = type(scheduler).__name__, dict(getattr(scheduler, "config", {}))
    if name == "LTXEulerAncestralRFScheduler":
        return {"sampler": "euler-ancestral"}
    if name != "FlowMatchEulerDiscreteScheduler":
        raise RequestError(
            f"scheduler is a {name}, which Soundstage does not have; leave it, and give sampler in the call: "
            f"one of {', '.join(SAMPLER_INFO)}",
            field="scheduler",
        )
    wrong = {key: config.get(key) for key in CURVES if config.get(key)}
    if config.get("shift", 1.0) != 1.0 and not config.get("use_dynamic_shifting"):
        wrong["shift"] = config["shift"]
    dynamic, terminal = bool(config.get("use_dynamic_shifting")), config.get("shift_terminal")
    if terminal != (0.1 if dynamic else None):
        wrong["shift_terminal"] = terminal
    if wrong:
        raise RequestError(
            f"the scheduler's config has {shown(wrong)}, which Soundstage does not have; give sigmas or "
            "schedule in the call",
            field="scheduler",
        )
    return {"schedule": "ltx2" if dynamic else "linear"}
