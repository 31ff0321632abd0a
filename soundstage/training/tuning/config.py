"""The config of a training: records whose fields are checked, and their way out of a YAML file. No torch.

    config = read_config("style.yaml", {"data": "my-data"})

A config names a mode (modes.py), whose values hold where it says nothing itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from soundstage.errors import ConfigError, RequestError, listed, shown
from soundstage.fields.record import Share, record, unit
from soundstage.fields.yaml_record import line_of
from soundstage.media.light import CurveName
from soundstage.training.tuning.modes import MODES, Mode
from soundstage.types import Exchange

StreamState = Literal["made", "given", "absent"]
TargetGroup = Literal["video", "audio", "between", "text", "ff"]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
StepCount = Annotated[int, Field(ge=1, le=1_000_000), unit("steps")]
OrNever = Annotated[int, Field(ge=0, le=1_000_000), unit("steps")]
Rank = Annotated[int, Field(ge=1, le=1024)]
Alpha = Annotated[float, Field(gt=0, le=4096)]
Weight = Annotated[float, Field(ge=0, le=100)]
Rate = Annotated[float, Field(gt=0, le=10)]
RECIPES = Path(__file__).with_name("recipes")


@record
class GivenPart:
    """A part of a clip that is given: its length, and how often."""

    latents: Annotated[int, Field(ge=1, le=10_000), unit("latents")]
    """Length: latent frames of the picture, of which the first is one frame and the others eight, or latents
    of the sound, 40 ms each."""
    chance: Share = 1.0
    """How often a sample has it."""


@record
class GivenBox:
    """A rectangle of the picture that is given; the rest is made around it."""

    box: tuple[
        Annotated[int, Field(ge=0)],
        Annotated[int, Field(ge=0)],
        Annotated[int, Field(ge=0)],
        Annotated[int, Field(ge=0)],
    ]
    """Its top, left, bottom and right edge in pixels; all are rounded down to multiples of 32."""
    chance: Share = 1.0
    """How often a sample has it."""


@record
class VideoTraining:
    """The picture in training: made, given or absent, and what of it is given."""

    stream: StreamState = "made"
    """Whether the picture is learned (made), seen without noise (given) or left out (absent)."""
    first_frame: Share = 0.0
    """How often the first frame is given, as a start picture is."""
    prefix: GivenPart | None = None
    """A beginning that is given, for clips that go on."""
    suffix: GivenPart | None = None
    """An end that is given, for clips that lead to it."""
    crop: GivenBox | None = None
    """A rectangle that is given, for outpainting."""
    mask: Share = 0.0
    """How often the part that a sample's own mask names is given, for inpainting."""
    reference: Share = 0.0
    """How often a batch sees its reference clips, as in-context LoRAs do."""
    reference_place: Literal["over", "before"] = "over"
    """Where a reference stands: over the clip, or as a still one frame before it (frame -1)."""
    reference_blend: Share = 0.0
    """How often a drawn share of the clip itself is mixed into its reference. A model that copies references
    then learns to read those that are unlike the picture, instead of learning to overlook them."""
    weight: Weight = 1.0
    """Weight of the picture's loss. With 0 no layer of the picture is trained."""


@record
class AudioTraining:
    """The sound in training: made, given or absent, and what of it is given."""

    stream: StreamState = "made"
    """Whether the sound is learned (made), heard without noise (given) or left out (absent)."""
    prefix: GivenPart | None = None
    """A beginning that is given."""
    suffix: GivenPart | None = None
    """An end that is given."""
    mask: Share = 0.0
    """How often the part that a sample's own mask names is given."""
    reference: Share = 0.0
    """How often a batch hears its reference sounds."""
    reference_place: Literal["over", "before"] = "before"
    """Where a reference stands: over the clip's own time, or before it, as a voice to speak with."""
    weight: Weight = 1.0
    """Weight of the sound's loss. With 0 the sound is there, as at inference, and none of its layers is
    trained."""


