"""Encode a dataset: every sample's clip, sound and caption by the engine's own parts, kept under their names.

A sample is written whole or not at all, so a run that was killed goes on where it stood. A sample that is
there is kept if everything it was made from is the same: sources by content, part, bucket, rate, caption,
encoders. Where the caption alone is new, its latents are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from soundstage.conditioning.pixels import fit, fit_mask, strided
from soundstage.dataset.config import Dataset
from soundstage.dataset.encoded import Sample, read_sample, write_sample
from soundstage.dataset.findings import DataFinding, ShowShare, told
from soundstage.dataset.identity import ModelIdentity, model_identity
from soundstage.dataset.index import FOLDER, SampleInfo, read_info, write_index
from soundstage.dataset.items import SUFFIX, DataItem, sample_file
from soundstage.dataset.masks import given_cells, given_latents
from soundstage.dataset.pixels import Framing, frames_of
from soundstage.dataset.prepared import is_prepared
from soundstage.dataset.scanning import Scan
from soundstage.engine import Engine
from soundstage.errors import DatasetError, SoundstageError
from soundstage.library.file_identity import file_identity
from soundstage.media.probe import probe
from soundstage.memory.machine import checked_device, pick_device
from soundstage.memory.policy import Residency, policy_named
from soundstage.model.pieces import encode_pieces
from soundstage.planning.grid import IDENTITY_MAX_S, identity_latents
from soundstage.rendering.encoded_inputs import sound_latents, voice_latents
from soundstage.rendering.finite import checked
from soundstage.rendering.parts import DTYPES, ModelParts
from soundstage.types import AUDIO_LATENTS_PER_S, TIME_SCALE, audio_latent_length

OF_TEXT = ("caption", "text encoder")  # what only the text features depend on
AT_ONCE = 32  # samples whose captions are read before their clips
WHOLE_BYTES = 2**30  # of the encoder's first stage; a longer clip is encoded in pieces
PIECE_FRAMES = 16


@dataclass
class Encoded:
    """The outcome of an encoding. made, kept: ids; failed: findings of items that could not be encoded."""

    made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    failed: list[DataFinding] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """Return it in a few words."""
        removed = f", {len(self.removed)} removed" if self.removed else ""
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"{len(self.made)} samples encoded, {len(self.kept)} kept{removed}{failed}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        failed = [finding.to_dict() for finding in self.failed]
        return {"made": self.made, "kept": self.kept, "removed": self.removed, "failed": failed}


def caption_of(dataset: Dataset, item: DataItem) -> str:
    """Return what the text encoder reads: the trigger word, then the caption."""
    return f"{dataset.config.trigger} {item.caption}".strip()


class WantedSamples:
    """Tells what each sample would be made from, and whether the file that is there was made from that."""

    def __init__(self, dataset: Dataset, identity: ModelIdentity, number_format: str) -> None:
        self.dataset, self.identity, self.number_format = dataset, identity, number_format
        self.folder = dataset.folder / FOLDER

    def made_with(self, item: DataItem) -> dict[str, str]:
        """Return all that an item's sample depends on, by name."""
        config = self.dataset.config
        found = {name: file_identity(self.dataset.path(path)) for name, path in item.files.items()}
        found["part"] = f"{item.start_s:.4f} to {'the end' if item.end_s is None else f'{item.end_s:.4f}'}"
        found["bucket"], found["fps"] = item.bucket_name, f"{config.fps:g}"
        found["crop"] = config.crop + (f" of {item.id}" if config.crop == "random" else "")
        found["length of sound"] = "none" if item.audio_s is None else f"{item.audio_s:.4f} s"
        if item.bucket is not None:
            found["video VAE"] = self.identity.video_vae
        if item.audio_s is not None or item.reference_audio is not None:
            found["audio VAE"] = self.identity.audio_vae
        if item.video_mask is not None:
            found["mask_white"] = config.mask_white
        if item.reference is not None:
            found["scale of the reference"] = f"{_scale(self.dataset)}"
        found["number format"] = self.number_format
        return {**found, "caption": caption_of(self.dataset, item), "text encoder": self.identity.text}

    def state(self, item: DataItem) -> tuple[SampleInfo | None, list[str]]:
        """Return what is there of an item, None for nothing usable, and what is another now."""
        path = self.folder / sample_file(item.id)
        if not path.is_file():
            return None, []
        try:
            info = read_info(path)
        except DatasetError:
            return None, []
        old, new = info.made_with, self.made_with(item)
        return info, [name for name in {**old, **new} if old.get(name) != new.get(name)]


def _scale(dataset: Dataset) -> tuple[int, int]:
    """Return how many times smaller references are in space and time."""
    making = dataset.config.references
    return (1, 1) if making is None else (making.downscale, making.temporal)


