"""The base of all pipelines: the engine, bars, attributes, and words without effect."""

from __future__ import annotations

from functools import partial
from typing import Any

from soundstage.compat.diffusers.parts import FrozenConfig
from soundstage.compat.diffusers.placing import PipelinePlacement
from soundstage.compat.diffusers.running import CALLING, CallWatch
from soundstage.compat.diffusers.telling import Notices, Word, unknown
from soundstage.compat.diffusers.words import METHODS
from soundstage.engine import Engine
from soundstage.errors import RequestError
from soundstage.types import SPACE_SCALE, TIME_SCALE


class PipelineShell(PipelinePlacement):
    """A pipeline's engine, its bars and its attributes."""

    vae_spatial_compression_ratio = SPACE_SCALE
    vae_temporal_compression_ratio = TIME_SCALE

    def __init__(self, engine: Engine, notices: Notices) -> None:
        super().__init__(engine, notices)
        self._progress: bool | None = None
        self._last_watch = CallWatch(notices, self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of '{self.name_or_path}', {self.dtype} on {self.device}>"

    def set_progress_bar_config(self, disable: bool | None = None, **words: Any) -> None:
        """Show bars, or show none; left out, they are shown on a terminal."""
        self._progress = None if disable is None else not disable
        if words:
            self.notices.tell(
                f"{', '.join(words)} of set_progress_bar_config has no effect: bars look as they do"
            )

    def new_watch(self) -> CallWatch:
        """Return what watches the next call; each call has its own, so that threads may call at once."""
        self._last_watch = CallWatch(self.notices, self, self._progress)
        return self._last_watch

    @property
    def _watch(self) -> CallWatch:
        """Return the watch of the call whose callback asks, else that of the last call."""
        calling = CALLING.get()
        return calling if calling is not None and calling.owner is self else self._last_watch

    @property
    def interrupt(self) -> bool:
        """Return whether the steps of the clip under way were ended."""
        return self._watch.interrupted

    @property
    def _interrupt(self) -> bool:
        return self._watch.interrupted

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        self._watch.interrupted = bool(value)

    @property
    def num_timesteps(self) -> int | None:
        return self._watch.num_steps

    @property
    def current_timestep(self) -> Any:
        return self._watch.timestep

    @property
    def config(self) -> FrozenConfig:
        return FrozenConfig(_class_name=type(self).__name__, _name_or_path=self.name_or_path)

    @property
    def name_or_path(self) -> str:
        return self.engine.model.name

    def __getattr__(self, name: str) -> Any:
        word = METHODS.get(name)
        if word is None or word.fate == "mapped":
            raise AttributeError(unknown(name, set(METHODS) - {name}, type(self).__name__))
        return partial(self._told, word)

    def _told(self, word: Word, *values: Any, **words: Any) -> None:
        if word.fate == "refused":
            raise RequestError(f"{word.name} is not there: {word.becomes}")
        self.notices.tell(f"{word.name} has no effect: {word.becomes}")