@record
class GroupRank:
    """Rank and alpha of one group of layers."""

    rank: Rank
    """Rank of its factors."""
    alpha: Alpha | None = None
    """What their product is multiplied by, over the rank. Left out, the rank."""


@record
class BaseLora:
    """A LoRA below the one that is trained."""

    path: str
    """Its file."""
    strength: Annotated[float, Field(ge=-10, le=10)] = 1.0
    """How strongly it is on."""


def _with_paths(value: Any) -> Any:
    """Return LoRAs as records, where some are given by their paths alone."""
    several = [value] if isinstance(value, str) else value
    if not isinstance(several, list | tuple):
        return value
    return [{"path": one} if isinstance(one, str) else one for one in several]


@record
class LoraTraining:
    """A LoRA that is trained: its layers and ranks."""

    rank: Rank = 32
    """Rank of the factors. 8 to 16 for motion, 16 to 32 for references, 32 to 64 for most else."""
    alpha: Alpha | None = None
    """What their product is multiplied by, over the rank. Left out, the rank."""
    targets: tuple[TargetGroup, ...] = ("video", "audio", "between")
    """Groups of layers: the attention of the picture (video), of the sound (audio), between them (between),
    to the prompt alone (text), and the feed-forwards (ff). Only layers that change a stream which is made
    are trained."""
    groups: Mapping[TargetGroup, GroupRank] = field(default_factory=dict, hash=False)
    """Rank and alpha of single groups, where they differ."""
    form: Literal["lora", "dora"] = "lora"
    """Whether lengths of rows are trained beside the factors (dora)."""
    start: str | None = None
    """The LoRA file of an earlier training, of the same layers and ranks, that this one goes on from with
    other data, rates or conditions. Left out, fresh factors."""
    over: Annotated[tuple[BaseLora, ...], BeforeValidator(_with_paths)] = ()
    """LoRAs that are on, and stay as they are, while this one is trained."""
    over_as: Literal["branch", "merged"] = "branch"
    """How these are on: beside the weights as at inference, or merged into them."""
    names: Literal["comfyui", "diffusers"] = "comfyui"
    """Spelling of the file's tensors: ComfyUI's, which most programs read, or diffusers'."""
    store: Literal["bfloat16", "float32"] = "bfloat16"
    """Number format of the file."""


@record
class Optimizer:
    """The optimizer: its kind and numbers."""

    name: Literal["adamw", "adamw8bit", "prodigy", "muon"] = "adamw"
    """adamw; adamw8bit, a quarter of its memory, on CUDA; prodigy, which finds its rate itself (give 1); or
    muon for the matrices."""
    rate: Rate = 1e-4
    """Largest learning rate."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.01
    """Decay of the weights."""
    clip: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Largest norm of the gradients."""


@record
class RateSchedule:
    """The learning rate over the steps."""

    kind: Literal["constant", "linear", "cosine"] = "linear"
    """Its form after the warm-up."""
    warmup: OrNever = 0
    """Steps over which it rises."""
    floor: Share = 0.1
    """Share of the rate at the end."""


@record
class NoiseLevels:
    """The noise levels that are drawn."""

    kind: Literal["shifted", "uniform"] = "shifted"
    """shifted: a logit-normal that more tokens move up, as the model was trained; uniform: all alike."""
    uniform_share: Share = 0.1
    """How many of the shifted ones are drawn uniformly."""
    shift: Annotated[float, Field(ge=-5, le=10)] | None = None
    """Centre of the normal number, not stretched: 2.3 for clips of few tokens, whose outlines are decided
    above 0.9. Left out, it grows with the tokens, and levels are stretched to the whole range."""
    audio: Literal["independent", "shared"] = "independent"
    """Whether the sound has a level of its own, or the picture's."""


