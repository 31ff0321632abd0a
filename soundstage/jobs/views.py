"""Records that go into `Jobs` and come out of it. Their JSON is the JSON of the native API."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from soundstage.jobs.states import JobState, Priority

T = TypeVar("T")
JobKind = Literal["generate", "convert", "pull", "train"]
AssetKind = Literal[
    "input", "clip", "poster", "preview", "sheet", "latents", "lora", "mask", "data", "config", "losses",
    "report", "validation",
]  # fmt: skip
EventType = Literal["state", "progress", "preview", "log", "warning", "result"]
Scope = Literal["read", "submit", "admin", "worker"]
MAX_LABEL, MAX_WEBHOOK = 200, 2000


class View(BaseModel):
    """Base of what comes out."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


class JobRequest(View):
    """A job as a client asks for it: a request for the engine, and how its job is run."""

    kind: JobKind = "generate"
    """What is done: generate makes a clip, convert writes a finished clip in another format, pull downloads
    a model, train makes a LoRA."""
    request: dict[str, Any] = {}
    """The fields of a request. A file is a reference: "asset:ID", an https address, a data: URI, or for a
    LoRA "lora:NAME"."""
    model: str | None = None
    """Name of the model. Left out, the server's first."""
    format: str | None = None
    """Ending of the clip's file, such as mp4, webm, gif or wav. Left out, mp4, or wav for sound alone."""
    priority: Priority = "normal"
    """Which of the waiting jobs come first: low, normal or high."""
    preview_every: Annotated[int, Field(ge=0, le=1000)] = 0
    """Make a preview after every so many steps; 0 for none."""
    webhook_url: Annotated[str, Field(max_length=MAX_WEBHOOK)] | None = None
    """The https address that is told when the job has ended."""
    label: Annotated[str, Field(max_length=MAX_LABEL)] | None = None
    """A word of the client's own, which lists may be filtered by."""
    sheet: bool = False
    """Make a contact sheet of the clip too."""
    keep_latents: bool = False
    """Keep the clip's latents as a .safetensors file too."""
    latents: Annotated[str, Field(max_length=100)] | None = None
    """Start from these latents in place of noise: "asset:ID" of a .safetensors file, such as a job with
    keep_latents has made."""
    denoise: Annotated[float, Field(ge=0, le=1)] = 1.0
    """With latents: the share of the steps that changes them; 0 decodes them as they are."""
    asset: str | None = None
    """For convert: the clip to convert, by the ID of its asset."""
    data: Annotated[str, Field(max_length=4000)] | None = None
    """For train: the zip of clips and captions, "asset:ID" of an upload with the purpose data, or an https
    address."""
    training: dict[str, Any] = {}
    """For train: fields of a training's config, such as mode, steps, lora and optimizer, and recipe, the name
    of one that they stand on."""
    dataset: dict[str, Any] = {}
    """For train: how samples are made of the clips, as dataset.yaml says it: buckets, fps, sound, trigger and
    others; num_frames is their length, where buckets does not say it."""


class JobProgress(View):
    """The progress of a job. fraction: from 0 to 1; it never falls within an attempt. losses: those of a
    training's step."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    fraction: float = 0.0
    phase: str = "queued"
    pass_: Annotated[str | None, Field(alias="pass")] = None
    step: int = 0
    num_steps: int = 0
    window: int = 1
    num_windows: int = 1
    remaining_s: float | None = None
    losses: dict[str, float] | None = None


class Asset(View):
    """A file of the server's: an input that a client sent, or part of a result."""

    id: str
    object: Literal["asset"] = "asset"
    kind: AssetKind
    media_type: str
    bytes: int
    sha256: str
    name: str | None = None
    created_at: float
    expires_at: float | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    num_frames: int | None = None
    duration_s: float | None = None
    sample_rate: int | None = None
    has_sound: bool | None = None
    url: str


class PassView(View):
    """One pass of a plan."""

    name: str
    size: tuple[int, int]
    steps: int


class PlanView(View):
    """A plan: the result, and what making it takes. seconds: expected work; None where unknown."""

    object: Literal["plan"] = "plan"
    model: str
    summary: str
    size: tuple[int, int]
    num_frames: int
    fps: float
    duration_s: float
    passes: list[PassView]
    seed: int | None = None
    seconds: float | None = None
    memory_gb: float | None = None
    notes: list[str] = []


class JobFault(View):
    """The reason of a failed job. code: a word for programs."""

    code: str
    message: str
    field: str | None = None


class Result(View):
    """The files of a job that succeeded. Of a training: the LoRA, the config that made it, the table of its
    losses, its page, and the clips on the way, by their names."""

    clip: Asset | None = None
    poster: Asset | None = None
    sheet: Asset | None = None
    latents: Asset | None = None
    lora: Asset | None = None
    config: Asset | None = None
    losses: Asset | None = None
    report: Asset | None = None
    validation: list[Asset] = []

    @property
    def main(self) -> Asset | None:
        """Return the file that the job was for."""
        return self.clip or self.lora


