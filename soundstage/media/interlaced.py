"""Interlaced frames made whole, by FFmpeg's bwdif."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from soundstage.media.container import TimedFrames


def whole_frames(frames: TimedFrames) -> TimedFrames:
    """Yield (seconds, frame) with one whole frame for each interlaced one; others as they are.

    A frame's fields are made whole with the help of the frames beside it, so each comes one frame late.
    """
    import av

    graph: Any = None
    times: list[float] = []
    shape: tuple[Any, ...] = ()
    for time_s, frame in frames:
        own = (frame.width, frame.height, frame.format.name)
        if graph is None and not frame.interlaced_frame:
            yield time_s, frame
            continue
        if graph is not None and own != shape:
            yield from zip(times, _pulled(graph, None), strict=False)
            graph, times = None, []
        if graph is None:
            graph, shape = _deinterlacer(av, frame), own
        times.append(time_s)
        for done in _pulled(graph, frame):
            yield times.pop(0), done
    if graph is not None:
        yield from zip(times, _pulled(graph, None), strict=False)


def _deinterlacer(av: Any, frame: Any) -> Any:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    whole = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    graph.link_nodes(source, whole, graph.add("buffersink"))
    graph.configure()
    return graph


def _pulled(graph: Any, frame: Any) -> Iterator[Any]:
    """Yield what comes out of a filter after a frame was put in; None is the end."""
    import av

    graph.vpush(frame)
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