@record
class Crepa:
    """Hold frames to their neighbours inside the model (CREPA), for steady pictures."""

    weight: Weight = 0.1
    """Weight in the loss."""
    student: Share = 1 / 3
    """Depth of the block that is held, as a share of all."""
    teacher: Share = 2 / 3
    """Depth of the block that it is held to."""
    neighbours: Annotated[int, Field(ge=0, le=16), unit("latent frames")] = 2
    """How far neighbours reach."""
    until: Share = 0.9
    """It is switched off for good when the mean similarity passes this."""


@record
class Regularisers:
    """Terms of the loss that keep the rest of the model as it is."""

    crepa: Crepa | None = None
    """Steadiness between frames."""
    blank: Weight = 0.0
    """Weight of keeping what an empty prompt makes."""
    prior: Weight = 0.0
    """Weight of keeping what the samples of prior_data make without the LoRA."""
    prior_data: str | None = None
    """An encoded dataset of the class, such as people besides the one who is learned."""
    audio_balance: Literal["none", "video"] = "none"
    """video: the sound's loss is scaled to a third of the picture's, both as running means."""


@record
class Validation:
    """Clips that are made during the training, by the engine itself."""

    every: OrNever = 0
    """Steps between them, step 0 included; 0 makes none."""
    requests: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    """Fields of a request for each clip: prompt, seed, size, num_frames, guides, references and others."""


@record
class TrainConfig:
    """A training of a LoRA, or of a small model as a whole."""

    data: str
    """The folder of an encoded dataset."""
    output: str
    """The folder of the run: its state, logs and files. A run that is there goes on."""
    model: str = "nano"
    """The model to train: a name, a folder or a file."""
    kind: Literal["lora", "full"] = "lora"
    """A LoRA, or all weights of the transformer (full)."""
    mode: Mode = "t2v"
    """What is made from what; it sets all fields below that are left out."""
    video: VideoTraining = field(default_factory=VideoTraining)
    """The picture: made, given or absent, and what is kept of it."""
    audio: AudioTraining = field(default_factory=AudioTraining)
    """The sound likewise."""
    exchange: Exchange = "all"
    """Which references and voices take part in the attention between picture and sound: all; those that read
    the other stream without being read (reads); none, so that the clip alone does (clip). The LoRA's file
    says so too."""
    lora: LoraTraining = field(default_factory=LoraTraining)
    """Layers and ranks of a LoRA."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    """Optimizer and learning rate."""
    schedule: RateSchedule = field(default_factory=RateSchedule)
    """The rate over the steps."""
    sigma: NoiseLevels = field(default_factory=NoiseLevels)
    """Noise levels."""
    steps: StepCount = 2000
    """Length of the training."""
    batch: Annotated[int, Field(ge=1, le=4096), unit("samples")] = 1
    """SampleOrder that are computed together; all are of one bucket."""
    accumulate: Annotated[int, Field(ge=1, le=4096), unit("batches")] = 1
    """Batches whose gradients make one step."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of averaged weights (EMA), which are those that are written; 0 writes the last ones."""
    blank_captions: Share = 0.0
    """How often a sample is learned under an empty prompt, for guidance."""
    curve: CurveName | None = None
    """The curve of the clips, where they are codes of light beyond white; the file's metadata names it."""

    trigger: str | None = None
    """The trigger words of the captions, which the file's metadata names."""
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    """Seed of all that is drawn."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """Number format of the frozen weights and of the computation."""
    weights: Literal["auto", "full", "stored", "fp8", "int8", "nf4"] = "auto"
    """How the frozen weights of the blocks are held; auto is as the file has them, nf4 is 4 bits."""
    residency: Literal["auto", "resident", "stream", "disk"] = "auto"
    """Where the blocks are while they are not used; auto is the fastest that fits."""
    memory_gb: Annotated[float, Field(gt=0, le=1e6), unit("GB")] | None = None
    """How much memory may be used. Left out, what is free."""
    checkpointing: Literal["auto", "blocks", "none"] = "auto"
    """blocks: activations within a block are computed again when they are needed; auto does so where the
    memory is short."""
    logs: Literal["none", "tensorboard"] = "none"
    """tensorboard: losses are also written for it, into the folder log of the run."""
    save_every: StepCount = 250
    """Steps between files of the LoRA."""
    keep: Count = 100
    """How many of these files stay, the newest."""
    stop_above: Annotated[float, Field(gt=0, le=100)] | None = 0.5
    """Stop when the running mean of the loss has risen by more than this share above its least; null never
    stops."""
    regularisers: Regularisers = field(default_factory=Regularisers)
    """What keeps the rest of the model as it is."""
    validation: Validation = field(default_factory=Validation)
    """Clips that are made during the training."""
    wants: str = ""
    """What data a recipe wants, in words."""


# --- from files ------------------------------------------------------------------------------------


def read_config(
    source: TrainConfig | Mapping[str, Any] | str | Path, changes: Mapping[str, Any] | None = None
) -> TrainConfig:
    """Return a config from a record, its fields, a YAML file, or the name of a recipe.

    changes: fields that win over it, nested ones by names such as "optimizer.rate". Raises ConfigError or
    RequestError for what does not fit; for what a file says it names the line.
    """
    if isinstance(source, TrainConfig):
        from dataclasses import replace

        return replace(source, **dict(changes or {}))
    if isinstance(source, Mapping):
        return _made(dict(source), changes or {})
    path = config_path(source)
    text = _text_of(path)
    try:
        return _made(_parsed(text, path), changes or {})
    except RequestError as error:
        if _is_about(str(error), changes or {}):
            raise
        line = line_of(str(error), text)
        raise ConfigError(f"{path}{line}: {error}") from error


def config_path(source: str | Path) -> Path:
    """Return the file of a config: its path, or a recipe's name. Raises RequestError for neither."""
    path = Path(source)
    if path.is_file():
        return path
    known = recipe_names()
    if str(source) in known:
        return RECIPES / f"{source}.yaml"
    raise RequestError(
        f"config is {shown(str(source))}, and there is no such file; give a .yaml file, or one of "
        f"the recipes {listed(str(source), known)}",
        field="config",
    )


