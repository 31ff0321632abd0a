"""The latents of a pass between two of its steps, which a caller may look at and change."""

from __future__ import annotations

import torch
from torch import Tensor

from soundstage.errors import RequestError
from soundstage.planning.plan import PassPlan
from soundstage.sampling.denoise import State
from soundstage.sampling.streams import Stream, Streams


class LiveTokens:
    """The clip's own tokens after a step, until the next event of the run is asked for.

    video: (1, N, 128) in (frame, row, column) order, audio: (1, M, 128); None where not made, and once the
    run has gone on.
    """

    def __init__(self, pass_: PassPlan, both: Streams, state: State) -> None:
        self.video = None if state.video is None else state.video[:, : pass_.video_tokens]
        self.audio = None if state.audio is None else state.audio[:, : pass_.audio_tokens]
        self._both = both

    def put(self, *, video: Tensor | None = None, audio: Tensor | None = None) -> None:
        """Have the next step start from these tokens. Kept tokens stay as they are.

        Raises RequestError for another shape, and for what is no tensor.
        """
        for name, now, new, stream in (
            ("video", self.video, video, self._both[0]),
            ("audio", self.audio, audio, self._both[1]),
        ):
            if new is not None and now is not None and stream is not None:
                _put(name, now, new, stream)

    def end(self) -> None:
        """Let go of the tokens: the run goes on."""
        self.video = self.audio = None
        self._both = (None, None)


@torch.no_grad()
def _put(name: str, now: Tensor, new: Tensor, stream: Stream) -> None:
    if not isinstance(new, Tensor):
        raise RequestError(f"the {name} latents were changed to {type(new).__name__}; give a tensor")
    if new.shape != now.shape:
        raise RequestError(
            f"the {name} latents were changed to {tuple(new.shape)}; give them as they were, "
            f"{tuple(now.shape)}"
        )
    if not stream.frozen:
        kept = stream.mask[:, : now.shape[1]] == 0
        now.copy_(torch.where(kept, now, new.to(now)))
