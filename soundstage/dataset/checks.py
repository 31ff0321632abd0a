"""Check a dataset for what would hurt a training, before an hour of it shows the same.

Pixels and samples are looked at, not only headers: pictures that are nearly alike by a small hash of them,
sounds that are silent by their samples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from soundstage.dataset.config import Dataset
from soundstage.dataset.findings import DataFinding, ShowShare, placed
from soundstage.dataset.items import DataItem
from soundstage.dataset.scanning import Scan, available, sample_rate
from soundstage.errors import MediaError, SoundstageError
from soundstage.media.arrays import Pixels
from soundstage.media.load import frames_shown, load_sound
from soundstage.media.probe import probe
from soundstage.prompts.openings import FEW_WORDS, OPENING

SILENT = 1e-3  # peak of a sound that nobody hears, -60 dB
ALIKE_BITS = 6  # of the 192 of three frames that may differ between pictures that are nearly alike
FEW_SAMPLES = 5
HEARD_S = 30.0  # of a sound are listened to


def check(dataset: Dataset, found: Scan, report: ShowShare = lambda _: None) -> list[DataFinding]:
    """Return all findings about a dataset, those of the scan first. report: the share that is done."""
    findings = list(found.findings)
    if not found.items:
        return [
            *findings,
            DataFinding("empty", f"{dataset.folder} has no sample that could be used", level="error"),
        ]
    findings += _captions(dataset, found.items)
    findings += _rates_and_sizes(dataset, found)
    findings += _buckets(found)
    findings += _sounds_in_all(found.items)
    findings += _lengths_of_companions(dataset, found.items)
    hashes: dict[str, NDArray[np.bool_]] = {}
    for number, item in enumerate(found.items, 1):
        try:
            findings += _silent(dataset, item)
            if item.bucket is not None:
                hashes[item.id] = _hash(dataset, item)
        except SoundstageError as error:
            findings.append(DataFinding("unreadable", placed(item.row, error), item.id, "error"))
        report(number / len(found.items))
    findings += _nearly_alike(hashes)
    if found.unprepared:
        told = f"{len(found.unprepared)} references or masks are still to be made; encode makes them"
        findings.append(DataFinding("not prepared", told, level="notice"))
    return findings


# --- captions -----------------------------------------------------------------------------------------


def _captions(dataset: Dataset, items: list[DataItem]) -> Iterator[DataFinding]:
    trigger = dataset.config.trigger
    same: defaultdict[str, list[str]] = defaultdict(list)
    for item in items:
        same[item.caption.lower()].append(item.id)
        if not item.caption:
            yield DataFinding("no caption", f"{item.row}: {item.id} has no caption", item.id)
        elif OPENING.match(item.caption):
            told = (
                f"the caption of {item.id} begins with '{item.caption[:30]}', which says nothing of the clip"
            )
            yield DataFinding("boilerplate", told, item.id)
        elif len(item.caption.split()) < FEW_WORDS:
            told = f"the caption of {item.id} is '{item.caption}'; say what happens and what is heard"
            yield DataFinding("short caption", told, item.id)
        if trigger and trigger.lower() in item.caption.lower():
            told = f"the caption of {item.id} has the trigger '{trigger}', which is put before it again"
            yield DataFinding("trigger twice", told, item.id)
    for caption, ids in same.items():
        if caption and len(ids) > 1:
            told = f"{len(ids)} samples have one caption ({', '.join(ids[:3])}, ...): '{caption[:40]}'"
            yield DataFinding("same captions", told)


# --- rates, sizes, buckets, sound ---------------------------------------------------------------------


def _rates_and_sizes(dataset: Dataset, found: Scan) -> Iterator[DataFinding]:
    fps = dataset.config.fps
    for item in found.items:
        info = found.infos[item.main]
        own = info.fps
        if item.video and own is not None and sample_rate(info, fps) != own:
            whole = own > fps and abs(own / fps - round(own / fps)) < 1e-3
            level = "even, so motion stays smooth" if whole else "uneven, so motion may stutter"
            told = f"{item.id} has {own:.4g} fps and is sampled at {fps:g}: {level}"
            yield DataFinding("other rate", told, item.id, "notice" if whole else "warning")
        if item.bucket is not None and (info.width < item.bucket[0] or info.height < item.bucket[1]):
            told = f"{item.id} is {info.width}x{info.height} and is enlarged to its bucket {item.bucket_name}"
            yield DataFinding("enlarged", told, item.id)


def _buckets(found: Scan) -> Iterator[DataFinding]:
    if len(found.buckets) > 1:
        for name, count in found.buckets.items():
            if count == 1:
                yield DataFinding("lonely bucket", f"bucket {name} has one sample; batches of it stay single")
    stills = sum(item.image is not None for item in found.items)
    clips = sum(item.video is not None for item in found.items)
    if stills and clips:
        told = f"{stills} pictures beside {clips} clips: pictures alone teach no motion, balance by repeats"
        yield DataFinding("pictures and clips", told, level="notice")
    if len(found.items) < FEW_SAMPLES:
        yield DataFinding("few samples", f"there are {len(found.items)} samples; ten and more teach better")


def _sounds_in_all(items: Iterable[DataItem]) -> Iterator[DataFinding]:
    clips = [item for item in items if item.video]
    heard = [item for item in clips if item.audio_s is not None]
    if heard and len(heard) < len(clips):
        silent = [item.id for item in clips if item.audio_s is None]
        told = (
            f"{len(silent)} of {len(clips)} clips have no sound ({', '.join(silent[:3])}); they are trained "
            "in batches of their own, and sound is learned from the others"
        )
        yield DataFinding("mixed sound", told)


def _silent(dataset: Dataset, item: DataItem) -> Iterator[DataFinding]:
    if item.audio_s is None:
        return
    path = str(dataset.path(item.audio or item.main))
    samples, _ = load_sound(path, item.start_s, min(item.audio_s, HEARD_S))
    if float(np.abs(samples).max(initial=0.0)) < SILENT:
        told = f"{item.id} has a sound that is silent, which teaches silence; set sound to none, or drop it"
        yield DataFinding("silent", told, item.id)


def _lengths_of_companions(dataset: Dataset, items: Iterable[DataItem]) -> Iterator[DataFinding]:
    """Yield findings about references and masks that are shorter than their clip."""
    fps = dataset.config.fps
    for item in items:
        for name in ("reference", "video_mask"):
            file = getattr(item, name)
            if file is None or item.bucket is None:
                continue
            try:
                info = probe(str(dataset.path(file)))
            except MediaError:
                continue  # the scan has found it
            whole = DataItem(id=item.id, start_s=0.0 if file.startswith("prepared/") else item.start_s)
            count = available(whole, info, fps)
            if info.num_frames > 1 and count < item.bucket[2]:
                told = f"the {name} of {item.id} has {count} frames at {fps:g} fps, the clip {item.bucket[2]}"
                level = "error" if name == "reference" else "notice"
                yield DataFinding(f"short {name}", told, item.id, level)  # type: ignore[arg-type]


# --- pictures that are nearly alike -------------------------------------------------------------------


def _hash(dataset: Dataset, item: DataItem) -> NDArray[np.bool_]:
    """Return the bits of three frames of a sample: whether each of 9x8 cells is brighter than the next."""
    assert item.bucket is not None
    path, fps = str(dataset.path(item.main)), dataset.config.fps
    last_s = (item.bucket[2] - 1) / fps
    times = [item.start_s + share * last_s for share in (0, 0.5, 1)]
    frames = frames_shown(path, times if item.video else [0.0] * 3, fps, (64, 64))
    return np.concatenate([_bits(frame) for frame in frames])


def _bits(frame: Pixels) -> NDArray[np.bool_]:
    from PIL import Image

    small = Image.fromarray(np.ascontiguousarray(frame)).convert("L").resize((9, 8), Image.Resampling.BOX)
    values = np.asarray(small, np.int16)
    bits: NDArray[np.bool_] = (values[:, 1:] > values[:, :-1]).flatten()
    return bits


def _nearly_alike(hashes: dict[str, NDArray[np.bool_]]) -> Iterator[DataFinding]:
    names = list(hashes)
    bits = np.array([hashes[name] for name in names])
    for first, name in enumerate(names):
        distances = (bits[first + 1 :] != bits[first]).sum(axis=1)
        for other in np.flatnonzero(distances <= ALIKE_BITS):
            yield DataFinding(
                "nearly alike", f"{name} and {names[first + 1 + int(other)]} are nearly alike", name
            )
