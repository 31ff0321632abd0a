"""Put the picture of one film and the sound of another into one file: nothing is coded again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from soundstage.files import whole_file
from soundstage.media.container import media_errors, opened
from soundstage.media.write import file_url


def with_picture_of(film: Path, other: Path) -> None:
    """Replace the picture of an MP4 film by that of another, with its sound and metadata kept.

    Raises MediaError for a file that cannot be read or written; the film is then as it was.
    """
    import av

    with ExitStack() as stack:
        part = stack.enter_context(whole_file(film))
        sound, picture = (stack.enter_context(opened(path)) for path in (film, other))
        stack.enter_context(media_errors(film))
        options = {"movflags": "+faststart"}
        made = stack.enter_context(av.open(file_url(part), "w", format="mp4", options=options))
        made.metadata.update(sound.metadata)
        pairs = [
            (stream, made.add_stream_from_template(stream))
            for stream in (*picture.streams.video[:1], *sound.streams.audio[:1])
        ]
        for packet, track in _in_order(pairs, (picture, sound)):
            packet.stream = track
            made.mux(packet)


def _in_order(pairs: list[tuple[Any, Any]], containers: tuple[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield the packets of both in the order of their times, with the track that each goes to."""
    found = []
    for (stream, track), container in zip(pairs, containers, strict=False):
        for packet in container.demux(stream):
            if packet.dts is not None:
                found.append((float(packet.dts * packet.time_base), packet, track))
    found.sort(key=lambda one: one[0])
    yield from ((packet, track) for _, packet, track in found)
