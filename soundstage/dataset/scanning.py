"""Scan a dataset: look into every file of its sources and give each sample its part, sound and bucket.

Nothing is decoded but what tells a file's size, length and rate, and nothing is written. A file that does not
fit becomes a finding, which says why and where it stands; the others go on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from soundstage.dataset.buckets import Bucket, choose_bucket, choose_length
from soundstage.dataset.config import Dataset
from soundstage.dataset.findings import DataFinding, ShowShare, placed
from soundstage.dataset.items import DataItem
from soundstage.dataset.kept import read_captions, read_scenes
from soundstage.dataset.prepared import Role, attached
from soundstage.dataset.sources import gather
from soundstage.errors import MediaError
from soundstage.media.probe import Info, probe
from soundstage.planning.grid import frames_at

START = "_start"  # the end of the name of a reference, in the layouts of hosted trainers


@dataclass
class Scan:
    """The samples of a dataset, and what was found besides.

    infos: what each main file holds. unprepared: references and masks that are still to be made.
    """

    items: list[DataItem] = field(default_factory=list)
    findings: list[DataFinding] = field(default_factory=list)
    infos: dict[str, Info] = field(default_factory=dict)
    unprepared: list[tuple[DataItem, Role]] = field(default_factory=list)

    @property
    def errors(self) -> list[DataFinding]:
        """Return the findings that keep items from being encoded."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def buckets(self) -> dict[str, int]:
        """Return the number of samples in each bucket."""
        counts: dict[str, int] = {}
        for item in sorted(self.items, key=lambda item: item.bucket or (0, 0, 0)):
            counts[item.bucket_name] = counts.get(item.bucket_name, 0) + 1
        return counts


def scan(dataset: Dataset, report: ShowShare = lambda share: None) -> Scan:
    """Return the samples of a dataset. report: called with the share that is done.

    Raises DatasetError for sources that are not there and for tables that cannot be read.
    """
    found = Scan()
    gathered = gather(dataset)
    found.findings += [DataFinding("left out", notice, level="notice") for notice in gathered.notices]
    found.findings += [
        DataFinding("bad row", message, place, "error") for place, message in gathered.problems
    ]
    captions = read_captions(dataset.folder)
    for number, item in enumerate(gathered.items):
        report(number / len(gathered.items))
        for part in _looked_into(dataset, item, found):
            caption = captions.get(part.id, captions.get(item.id)) or part.caption or dataset.config.caption
            repeats = part.repeats if part.repeats != 1 else dataset.config.repeats
            sample, missing = attached(dataset, replace(part, caption=caption, repeats=repeats))
            found.items.append(sample)
            found.unprepared += [(sample, role) for role in missing]
    if dataset.config.voices == "speaker":
        found.items = _with_voices(found)
    return found


def _with_voices(found: Scan) -> list[DataItem]:
    """Return the items, each with the sound of another clip of its speaker as its voice sample."""
    heard: dict[str, list[str]] = {}
    for item in found.items:
        if item.speaker and item.audio_s is not None:
            files = heard.setdefault(item.speaker, [])
            files += [] if (item.audio or item.main) in files else [item.audio or item.main]
    items = []
    for item in found.items:
        files = heard.get(item.speaker or "", [])
        own = item.audio or item.main
        if item.reference_audio is None and own in files and len(files) > 1:
            item = replace(item, reference_audio=files[(files.index(own) + 1) % len(files)])
        elif item.speaker and item.reference_audio is None:
            told = (
                f"{item.row}: {item.id} is the only clip of speaker {item.speaker}, and has no voice sample"
            )
            found.findings.append(DataFinding("no voice", told, item.id))
        items.append(item)
    return items


def _looked_into(dataset: Dataset, item: DataItem, found: Scan) -> Iterator[DataItem]:
    """Yield the samples of an item: several where it is cut into scenes or taken bucket by bucket."""
    try:
        item = _with_own_sound(dataset, item)
        info = probe(str(dataset.path(item.main)))
        for name, path in item.files.items():
            if path != item.main:
                _check_companion(name, str(dataset.path(path)))
    except MediaError as error:
        found.findings.append(DataFinding("unreadable", placed(item.row, error), item.id, "error"))
        return
    found.infos[item.main] = info
    if not info.num_frames:
        sample = _sound_alone(dataset, _as(item, "audio"), info, found)
        yield from () if sample is None else (sample,)
        return
    is_still = info.num_frames == 1
    for part in _parts(dataset, _as(item, "image" if is_still else "video"), info, found):
        yield from _sized(dataset, part, info, found)


def _with_own_sound(dataset: Dataset, item: DataItem) -> DataItem:
    """Return an item with the sound of its reference as the reference of its own sound.

    A hosted trainer's `7_start.mp4` is both. Raises MediaError for one that cannot be read.
    """
    start = item.reference
    if start is None or item.reference_audio is not None or not Path(start).stem.endswith(START):
        return item
    if dataset.config.sound == "none" or probe(str(dataset.path(start))).sound_s is None:
        return item
    return replace(item, reference_audio=start)