def recipe_names() -> list[str]:
    """Return the names of the recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def fields_of(path: Path) -> dict[str, Any]:
    """Return the fields that a config file has. Raises ConfigError for one that cannot be read."""
    return _parsed(_text_of(path), path)


def with_changes(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with others put in, nested ones by names with dots."""
    found = dict(fields)
    for name, value in changes.items():
        first, _, rest = name.partition(".")
        inner = found.get(first)
        if rest:
            found[first] = with_changes(inner if isinstance(inner, Mapping) else {}, {rest: value})
        else:
            found[first] = value
    return found


def _is_about(message: str, changes: Mapping[str, Any]) -> bool:
    """Return whether a message begins with a field that changes give, which no line of a file does."""
    named = message.partition(" ")[0].strip("'")
    return any(f"{named}.".startswith((f"{name}.", f"{name}[")) for name in changes)


def _made(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> TrainConfig:
    asked = with_changes(fields, changes)
    name = asked.get("mode", "t2v")
    preset: Mapping[str, Any] = next((fields for mode, fields in MODES.items() if mode == name), {})
    return TrainConfig(**{str(key): value for key, value in _over(preset, asked).items()})


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return both mappings as one; where both have a field, the one above wins, also within it."""
    found = dict(below)
    for key, value in above.items():
        under = found.get(key)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        found[key] = _over(under, value) if both else value  # type: ignore[arg-type]
    return found


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); correct it") from error


def _parsed(text: str, path: Path) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        data = yaml.load(text, Loader=loader)
    except (RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not a YAML file that can be read ({error}); correct it") from error
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path} holds {shown(data)}; give the fields of a training")
    return {str(key): _numbers(value) for key, value in data.items()}


def _numbers(value: Any) -> Any:
    """Return values with numbers such as 1e-4, which YAML takes for words, as numbers."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value