def encode(
    dataset: Dataset,
    found: Scan,
    engine: Engine,
    *,
    skip_bad: bool = False,
    report: ShowShare = lambda _: None,
) -> Encoded:
    """Encode what is not encoded yet, and write the index. report: called with the share that is done.

    skip_bad: leave out items with errors, which the outcome lists. Raises DatasetError for a dataset with
    errors otherwise, and for one without samples.
    """
    if found.errors and not skip_bad:
        raise DatasetError(f"{told(found.errors)}; correct this, or leave it out by skip_bad")
    if not found.items:
        raise DatasetError(
            f"{dataset.folder} has no sample that could be encoded; see `soundstage dataset scan`"
        )
    identity = model_identity(engine.model)
    wanted = WantedSamples(dataset, identity, engine.number_format.name)
    work = SampleWork(dataset, wanted, encoder_parts(engine))
    outcome = Encoded(failed=list(found.errors))
    infos: list[SampleInfo] = []
    try:
        for share, info in work.encoded(found.items, outcome):
            infos.append(info)
            report(share)
    except BaseException as error:
        done = len(outcome.made) + len(outcome.kept)
        error.add_note(f"{done} of {len(found.items)} samples are encoded and kept; the same command goes on")
        raise
    if not infos:
        raise DatasetError(f"no sample could be encoded: {told(outcome.failed)}")
    write_index(wanted.folder, identity, infos)
    outcome.removed = _remove_others(wanted.folder, infos)
    return outcome


def encoder_parts(engine: Engine) -> ModelParts:
    """Return the parts of an engine's model for encoding: one at a time on a GPU, the transformer never."""
    device = torch.device(pick_device(checked_device(engine.options["device"])))
    policy = policy_named(engine.options["residency"])
    residency = Residency("resident" if device.type == "cpu" else "offload")
    if policy is not None:
        residency = replace(residency, policy=policy)
    return ModelParts(engine.model, device, DTYPES[engine.number_format.name], residency)