def _check_companion(name: str, path: str) -> None:
    """Raise MediaError for a companion that cannot be read, or that is no picture or no sound."""
    info = probe(path)
    if name in ("audio", "reference_audio", "audio_mask") and info.sound_s is None:
        raise MediaError(f"{name} is {path}, which holds no sound; give a file that does")
    if name in ("reference", "video_mask") and not info.num_frames:
        raise MediaError(f"{name} is {path}, which holds no picture; give a picture or a clip")


def _as(item: DataItem, kind: str) -> DataItem:
    """Return an item whose main file is of this kind, as its content says."""
    main, sound = item.main, None if item.audio == item.main else item.audio
    plain = replace(item, video=None, image=None, audio=sound)
    return replace(plain, **{kind: main})  # type: ignore[arg-type]


def _parts(dataset: Dataset, item: DataItem, info: Info, found: Scan) -> Iterator[DataItem]:
    """Yield the scenes of a clip that was split, else the item."""
    if item.video is None or item.start_s or item.end_s is not None:
        yield item
        return
    scenes = read_scenes(dataset.folder).get(item.video)
    if scenes is None:
        yield item
        return
    if not scenes.is_of(dataset.path(item.video)):
        told = f"{item.row} was split into scenes when it was another file; run `soundstage dataset split`"
        found.findings.append(DataFinding("old scenes", told, item.id, "error"))
        return
    if len(scenes.parts) == 1 and not scenes.short:
        yield item  # one scene is the whole clip
        return
    for start, end in scenes.parts:
        yield replace(item, id=f"{item.id}@{start:.2f}-{end:.2f}", start_s=start, end_s=end)


def sample_rate(info: Info, fps: float) -> float:
    """Return the rate at which a clip's frames are taken: its own, where the dataset's is the same."""
    own = info.fps or fps
    return own if math.isclose(own, fps, rel_tol=1e-3) else fps


def available(item: DataItem, info: Info, fps: float) -> int:
    """Return how many frames an item has at the dataset's rate."""
    if info.num_frames == 1:
        return 1
    if not item.start_s and item.end_s is None:
        return frames_at(info, fps, fps)
    rate, own = sample_rate(info, fps), info.fps or fps
    last_s = (info.num_frames - 1) / own
    until_end = math.floor((last_s - item.start_s) * rate + 1e-3) + 1
    end_s = info.num_frames / own if item.end_s is None else item.end_s
    return max(0, min(until_end, math.floor((end_s - item.start_s) * rate + 1e-3)))


def _sized(dataset: Dataset, item: DataItem, info: Info, found: Scan) -> Iterator[DataItem]:
    """Yield the samples of a clip or picture with their buckets, the one or those that `take` asks for."""
    config = dataset.config
    count = available(item, info, config.fps)
    bucket = choose_bucket(info.width, info.height, count, config.all_buckets) if count else None
    if bucket is None:
        shortest = min((b.num_frames for b in config.all_buckets if b.num_frames > 1), default=0)
        told = f"{item.row}: {item.id} has {count} frames at {config.fps:g} fps, and the shortest bucket "
        told += f"{shortest}" if shortest else "for clips is missing"
        found.findings.append(DataFinding("too short", f"{told}; it is left out", item.id))
        return
    sound = _sound_s(dataset, item, info, bucket)
    if config.sound == "all" and item.video and sound is None:
        told = f"{item.row}: {item.id} has no sound, and sound is all; give one, or set sound to auto"
        found.findings.append(DataFinding("no sound", told, item.id, "error"))
        return
    rate = sample_rate(info, config.fps)
    for first in _starts(config.take, count, bucket):
        start_s = item.start_s + first / rate
        end_s = start_s + bucket.num_frames / rate
        part = f"@{start_s:.2f}-{end_s:.2f}" if config.take == "every" and count > bucket.num_frames else ""
        named = f"{item.id.partition('@')[0]}{part}" if part else item.id
        cut = {"start_s": start_s, "end_s": end_s} if first or part else {}
        yield replace(item, id=named, bucket=bucket.size, audio_s=sound, **cut)  # type: ignore[arg-type]


def _starts(take: str, count: int, bucket: Bucket) -> list[int]:
    """Return the first frames of the samples of a clip."""
    spare = count - bucket.num_frames
    if take == "every":
        return list(range(0, spare + 1, bucket.num_frames))
    return [spare // 2 if take == "middle" else 0]


def _sound_s(dataset: Dataset, item: DataItem, info: Info, bucket: Bucket) -> float | None:
    """Return the seconds of sound that a sample gets, None without one."""
    if dataset.config.sound == "none" or item.video is None:
        return None
    if item.audio is None and (info.sound_s is None or info.sound_s <= item.start_s):
        return None
    return bucket.num_frames / dataset.config.fps


def _sound_alone(dataset: Dataset, item: DataItem, info: Info, found: Scan) -> DataItem | None:
    """Return the sample of a sound without a picture."""
    whole_s = info.sound_s or 0.0
    length_s = (whole_s if item.end_s is None else min(item.end_s, whole_s)) - item.start_s
    seconds = choose_length(length_s, dataset.config.audio_buckets)
    if seconds is None:
        shortest = min(dataset.config.audio_buckets)
        told = f"{item.row}: {item.id} lasts {max(0, length_s):.3g} s, and the shortest audio bucket "
        found.findings.append(DataFinding("too short", f"{told}{shortest:g}; it is left out", item.id))
        return None
    return replace(item, audio_s=seconds)
