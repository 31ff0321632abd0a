"""A film's timeline as FCPXML 1.10, which Final Cut Pro and DaVinci Resolve import.

OpenTimelineIO's adapter for it writes no transitions and no rates such as 23.976, so this is our own.
"""

from __future__ import annotations

from fractions import Fraction
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from soundstage.editing.grid import FilmGrid
from soundstage.editing.spans import ShotSpan, SoundSpan, shot_spans, sound_spans

VERSION = "1.10"
AUDIO_RATES = {44100: "44.1k", 48000: "48k", 96000: "96k"}


def fcpxml_text(grid: FilmGrid, name: str) -> str:
    """Return the timeline as FCPXML."""
    root = Element("fcpxml", version=VERSION)
    writer = _Writer(grid, SubElement(root, "resources"))
    event = SubElement(SubElement(root, "library"), "event", name=name)
    sequence = SubElement(
        SubElement(event, "project", name=name),
        "sequence",
        format="r1",
        duration=writer.time(grid.num_frames),
        tcStart="0s",
        tcFormat="NDF",
        audioLayout="stereo",
        audioRate=AUDIO_RATES[grid.rate],
    )
    writer.fill(SubElement(sequence, "spine"))
    ElementTree.indent(root)
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE fcpxml>\n{body}\n'


class _Writer:
    """Writes the resources while the spine is filled."""

    def __init__(self, grid: FilmGrid, resources: Element) -> None:
        self._grid, self._resources, self._ids = grid, resources, dict[str, str]()
        SubElement(
            resources,
            "format",
            id="r1",
            name="FFVideoFormatRateUndefined",
            frameDuration=self.time(1),
            width=str(grid.width),
            height=str(grid.height),
        )

    def time(self, frames: int) -> str:
        """Return frames as rational seconds whose denominator is the rate's."""
        rate: Fraction = self._grid.fps
        return f"{frames * rate.denominator}/{rate.numerator}s" if frames else "0s"

    def fill(self, spine: Element) -> None:
        spans = shot_spans(self._grid)
        first: tuple[Element, ShotSpan] | None = None
        for index, span in enumerate(spans):
            if index and span.before + span.after:
                SubElement(
                    spine,
                    "transition",
                    name="Fade To Color" if span.through_black else "Cross Dissolve",
                    offset=self.time(span.first - span.before),
                    duration=self.time(span.before + span.after),
                )
            element = self._shot(spine, span)
            first = first or (element, span)
        assert first is not None
        for lane, sound in enumerate(sound_spans(self._grid), 1):
            self._sound(*first, sound, lane)

    def _shot(self, spine: Element, span: ShotSpan) -> Element:
        common = {"name": span.name, "offset": self.time(span.first), "duration": self.time(span.count)}
        info = span.placed.info
        if info is None:
            return SubElement(spine, "gap", {**common, "name": "black", "start": "0s"})
        length = span.length or span.placed.num_frames
        ref = self._asset(
            span.placed.cut.source.absolute().as_uri(),
            span.name,
            length,
            picture=info.num_frames > 0,
            sound=info.sound_s is not None,
        )
        clip = SubElement(spine, "asset-clip", {**common, "ref": ref, "start": self.time(span.source_first)})
        if span.sound_first is not None and span.sound_end is not None and self._split(span):
            clip.set("audioStart", self.time(span.source_first + span.sound_first - span.first))
            clip.set("audioDuration", self.time(span.sound_end - span.sound_first))
        if span.placed.cut.gain_db:
            SubElement(clip, "adjust-volume", amount=f"{span.placed.cut.gain_db:g}dB")
        return clip

    @staticmethod
    def _split(span: ShotSpan) -> bool:
        return (span.sound_first, span.sound_end) != (span.first, span.end)

    def _sound(self, parent: Element, over: ShotSpan, span: SoundSpan, lane: int) -> None:
        """Connect a piece of music or a voice to the first shot; its time is that of the shot's source."""
        start = over.source_first if over.placed.info is not None else 0
        ref = self._asset(
            span.piece.path.absolute().as_uri(), span.piece.path.stem, span.length, picture=False, sound=True
        )
        clip = SubElement(
            parent,
            "asset-clip",
            lane=str(-lane),
            ref=ref,
            name=span.piece.path.stem,
            offset=self.time(start + span.first - over.first),
            start=self.time(span.source_first),
            duration=self.time(span.count),
        )
        if span.piece.gain_db:
            SubElement(clip, "adjust-volume", amount=f"{span.piece.gain_db:g}dB")

    def _asset(self, url: str, name: str, length: int, *, picture: bool, sound: bool) -> str:
        if url in self._ids:
            return self._ids[url]
        self._ids[url] = found = f"r{len(self._ids) + 2}"
        asset = SubElement(
            self._resources, "asset", id=found, name=name, start="0s", duration=self.time(length)
        )
        if picture:
            asset.attrib.update(hasVideo="1", format="r1")
        if sound:
            rate = str(self._grid.rate)
            asset.attrib.update(hasAudio="1", audioSources="1", audioChannels="2", audioRate=rate)
        SubElement(asset, "media-rep", kind="original-media", src=url)
        return found
