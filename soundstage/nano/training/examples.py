"""Make the transformer's batches: which clips, what is asked of them, and all that a step would wait for.

Of a batch everything is made here that a recorded step cannot make: prompts read by Gemma, rotary tables,
groups of tokens. One prompt in ten is empty, for guidance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from soundstage.conditioning.positions import audio_positions, guide_positions, video_positions
from soundstage.conditioning.tokens import to_tokens
from soundstage.model.transformer import ModalityInputs, RunTables, StreamTables, Transformer
from soundstage.nano.training.latents import PICTURES, WORDINGS, shape_named
from soundstage.nano.training.runs import TrainingScale
from soundstage.nano.training.stock import Stock
from soundstage.nano.training.tasks import draw_sigma, draw_task
from soundstage.nano.world.captions import NEGATIVE
from soundstage.nano.world.scene import FPS
from soundstage.text.gemma import Gemma
from soundstage.training.batches import Batch
from soundstage.types import VideoShape

# Video and audio tokens in a step; on a CPU 12 clips of two seconds in landscape. On a GPU recorded and plain
# steps each hold their own memory; 16,000 is an estimate that no GPU has measured yet.
BATCH_TOKENS: dict[TrainingScale, int] = {"tiny": 120, "cpu": 12 * 220, "cuda": 16_000}
MOST_SAMPLES = 768
# Shares of steps: stills until STILLS_UNTIL of the schedule and from then on, and sound alone.
STILLS_UNTIL, EARLY_STILLS, LATE_STILLS, SOUND_STEPS = 0.35, 0.4, 0.12, 0.06
# Shares of steps of clips: with a given picture beside the clip, and with the clip itself, given, beside it.
PICTURED, REFERRED = 0.12, 0.06
# Clips of the rarer jobs, where there are any of these: each kind of batch is recorded by itself on a GPU.
KINDS = {
    "pictured": ("192x128x49", "128x192x49", "128x128x49", "96x64x49"),
    "referred": ("192x128x49", "96x64x49"),
    "sounds": ("192x128x49", "192x128x97"),
}
PROMPT_DROPOUT = 0.1
# Weight in the loss of a token that a subject fills; subjects cover a tenth of all tokens. It falls to 1 over
# the last third of the schedule, since it makes subjects too likely where there may be one or none.
SUBJECT_WEIGHT = 4.0


def subject_weights(covered: Tensor, progress: float) -> Tensor:
    """Return the weights of tokens. covered: the share of each token that subjects cover."""
    left = 3 * (1 - progress)
    return 1 + (SUBJECT_WEIGHT - 1) * min(1.0, max(0.0, left)) * covered


def drawn_job(rng: np.random.Generator, progress: float) -> str:
    """Return what a step is on: stills, sounds, clips, or clips with a picture or a clip beside them."""
    place = rng.random()
    stills = EARLY_STILLS if progress < STILLS_UNTIL else LATE_STILLS
    if place < stills + SOUND_STEPS:
        return "stills" if place < stills else "sounds"
    place = rng.random()
    return "pictured" if place < PICTURED else "referred" if place < PICTURED + REFERRED else "clips"


@dataclass(frozen=True)
class _Asked:
    """Hold the job of a batch, and the shelf and shape of its clips. progress: share of the training."""

    job: str
    kind: str
    shape: VideoShape
    progress: float

    @property
    def label(self) -> str:
        """Return the name of all batches whose tensors have these shapes."""
        return f"{self.job} {_size_of(self.job, self.shape)}"


class Examples:
    """Make batches of a stock of encoded clips. transformer: for its tables alone; it needs no weights."""

    def __init__(
        self, transformer: Transformer, gemma: Gemma, scale: TrainingScale, device: torch.device
    ) -> None:
        self.transformer, self.gemma, self.scale, self.device = transformer, gemma, scale, device
        self._tables: dict[str, dict[str, Tensor]] = {}  # of kinds whose tokens stand at the same places
        self._empty = [gemma.tokenize(text) for text in ("", NEGATIVE)]

    def batch(self, rng: np.random.Generator, progress: float, stock: Stock) -> Batch:
        """Return a step's batch. Its kind is the job and the shape of the clips."""
        job = drawn_job(rng, progress)
        kind = stock.kind(rng, KINDS.get(job))
        shape = shape_named(kind)
        make: dict[str, Callable[..., dict[str, Tensor]]] = {"stills": self._stills, "sounds": self._sounds}
        asked = _Asked(job, kind, shape, progress)
        tensors = make.get(job, self._clips)(rng, stock, asked)
        count = max(len(tensors[name]) for name in ("video", "audio") if name in tensors)
        return Batch(asked.label, tensors, count)

    def _count(self, tokens: int) -> int:
        return max(2, min(MOST_SAMPLES, BATCH_TOKENS[self.scale] // tokens))

    def _clips(self, rng: np.random.Generator, stock: Stock, asked: _Asked) -> dict[str, Tensor]:
        """Return picture and sound together, each at its own noise level, with given tokens among them."""
        job, shape = asked.job, asked.shape
        num_audio = stock.shelves[asked.kind].columns["audio"].shape[1]
        count = self._count(shape.num_tokens * (2 if job == "referred" else 1) + num_audio)
        rows = stock.draw(rng, asked.kind, count)
        task = draw_task(rng, count, shape, num_audio)
        made = {
            "video": to_tokens(rows["video"].float()),
            "audio": rows["audio"].float(),
            "video_weights": subject_weights(rows["covered"], asked.progress),
        }
        for name in ("video_sigma", "audio_sigma", "video_mask", "audio_mask"):
            made[name] = getattr(task, name).to(self.device)
        made |= self._prompts(rng, rows, named=job == "referred")
        positions = video_positions(*shape.latent, FPS)
        if job == "clips":
            return made | self._kept_tables(asked.label, positions, shape, num_audio)
        if job == "referred":
            made["video_beside"] = made["video"]
            where = torch.cat([positions, positions], dim=2)
            return made | self._kept_tables(asked.label, where, shape, num_audio)
        which = rng.integers(PICTURES, size=count)
        chosen = torch.arange(count, device=self.device), torch.from_numpy(which).to(self.device)
        made["video_beside"] = to_tokens(rows["pictures"][chosen].float())
        where = with_pictures(positions, shape, rows["times"].cpu()[torch.arange(count), which])
        return made | self._made_tables(where, shape, num_audio)

    def _stills(self, rng: np.random.Generator, stock: Stock, asked: _Asked) -> dict[str, Tensor]:
        """Return single frames, several of a scene to one reading of its caption."""
        shape = asked.shape
        _, height, width = shape.latent
        rows = stock.draw(rng, asked.kind, self._count(PICTURES * height * width))
        video = to_tokens(rows["pictures"].flatten(0, 1).float())
        still = VideoShape(1, shape.height, shape.width)
        made = {"video": video, "video_mask": torch.ones_like(video[..., :1])}
        made["video_sigma"] = torch.from_numpy(draw_sigma(rng, len(video))).float().to(self.device)
        made |= self._prompts(rng, rows)
        return made | self._kept_tables(asked.label, video_positions(*still.latent, FPS), still, 0)

    def _sounds(self, rng: np.random.Generator, stock: Stock, asked: _Asked) -> dict[str, Tensor]:
        """Return sound alone."""
        num_audio = stock.shelves[asked.kind].columns["audio"].shape[1]
        rows = stock.draw(rng, asked.kind, self._count(num_audio))
        audio = rows["audio"].float()
        made = {"audio": audio, "audio_mask": torch.ones_like(audio[..., :1])}
        made["audio_sigma"] = torch.from_numpy(draw_sigma(rng, len(audio))).float().to(self.device)
        made |= self._prompts(rng, rows)
        return made | self._kept_tables(asked.label, None, asked.shape, num_audio)

    # --- words ---

    def _prompts(
        self, rng: np.random.Generator, rows: dict[str, Tensor], *, named: bool = False
    ) -> dict[str, Tensor]:
        """Return Gemma's states and mask of one wording of each clip's caption.

        named: half of them only name the subjects, so that their motion is learned from the clip beside.
        """
        count = len(rows["ids"])
        which = rng.integers(WORDINGS, size=count)
        if named:
            which = np.where(rng.random(count) < 0.5, WORDINGS, which)
        chosen = torch.arange(count), torch.from_numpy(which)
        ids = rows["ids"].cpu()[chosen].long()
        lengths = rows["lengths"].cpu()[chosen].long()
        for i in np.flatnonzero(rng.random(count) < PROMPT_DROPOUT):  # guidance steers away from both kinds
            empty = self._empty[int(rng.integers(2))]
            ids[i, : len(empty)] = torch.tensor(empty)
            lengths[i] = len(empty)
        longest = int(lengths.max())
        states, mask = self.gemma.states_of(ids[:, :longest].to(self.device), lengths.to(self.device))
        return {"states": states, "prompt_mask": mask}

    # --- tables ---

    def _kept_tables(
        self, label: str, positions: Tensor | None, shape: VideoShape, num_audio: int
    ) -> dict[str, Tensor]:
        if label not in self._tables:
            self._tables[label] = self._made_tables(positions, shape, num_audio)
        return self._tables[label]

    def _made_tables(self, positions: Tensor | None, shape: VideoShape, num_audio: int) -> dict[str, Tensor]:
        """Return rotary tables and groups. positions: (B or 1, 3, N, 2) of picture; None for sound alone."""
        config = self.transformer.config
        video = audio = None
        if positions is not None and config.video is not None:
            video = self._placed(positions.to(self.device))
        if num_audio and config.audio is not None:
            audio = self._placed(audio_positions(num_audio, device=self.device))
        tables: RunTables = self.transformer.prepare(video, audio)
        made: dict[str, Tensor] = {}
        if tables.video is not None and positions is not None:
            made |= _named("video", tables.video) | self._groups("video", shape, positions.shape[2])
        if tables.audio is not None:
            numbers = torch.arange(num_audio, device=self.device)  # each token may be given or not
            made |= _named("audio", tables.audio) | {"audio_first": numbers, "audio_groups": numbers}
        return made

    def _placed(self, positions: Tensor) -> ModalityInputs:
        """Return a stream of which only the positions matter."""
        one = torch.ones(1, positions.shape[2], device=self.device)
        return ModalityInputs(one, one[:, 0], one, positions, one)

    def _groups(self, name: str, shape: VideoShape, num_tokens: int) -> dict[str, Tensor]:
        """Return groups of tokens that share a noise level: latent frames, and what is beside the clip."""
        cells = shape.num_tokens // shape.latent[0]
        group_of = (torch.arange(num_tokens) // cells).clamp(max=shape.latent[0])
        first = torch.arange(int(group_of.max()) + 1) * cells
        return {f"{name}_first": first.to(self.device), f"{name}_groups": group_of.to(self.device)}


def _size_of(job: str, shape: VideoShape) -> str:
    """Return what decides the shapes of a job's batches."""
    if job == "sounds":
        return str(shape.num_frames)
    size = f"{shape.width}x{shape.height}"
    return size if job == "stills" else f"{size}x{shape.num_frames}"


def with_pictures(positions: Tensor, shape: VideoShape, frames: Tensor) -> Tensor:
    """Return the positions of clips (B, 3, N, 2) with those of one picture each, at these frames (B,)."""
    _, height, width = shape.latent
    beside = [guide_positions(1, height, width, FPS, frame=int(f), still=True) for f in frames]
    return torch.cat([positions.expand(len(frames), -1, -1, -1), torch.cat(beside)], dim=2)


def _named(name: str, tables: StreamTables) -> dict[str, Tensor]:
    made = {f"{name}_cos": tables.rope.cos, f"{name}_sin": tables.rope.sin}
    if tables.cross_rope is not None:
        made |= {f"{name}_cross_cos": tables.cross_rope.cos, f"{name}_cross_sin": tables.cross_rope.sin}
    return made