class SampleWork:
    """Encodes the samples of a dataset that are not there."""

    def __init__(self, dataset: Dataset, wanted: WantedSamples, parts: ModelParts) -> None:
        self.dataset, self.wanted, self.parts = dataset, wanted, parts

    def encoded(self, items: Sequence[DataItem], outcome: Encoded) -> Iterator[tuple[float, SampleInfo]]:
        """Yield the share that is done and each sample, made or kept. Failures go to the outcome."""
        for start in range(0, len(items), AT_ONCE):
            batch = items[start : start + AT_ONCE]
            states = [self.wanted.state(item) for item in batch]
            texts = self._texts(batch, states)
            for number, (item, (old, changes)) in enumerate(zip(batch, states, strict=True), start + 1):
                try:
                    info = self._one(item, old, changes, texts, outcome)
                except (SoundstageError, ValueError) as error:
                    message = f"{item.row}: {item.id} could not be encoded: {error}"
                    outcome.failed.append(DataFinding("not encoded", message, item.id, "error"))
                    continue
                yield number / len(items), info

    def _texts(
        self, items: Sequence[DataItem], states: Sequence[tuple[SampleInfo | None, list[str]]]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the features of the captions that have to be read, by caption."""
        new = [
            caption_of(self.dataset, item)
            for item, (old, changes) in zip(items, states, strict=True)
            if old is None or set(changes) & set(OF_TEXT)
        ]
        texts = list(dict.fromkeys(new))
        found = {}
        for text, features in zip(texts, self.parts.text.features(texts) if texts else [], strict=True):
            mask = features.mask[0]
            of_video, of_audio = (x[0, mask].cpu() for x in (features.video, features.audio))
            checked(of_video, f"the caption '{text:.40}', as the text encoder reads it,", self.parts)
            found[text] = of_video, of_audio
        return found

    @torch.no_grad()
    def _one(
        self,
        item: DataItem,
        old: SampleInfo | None,
        changes: Sequence[str],
        texts: Mapping[str, tuple[Tensor, Tensor]],
        outcome: Encoded,
    ) -> SampleInfo:
        """Return an item's sample in the index; its file is made or changed where it has to be."""
        caption = caption_of(self.dataset, item)
        info = self._info(item, caption)
        if old is not None and not changes:
            info = replace(info, **_shape_of(old))
            if info != old:  # repeats or a speaker
                write_sample(self.wanted.folder, info, read_sample(self.wanted.folder / old.file)[1])
            outcome.kept.append(item.id)
            return info
        if old is not None and not set(changes) - set(OF_TEXT):
            sample = read_sample(self.wanted.folder / old.file)[1]
            sample = replace(sample, video_text=texts[caption][0], audio_text=texts[caption][1])
        else:
            read = texts.get(caption) or _texts_of(self.wanted.folder, old)
            sample = Sample(*read, **self.tensors(item))
        length = None if sample.audio is None else sample.audio.shape[1]
        info = replace(info, has=tuple(sample.tensors()), num_audio=length)
        write_sample(self.wanted.folder, info, sample)
        outcome.made.append(item.id)
        return info

    def _info(self, item: DataItem, caption: str) -> SampleInfo:
        made_with = self.wanted.made_with(item)
        downscale, temporal = _scale(self.dataset) if item.reference is not None else (1, 1)
        return SampleInfo(
            id=item.id,
            fps=self.dataset.config.fps,
            has=(),
            size=item.bucket,
            caption=caption,
            repeats=item.repeats,
            speaker=item.speaker,
            reference_downscale=downscale,
            reference_temporal=temporal,
            fingerprint=hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest(),
            made_with=made_with,
        )

    def tensors(self, item: DataItem) -> dict[str, Tensor]:
        """Return the latents and masks of an item, without a batch, in host memory."""
        found: dict[str, Tensor | None] = {}
        if item.bucket is not None:
            found["video"] = self._picture(item.main, item, 1, 1)
            if item.reference is not None:
                found["reference"] = self._picture(item.reference, item, *_scale(self.dataset))
            if item.video_mask is not None:
                found["video_mask"] = self._mask(item)
        if item.audio_s is not None:
            found["audio"] = self._sound(item)
        if item.reference_audio is not None:
            found["reference_audio"] = self._voice(item.reference_audio)
        if item.audio_mask is not None and item.audio_s is not None:
            count = self._num_audio(item)
            found["audio_mask"] = given_latents(self.dataset.path(item.audio_mask), item.start_s, count)
        for name, values in found.items():
            if values is not None and values.is_floating_point():
                checked(values, f"{item.id} ({name}), as the VAE encodes it,", self.parts)
        return {name: values.cpu().contiguous() for name, values in found.items() if values is not None}

    def _framing(self, name: str, item: DataItem, downscale: int = 1) -> tuple[Framing, float]:
        """Return how a file's frames are framed, and where its part begins."""
        assert item.bucket is not None
        width, height, _ = item.bucket
        if is_prepared(name):
            return Framing(width // downscale, height // downscale, "stretch"), 0.0
        crop = self.dataset.config.crop
        return Framing(width // downscale, height // downscale, crop, item.id), item.start_s

    def _picture(self, name: str, item: DataItem, downscale: int, temporal: int) -> Tensor:
        """Return the latents (128, F, H, W) of a file's frames, thinned and smaller for a reference."""
        assert item.bucket is not None
        path, count = self.dataset.path(name), item.bucket[2]
        framing, start_s = self._framing(name, item, downscale)
        if name != item.main and probe(str(path)).num_frames == 1:
            count = 1
        frames = list(frames_of(path, start_s, count, self.dataset.config.fps, framing))
        kept = strided(len(frames), temporal)
        kept = kept[: (len(kept) - 1) // TIME_SCALE * TIME_SCALE + 1]
        chosen = [frames[index] for index in kept]
        return self._latents(chosen, framing)[0]

    def _latents(self, frames: Sequence[Any], framing: Framing) -> Tensor:
        """Encode frames: whole as at inference, in pieces where that would take much memory."""
        width, height = framing.width, framing.height
        size = len(frames) * (width // 4) * (height // 4) * 128 * self.parts.dtype.itemsize
        if size <= WHOLE_BYTES:
            return self.parts.encode_video(fit(frames, width, height, framing.fit_crop))
        vae = self.parts.video_vae
        self.parts.manager.bring("video encoder")
        chunks = (frames[at : at + PIECE_FRAMES] for at in range(0, len(frames), PIECE_FRAMES))
        pixels = (fit(chunk, width, height, framing.fit_crop) for chunk in chunks)
        return encode_pieces(vae, (piece.to(self.parts.device, self.parts.dtype) for piece in pixels))

    def _mask(self, item: DataItem) -> Tensor:
        assert item.bucket is not None
        assert item.video_mask is not None
        framing, start_s = self._framing(item.video_mask, item)
        path, count = self.dataset.path(item.video_mask), item.bucket[2]
        frames = frames_of(path, start_s, count, self.dataset.config.fps, framing, hold=True)
        pixels = fit_mask(frames, framing.width, framing.height, count, framing.fit_crop)
        return given_cells(pixels, self.dataset.config.mask_white)

    def _num_audio(self, item: DataItem) -> int:
        assert item.audio_s is not None
        if item.bucket is not None:
            return audio_latent_length(item.bucket[2], self.dataset.config.fps)
        return max(1, round(item.audio_s * AUDIO_LATENTS_PER_S))

    def _sound(self, item: DataItem) -> Tensor:
        path = self.dataset.path(item.audio or item.main)
        return sound_latents(self.parts, str(path), item.start_s, self._num_audio(item))[0]

    def _voice(self, name: str) -> Tensor:
        path = str(self.dataset.path(name))
        count = identity_latents(probe(path).sound_s or 0.0)
        return voice_latents(self.parts, path, 0.0, IDENTITY_MAX_S, count)[0]


def _shape_of(old: SampleInfo) -> dict[str, Any]:
    return {"has": old.has, "num_audio": old.num_audio}


def _texts_of(folder: Path, old: SampleInfo | None) -> tuple[Tensor, Tensor]:
    """Return the text features of a sample whose caption is the same."""
    assert old is not None
    sample = read_sample(folder / old.file)[1]
    return sample.video_text, sample.audio_text


def _remove_others(folder: Path, infos: Sequence[SampleInfo]) -> list[str]:
    """Remove the samples of items that are no longer there; other files stay. Return their ids."""
    names = {info.file for info in infos}
    removed = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if path.name not in names:
            with contextlib.suppress(DatasetError):
                removed.append(read_info(path).id)
                path.unlink()
    return removed
