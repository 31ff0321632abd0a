"""Read and encode the inputs of a plan before its passes begin, and keep them for the next request.

`prepare` does all the reading and encoding of a plan; the passes only look encodings up. An input that was
encoded before, by this run or another, is not decoded again: an encoding is kept by the input's content, all
that is done to it, and the VAE.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soundstage.conditioning.masks import attention_cells, cells_touched
from soundstage.conditioning.pixels import (
    chosen,
    drawn_out,
    fit,
    fit_light,
    fit_mask,
    mirrored,
    strided,
    to_uint8,
)
from soundstage.control.kinds import FILES, kind_named, prepared_by
from soundstage.errors import MediaError
from soundstage.library.file_identity import file_identity
from soundstage.media.arrays import fit_audio
from soundstage.media.exr_sequence import exr_clip, is_exr_clip
from soundstage.media.hdr import light_of
from soundstage.media.in_memory import File, InMemory
from soundstage.media.light import CURVES
from soundstage.media.load import compress, frames_shown, light_shown, load_sound
from soundstage.media.probe import probe
from soundstage.planning.grid import heard_s, held_times, sample_times
from soundstage.planning.plan import Condition, PassPlan, Plan
from soundstage.rendering.encoding_cache import EncodingCache, content_key
from soundstage.rendering.events import At, unseen
from soundstage.rendering.finite import checked
from soundstage.rendering.parts import Encoder, ModelParts
from soundstage.request.inputs import Control
from soundstage.types import AUDIO_LATENTS_PER_S, MEL_RATE_HZ, SPACE_SCALE, TIME_SCALE, Crop, enlargement

SPARE_S = 0.1  # of sound beyond the latents wanted, at least one mel window
READING = "by time"  # how files are read; another way may give other pixels and samples
DECODERS = ("av", "pillow")  # what reads the files: another version may give other pixels


class EncodedInputs:
    """The inputs of one plan as latents, (1, 128, T, h, w) or (1, 8, T, 16), in the dtype of the run."""

    def __init__(self, plan: Plan, parts: ModelParts, cache: EncodingCache) -> None:
        self.plan = plan
        self.parts = parts
        self.cache = cache
        self._used: dict[Hashable, Tensor] = {}

    @torch.no_grad()
    def prepare(self, at: At = unseen) -> None:
        """Read and encode all that the passes use. at: is told what is being read."""
        for pass_ in self.plan.passes:
            for condition in pass_.conditions:
                at(Path(condition.name).name)
                self.condition(condition, pass_)
            self.source_mask(pass_)
            if pass_.source is not None and pass_.source.video != "none":
                at("source")
                self.source_video(pass_)
            if pass_.audio is not None:
                if self.plan.request.audio is not None or pass_.source is not None:
                    at("sound")
                self.sound(pass_)
                self.identity(pass_)

    def condition(self, condition: Condition, pass_: PassPlan) -> Tensor:
        """Return the latents of a guide or reference."""
        request = self.plan.request
        if condition.kind == "reference":
            one = request.followed[condition.index][1]
            control = one if isinstance(one, Control) else None
            leads = request.source is None and any(one is reference for reference in request.references[:1])
            whole = self.plan.source_size if leads else None
            return self._clip(one.video, condition, pass_.fps, one.crop, crf=0, control=control, whole=whole)
        guide = request.guides[condition.index]
        crf = self.plan.image_crf if guide.crf is None else guide.crf
        crf = 0 if self.plan.hdr is not None else crf
        return self._clip(guide.image, condition, pass_.fps, guide.crop, crf=crf, shown=True)

    def reference_attention(self, condition: Condition, pass_: PassPlan) -> Tensor | float:
        """Return how strongly the clip attends to a reference: one value, or one for each token, (N,)."""
        one = self.plan.request.followed[condition.index][1]
        mask = None if isinstance(one, Control) else one.mask
        if mask is None:
            return condition.attention
        covered = (condition.num_frames - 1) * condition.temporal + 1
        pixels = _read_mask(mask, pass_, covered)[strided(covered, condition.temporal)]
        cells = attention_cells(pixels, condition.height // SPACE_SCALE, condition.width // SPACE_SCALE)
        return condition.attention * cells

    def source_pixels(self, pass_: PassPlan) -> NDArray[np.uint8]:
        """Return the source's frames at the size of the pass, without what is made around them."""
        return to_uint8(self._source_pictures(pass_, self._source_times(pass_)))

    def source_light(self, pass_: PassPlan) -> NDArray[np.float16]:
        """Return the source's frames as `source_pixels` does, as light."""
        frames, crop = self._source_frames(pass_, self._source_times(pass_))
        return fit_light((light_of(frame) for frame in frames), *self._source_size(pass_), crop)

    def source_video(self, pass_: PassPlan) -> Tensor:
        """Return the latents of the source alone, at the size and rate of the pass before its upsamplers."""
        source, use = self.plan.request.source, pass_.source
        assert source is not None
        assert source.video is not None
        assert use is not None
        cut = (
            use.first_frame,
            use.num_frames,
            pass_.fps,
            self.plan.fps,
            self.plan.source_size,
            *self._coding,
        )
        key = ("source", _identity(source.video), *self._source_size(pass_), *cut, source.crop)

        def make() -> Tensor:
            times = self._source_times(pass_)
            whole = (len(times) - 1) // TIME_SCALE * TIME_SCALE + 1
            return self.parts.encode_video(self._source_pictures(pass_, times[:whole]))

        return self._get("video", key, make)

    def source_mask(self, pass_: PassPlan) -> Tensor | None:
        """Return the cells of the pass that the source's mask touches, (T, h, w); None without a mask."""
        source, use = self.plan.request.source, pass_.source
        if source is None or source.mask is None or use is None or use.video != "part":
            return None
        shown, plan = self.plan.shown_size, self.plan
        if shown is None:
            return cells_touched(_read_mask(source.mask, pass_, pass_.num_frames))
        width, height = (
            round(side * of / made)
            for side, of, made in zip(
                shown, (pass_.width, pass_.height), (plan.width, plan.height), strict=True
            )
        )
        mask = _read_mask(source.mask, replace(pass_, width=width, height=height), pass_.num_frames)
        return cells_touched(
            torch.nn.functional.pad(mask, (0, pass_.width - width, 0, pass_.height - height))
        )

    def sound(self, pass_: PassPlan) -> Tensor | None:
        """Return the latents of a given sound, (1, 8, T, 16), as long as the pass's own; None without one."""
        request, use = self.plan.request, pass_.source
        if self.plan.driven and request.audio is not None:
            return self._sound(request.audio.file, request.audio.start_s, 0.0, pass_.audio_tokens)
        if use is None or use.audio == "none" or request.source is None:
            return None
        own = request.source.video if request.source.audio is None else request.source.audio
        assert own is not None
        return self._sound(own, request.source.start_s, use.before / pass_.fps, pass_.audio_tokens)

    def silence(self, pass_: PassPlan) -> Tensor:
        """Return the latents of silence."""
        count = pass_.audio_tokens

        def make() -> Tensor:
            samples = torch.zeros(1, 2, _samples_for(count, MEL_RATE_HZ))
            return self.parts.encode_audio(samples, MEL_RATE_HZ)[:, :, :count]

        return self._get("audio", ("silence", count), make)

    def identity(self, pass_: PassPlan) -> Tensor | None:
        """Return the latents of the voice to speak with, (1, 8, T, 16); None where the pass is given none."""
        audio = self.plan.request.audio
        if audio is None or pass_.identity not in ("input", "soundtrack"):
            return None
        count = pass_.added_audio
        limit_s = heard_s(pass_.identity)
        key = ("voice", _identity(audio.file), audio.start_s, count, limit_s)

        def make() -> Tensor:
            return voice_latents(self.parts, audio.file, audio.start_s, limit_s, count)

        return self._get("audio", key, make)

    def _clip(
        self,
        file: File,
        condition: Condition,
        fps: float,
        crop: Crop,
        *,
        crf: int,
        shown: bool = False,
        control: Control | None = None,
        whole: tuple[int, int] | None = None,
    ) -> Tensor:
        """Return the latents of a picture or clip.

        shown: it becomes part of the picture, whose light it has. control: what is made of it before it is
        encoded. whole: the size that it is mirrored to.
        """
        c = condition
        cut = (c.num_frames, c.doubled, c.temporal, fps, self.plan.fps, *(self._coding if shown else ()))
        own = (*(whole or ()), *_control_key(control))
        key = ("clip", _identity(file), c.width, c.height, *cut, crop, crf, *own)

        def make() -> Tensor:
            frames, count = self._clip_frames(file, c, fps, shown, control, whole)
            if count == 1 and crf:
                frames = iter([compress(next(frames), crf)])
            if c.doubled:
                frames = _first_twice(frames)
            fitted = fit(frames, c.width, c.height, "stretch" if whole is not None else crop)
            latents = self.parts.encode_video(fitted)
            return latents[:, :, 1:] if c.doubled else latents

        return self._get("video", key, make)

    def _clip_frames(
        self,
        file: File,
        c: Condition,
        fps: float,
        shown: bool,
        control: Control | None,
        whole: tuple[int, int] | None,
    ) -> tuple[Iterator[Any], int]:
        """Return the frames that `_clip` encodes, and how many were read."""
        own_fps, info = self.plan.fps, probe(file)
        if control is not None:
            info = kind_named(control.kind).made_info(info, control.options)
        times = sample_times(info, fps, own_fps, (c.num_frames - 1) * c.temporal + 1)
        if self.plan.hdr is not None:
            times = held_times(times, info.fps or own_fps)
        kept = strided(len(times), c.temporal)[: c.num_frames]
        if control is not None:
            made = kind_named(control.kind).prepare(
                frames_shown(file, times, own_fps), fps, control.options, len(times)
            )
            return chosen(made, kept), len(times)
        times = [times[i] for i in kept]
        frames = self._read(file, times, whole or (c.width, c.height), light=shown)
        if whole is not None:
            frames = (mirrored(frame, *whole) for frame in frames)
        return frames, len(times)

    def _sound(self, file: File, start_s: float, delay_s: float, count: int) -> Tensor:
        """Return a file's sound from start_s on, after delay_s of silence, as `count` latents."""
        key = ("sound", _identity(file), start_s, delay_s, count)

        def make() -> Tensor:
            return sound_latents(self.parts, file, start_s, count, delay_s)

        return self._get("audio", key, make)

    def _source_pictures(self, pass_: PassPlan, times: list[float]) -> Tensor:
        """Return the source's frames at these seconds as the VAE takes them, (1, 3, F, h, w)."""
        frames, crop = self._source_frames(pass_, times)
        return fit(map(self._coded, frames), *self._source_size(pass_), crop)

    def _source_frames(self, pass_: PassPlan, times: list[float]) -> tuple[Iterator[Any], Crop]:
        """Return the source's frames at these seconds, and how they are fitted to the pass."""
        source, whole = self.plan.request.source, self.plan.source_size
        assert source is not None
        assert source.video is not None
        size = whole or self._source_size(pass_)
        high = self.plan.hdr is not None
        frames: Iterator[Any] = (light_shown if high else frames_shown)(
            source.video, times, self.plan.fps, size
        )
        if whole is None:
            return frames, source.crop
        return (drawn_out(frame, *whole) for frame in frames), "stretch"

    def _read(self, file: File, times: list[float], size: tuple[int, int], *, light: bool) -> Iterator[Any]:
        """Yield a file's frames in 0 to 255. light: in the curve of the picture, where that has light."""
        if not light or self.plan.hdr is None:
            return frames_shown(file, times, self.plan.fps, size)
        return map(self._coded, light_shown(file, times, self.plan.fps, size))

    def _coded(self, frame: NDArray[Any]) -> NDArray[Any]:
        """Return a frame of light in 0 to 255 as the model codes it; one in standard range as it is."""
        if self.plan.hdr is None or self.plan.hdr.curve is None:
            return frame
        codes: NDArray[np.float32] = CURVES[self.plan.hdr.curve].encode(light_of(frame)) * np.float32(255)
        return codes

    @property
    def _coding(self) -> tuple[str, ...]:
        """Return what latents of a picture with light depend on besides; nothing in standard range."""
        return () if self.plan.hdr is None else (str(self.plan.hdr.curve), version("OpenEXR"))

    def _source_times(self, pass_: PassPlan) -> list[float]:
        """Return the times of the source's frames of a pass, in the source's own seconds."""
        source, use = self.plan.request.source, pass_.source
        assert source is not None
        assert source.video is not None
        assert use is not None
        info = probe(source.video)
        end = use.first_frame + use.num_frames
        times = sample_times(info, pass_.fps, self.plan.fps, end, use.first_frame)
        return times + times[-1:] * (use.num_frames - len(times))  # its last frame fills up a latent

    def _source_size(self, pass_: PassPlan) -> tuple[int, int]:
        """Return the width and height of the source in a pass, before the pass's upsamplers."""
        assert pass_.source is not None
        left, top, right, bottom = pass_.source.margins
        width, height = pass_.width - left - right, pass_.height - top - bottom
        larger = enlargement(pass_.upsample, "space") if pass_.source.video == "start" else 1
        return int(width / larger), int(height / larger)

    def _get(self, encoder: Encoder, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Return latents that were encoded before, or make them.

        key: all that they depend on besides the encoder and the libraries that read files.
        """
        if key not in self._used:
            name = content_key(key, READING, *map(version, DECODERS), *self.parts.identity(encoder))

            def latents() -> dict[str, Tensor]:
                return {"latents": checked(make(), "an input, as the VAE encodes it,", self.parts)}

            self._used[key] = self.cache.kept(name, latents, self.parts.device)["latents"]
        return self._used[key]


def sound_latents(parts: ModelParts, file: File, start_s: float, count: int, delay_s: float = 0.0) -> Tensor:
    """Return a file's sound from start_s on, after delay_s of silence, as `count` latents (1, 8, count, 16).

    Silence follows where it ends before them.
    """
    length_s = max(0.1, count / AUDIO_LATENTS_PER_S + SPARE_S - delay_s)
    samples, rate = load_sound(file, start_s, length_s)
    delay = torch.zeros(2, round(delay_s * rate))
    whole = torch.cat([delay, torch.from_numpy(samples)], dim=1)
    needed = _samples_for(count, rate)
    whole = torch.nn.functional.pad(whole, (0, max(0, needed - whole.shape[1])))[:, :needed]
    return parts.encode_audio(whole[None], rate)[:, :, :count]


def voice_latents(parts: ModelParts, file: File, start_s: float, limit_s: float, count: int) -> Tensor:
    """Return at most limit_s of a voice sample as `count` latents, (1, 8, count, 16)."""
    samples, rate = load_sound(file, start_s, limit_s)
    samples = fit_audio(samples, max(samples.shape[1], _samples_for(count, rate)))
    return parts.encode_audio(torch.from_numpy(samples)[None], rate)[:, :, :count]


def _read_mask(file: File, pass_: PassPlan, num_frames: int) -> Tensor:
    """Return a mask over the frames of a pass, (F, H, W) in [0, 1]."""
    times = sample_times(probe(file), pass_.fps, pass_.fps, num_frames)
    frames = frames_shown(file, times, pass_.fps)
    return fit_mask(frames, pass_.width, pass_.height, num_frames, "stretch")


def _control_key(control: Control | None) -> tuple[Hashable, ...]:
    """Return all that what is made of a clip depends on besides the clip."""
    if control is None:
        return ()
    options = kind_named(control.kind).checked(control.options)
    files = {
        name: file if file is None else _identity(file) for name, file in options.items() if name in FILES
    }
    return (control.kind, *sorted((options | files).items()), prepared_by(control.kind))


def _first_twice(frames: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    first = next(frames)
    yield first
    yield first
    yield from frames


def _samples_for(count: int, rate_hz: int) -> int:
    """Return how many samples encode to at least `count` latents, and to at least one mel window."""
    return round((count / AUDIO_LATENTS_PER_S + SPARE_S) * rate_hz)


def _identity(file: File) -> Hashable:
    """Return what differs between files that differ in content. Raises MediaError for one that is gone."""
    if isinstance(file, InMemory):
        return (file.sha256, str(file), file.fps, file.sample_rate_hz)
    if is_exr_clip(Path(file)):
        return tuple(file_identity(path) for path in exr_clip(Path(file)).files)
    try:
        return file_identity(Path(file))
    except FileNotFoundError:
        raise MediaError(f"{file} was there when the clip was planned, and is gone; put it back") from None