class Links(View):
    """Paths of a job in the native API."""

    self: str
    events: str
    cancel: str
    content: str


class Job(View):
    """A job as its owner sees it."""

    id: str
    object: Literal["job"] = "job"
    kind: JobKind
    state: JobState
    model: str | None
    label: str | None = None
    owner: str
    via: str
    priority: Priority
    format: str | None = None
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    attempt: int = 0
    position: int | None = None
    eta_s: float | None = None
    progress: JobProgress = JobProgress()
    request: dict[str, Any] = {}
    seed: int | None = None
    plan: PlanView | None = None
    warnings: list[str] = []
    error: JobFault | None = None
    preview: Asset | None = None
    result: Result | None = None
    parent_id: str | None = None
    links: Links


class JobEvent(View):
    """An event of a job. id rises over all jobs; fields that a type has not are left out."""

    id: int
    job_id: str
    type: EventType
    at: float
    state: JobState | None = None
    progress: JobProgress | None = None
    asset: Asset | None = None
    message: str | None = None
    level: str | None = None
    error: JobFault | None = None
    result: Result | None = None


class Owner(View):
    """The owner of jobs and files, and what the key at hand allows."""

    id: str
    name: str
    scopes: frozenset[Scope] = frozenset({"read", "submit"})
    is_local: bool = False
    key_id: str | None = None

    def may(self, scope: Scope) -> bool:
        """Return whether a scope is allowed; admin is all of them but a worker's."""
        return scope in self.scopes or ("admin" in self.scopes and scope != "worker")


LOCAL = Owner(
    id="local", name="local", scopes=frozenset({"read", "submit", "admin", "worker"}), is_local=True
)


class Key(View):
    """A key, without its secret."""

    id: str
    object: Literal["key"] = "key"
    owner: str
    name: str
    scopes: list[Scope]
    created_at: float
    last_used_at: float | None = None


class Page(View, Generic[T]):
    """A part of a list, and whether more follows."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


# --- what workers and the store say to each other -----------------------------------------------------


class WorkerInfo(View):
    """A worker, as it says who it is when it asks for a job.

    id: one for each process. models: names it may run, empty for all. loaded: the affinity of what is warm.
    machine: fields of memory.machine.Machine when it began, before a model was loaded.
    """

    id: str
    name: str
    device: str = "cpu"
    models: list[str] = []
    loaded: str | None = None
    machine: dict[str, Any] = {}
    local: bool = False


class WorkerView(View):
    """A worker that was seen lately, or is started again. note: why it is not there."""

    id: str
    object: Literal["worker"] = "worker"
    name: str
    device: str
    state: Literal["idle", "busy", "draining", "gone", "restarting"]
    job_id: str | None = None
    loaded: str | None = None
    seen_at: float
    started_at: float
    note: str | None = None


class Lease(View):
    """A job that a worker may work on until `until`, and all it needs for it.

    request: its fields, with references and with the seed. assets: the files behind them, by reference.
    files: where those are below the data folder. affinity: the word of its model and adapters.
    has_checkpoint: the server keeps one of this job. renew_s: how often to renew.
    """

    id: str
    job: Job
    asked: JobRequest
    request: dict[str, Any]
    assets: dict[str, Asset] = {}
    files: dict[str, str] = {}
    affinity: str | None = None
    has_checkpoint: bool = False
    until: float
    renew_s: float


class WorkReport(View):
    """News of a job that a worker sends with a renewal. preview: the newest one."""

    preview: MadeFile | None = None
    state: JobState | None = None
    progress: JobProgress | None = None
    warnings: list[str] = []
    logs: list[str] = []
    checkpointed: bool = False


class Order(View):
    """The answer to a renewal. cancel: stop this job. drain: give the job back and take no other."""

    cancel: bool = False
    drain: bool = False
    until: float


class MadeFiles(View):
    """The files of a finished job, in data/tmp: asset kind to file name, with what each holds. validation:
    those of the clips on the way of a training."""

    files: dict[AssetKind, MadeFile] = {}
    validation: list[MadeFile] = []
    seconds: dict[str, float] = {}
    warnings: list[str] = []
    device_seconds: float = 0.0


class MadeFile(View):
    """A file that a worker has written into data/tmp, whole and synced. file: its name there."""

    file: str
    media_type: str
    name: str | None = None
    info: dict[str, Any] = {}


class Delivery(View):
    """A webhook that is sent when a job has ended. body: JSON text. via: the interface that asked for it."""

    id: str
    object: Literal["delivery"] = "delivery"
    job_id: str
    owner: str
    via: str
    url: str
    body: str
    state: Literal["pending", "delivered", "failed"] = "pending"
    attempt: int = 0
    status: int | None = None
    error: str | None = None
    created_at: float
    next_at: float | None = None
    delivered_at: float | None = None


WorkReport.model_rebuild()
MadeFiles.model_rebuild()
