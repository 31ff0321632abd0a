"""A film's timeline as OTIO, through OpenTimelineIO."""

from __future__ import annotations

from typing import Any

from soundstage.editing.grid import FilmGrid
from soundstage.editing.spans import ShotSpan, SoundSpan, shot_spans, sound_spans
from soundstage.errors import MissingExtraError

TAG = "soundstage"  # key of what is ours in the metadata of OTIO


def otio_text(grid: FilmGrid, name: str) -> str:
    """Return the timeline as OTIO has it, in JSON. Raises MissingExtraError."""
    otio = _otio()
    made: str = otio.adapters.write_to_string(_timeline(otio, grid, name), "otio_json")
    return made + "\n"


def _otio() -> Any:
    try:
        import opentimelineio
    except ImportError as error:
        raise MissingExtraError("film", "a timeline for editing programs") from error
    return opentimelineio


def _timeline(otio: Any, grid: FilmGrid, name: str) -> Any:
    spans = shot_spans(grid)
    time = _Times(otio, float(grid.fps))
    made = otio.schema.Timeline(name=name, global_start_time=time.at(0))
    made.tracks.append(_picture(otio, time, spans))
    if any(span.sound_first is not None for span in spans):
        made.tracks.append(_sound(otio, time, spans))
    tracks: dict[str, Any] = {}
    for span in sound_spans(grid):
        if span.track not in tracks:
            tracks[span.track] = otio.schema.Track(span.track, kind="Audio")
            made.tracks.append(tracks[span.track])
        _lay(otio, time, tracks[span.track], span)
    _mark(otio, grid, time, made)
    line = grid.timeline
    made.metadata[TAG] = {
        "width": grid.width,
        "height": grid.height,
        "sample_rate_hz": grid.rate,
        "fade_out_s": line.fade_out_s,
    }
    return made


class _Times:
    """Frames of the film as OTIO's times."""

    def __init__(self, otio: Any, fps: float) -> None:
        self._otio, self._fps = otio.opentime, fps

    def at(self, frame: int) -> Any:
        return self._otio.RationalTime(frame, self._fps)

    def span(self, first: int, count: int) -> Any:
        return self._otio.TimeRange(self.at(first), self.at(count))


def _picture(otio: Any, time: _Times, spans: list[ShotSpan]) -> Any:
    track = otio.schema.Track("Picture", kind="Video")
    for index, span in enumerate(spans):
        if span.before + span.after and index:
            track.append(_transition(otio, time, span))
        if span.placed.info is None:
            track.append(otio.schema.Gap(name="black", source_range=time.span(0, span.count)))
        else:
            track.append(_clip(otio, time, span, span.first, span.end))
    return track


def _sound(otio: Any, time: _Times, spans: list[ShotSpan]) -> Any:
    track = otio.schema.Track("Sound of the shots", kind="Audio")
    at = 0
    for span in spans:
        if span.sound_first is None or span.sound_end is None or span.sound_end <= max(at, span.sound_first):
            continue
        first = max(at, span.sound_first)
        if first > at:
            track.append(otio.schema.Gap(source_range=time.span(0, first - at)))
        elif at and span.before + span.after and not span.through_black:
            track.append(_transition(otio, time, span))
        track.append(_clip(otio, time, span, first, span.sound_end))
        at = span.sound_end
    return track


def _transition(otio: Any, time: _Times, span: ShotSpan) -> Any:
    kind = "Custom_Transition" if span.through_black else "SMPTE_Dissolve"
    return otio.schema.Transition(
        name="fade through black" if span.through_black else "dissolve",
        transition_type=kind,
        in_offset=time.at(span.before),
        out_offset=time.at(span.after),
    )


def _clip(otio: Any, time: _Times, span: ShotSpan, first: int, end: int) -> Any:
    """Return a shot's picture or sound from one frame of the film to another."""
    cut = span.placed.cut
    source_first = span.source_first + first - span.first
    length = span.length or span.placed.num_frames
    reference = otio.schema.ExternalReference(
        target_url=cut.source.absolute().as_uri(), available_range=time.span(0, length)
    )
    clip = otio.schema.Clip(
        name=span.name, media_reference=reference, source_range=time.span(source_first, end - first)
    )
    told = {"gain_db": cut.gain_db, "match_to": cut.match_to, "caption": cut.caption}
    if span.placed.number == 1 and span.placed.rise:
        told["fade_in_frames"] = span.placed.rise
    clip.metadata[TAG] = {name: value for name, value in told.items() if value}
    return clip


def _lay(otio: Any, time: _Times, track: Any, span: SoundSpan) -> None:
    """Put a piece of music or a voice on its track, after silence."""
    at = round(track.duration().value) if len(track) else 0
    if span.first > at:
        track.append(otio.schema.Gap(source_range=time.span(0, span.first - at)))
    reference = otio.schema.ExternalReference(
        target_url=span.piece.path.absolute().as_uri(), available_range=time.span(0, span.length)
    )
    clip = otio.schema.Clip(
        name=span.piece.path.stem,
        media_reference=reference,
        source_range=time.span(span.source_first, span.count),
    )
    clip.metadata[TAG] = {"gain_db": span.piece.gain_db}
    track.append(clip)


def _mark(otio: Any, grid: FilmGrid, time: _Times, timeline: Any) -> None:
    """Mark titles and captions."""
    for title in grid.timeline.titles:
        first, count = grid.frames_in(title.start_s), grid.frames_in(title.seconds)
        timeline.tracks.markers.append(_marker(otio, time, "title", title.text, first, count, ""))
    for caption in grid.timeline.captions:
        first, end = grid.frames_in(caption.start_s), grid.frames_in(caption.end_s)
        timeline.tracks.markers.append(
            _marker(otio, time, "caption", caption.text, first, end - first, caption.speaker)
        )


def _marker(otio: Any, time: _Times, kind: str, text: str, first: int, count: int, speaker: str) -> Any:
    marker = otio.schema.Marker(name=text, marked_range=time.span(first, count))
    marker.metadata[TAG] = {"kind": kind, "speaker": speaker}
    return marker
