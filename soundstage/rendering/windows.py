"""Make the windows of a take one after the other, and put them together.

The function that makes a window is an argument: it runs an ordinary plan and yields its events.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soundstage.planning.windows import Window, given_frames
from soundstage.rendering.seams import adain, continued_audio, continued_video, fade, first_sample, joined
from soundstage.rendering.window_store import LostWindowError, WindowStore
from soundstage.request.take import Take
from soundstage.sampling.streams import Streams

Yielded = TypeVar("Yielded")
PassLatents = dict[str, Tensor]  # "<pass>.video" (B, C, T, h, w) and "<pass>.audio" (B, C, T, F)
WINDOW_SEAM_SAMPLES = 2400  # 50 ms; two latents, the least two windows share, hold as much


@dataclass(frozen=True)
class Handover:
    """The latents a window is given: those of the window before, and of the first one, of all passes."""

    take: Take
    window: Window
    before: PassLatents
    first: PassLatents

    def continued(self, name: str, streams: Streams) -> Streams:
        """Return the streams of a pass with their beginning given. name: the pass's name."""
        video, audio = streams
        before = self.before.get(f"{name}.video")
        if video is not None and before is not None:
            first = self.first[f"{name}.video"][:, :, :1]
            video = continued_video(
                video,
                self.window,
                before.to(video.clean.device),
                first.to(video.clean.device),
                strength=self.take.strength,
                reference=self.take.reference,
            )
        before = self.before.get(f"{name}.audio")
        if audio is not None and before is not None:
            audio = continued_audio(
                audio, self.window, before.to(audio.clean.device), strength=self.take.strength
            )
        return video, audio


def made_windows(
    windows: Sequence[Window],
    take: Take,
    store: WindowStore,
    make: Callable[[Window, Handover | None], Generator[Yielded, None, PassLatents]],
) -> Iterator[Yielded]:
    """Make every window that the store does not hold yet, and yield the events of each.

    make: runs a window from what it is given (None for the first) and returns its latents. A window that
    is lost meanwhile, as somebody deleted or spoiled its file, is made again.
    """
    while True:
        try:
            yield from _missing(windows, take, store, make)
            for window in windows:
                store.load(window.index)
            return
        except LostWindowError as lost:
            store.lose(lost)


def _missing(
    windows: Sequence[Window],
    take: Take,
    store: WindowStore,
    make: Callable[[Window, Handover | None], Generator[Yielded, None, PassLatents]],
) -> Iterator[Yielded]:
    for window in windows:
        if window.index in store:
            continue
        handover = None
        if window.index:
            handover = Handover(take, window, store.load(window.index - 1), store.load(0))
        latents = yield from make(window, handover)
        if handover is not None:
            latents = adjusted(latents, handover.first, take)
        store.save(window.index, latents)


def adjusted(latents: PassLatents, first: PassLatents, take: Take) -> PassLatents:
    """Return a later window's latents, the video brought to the first one's statistics by `take.adain`."""
    return {
        name: adain(x, first[name].to(x.device), take.adain) if name.endswith(".video") else x
        for name, x in latents.items()
    }


def assembled(windows: Sequence[Window], store: WindowStore, name: str) -> Tensor:
    """Return the take's latents of one pass and modality, such as "denoise.video", time on axis 2."""
    audio = name.endswith(".audio")
    parts = ((w.audio_overlap if audio else w.overlap, store.load(w.index)[name]) for w in windows)
    return torch.cat(list(joined(parts)), dim=2)


class Joint:
    """Keeps what the next window of an endless take needs: latents, and the sound of the seam."""

    def __init__(self, take: Take) -> None:
        self.take = take
        self._first: PassLatents | None = None
        self._before: PassLatents = {}
        self._held: NDArray[np.float32] | None = None

    def handover(self, window: Window) -> Handover | None:
        """Return what a window is given; None for the first."""
        return None if self._first is None else Handover(self.take, window, self._before, self._first)

    def new_part(
        self,
        window: Window,
        latents: PassLatents,
        frames: NDArray[np.uint8] | None,
        waveform: NDArray[np.float32] | None,
    ) -> tuple[NDArray[np.uint8] | None, NDArray[np.float32] | None, int]:
        """Return the frames and samples a new window adds to the film, and the film's sample they begin at.

        The last SEAM_SAMPLES of sound, decoded without what follows, are held back; the next window's own
        are faded in over them. latents: those of all passes, kept for the next window.
        """
        self._before = latents if self._first is None else adjusted(latents, self._first, self.take)
        self._first = self._first or latents
        if frames is not None:
            frames = frames[given_frames(window) :]
        if waveform is None:
            return frames, None, 0
        end = first_sample(window.audio_stop) - WINDOW_SEAM_SAMPLES
        origin = first_sample(window.audio_stop) - first_sample(window.audio_stop - window.audio_start)
        begin = 0
        if self._held is not None:
            begin = first_sample(window.audio_stop - _latents_after_overlap(window)) - WINDOW_SEAM_SAMPLES
            weights = fade(WINDOW_SEAM_SAMPLES).numpy()
            seam = slice(begin - origin, begin - origin + WINDOW_SEAM_SAMPLES)
            waveform = waveform.copy()
            waveform[:, seam] = self._held + weights * (waveform[:, seam] - self._held)
        self._held = waveform[:, end - origin : end - origin + WINDOW_SEAM_SAMPLES].copy()
        return frames, waveform[:, begin - origin : end - origin], begin


def _latents_after_overlap(window: Window) -> int:
    return window.audio_stop - window.audio_start - window.audio_overlap
