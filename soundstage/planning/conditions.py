"""Guides, references and the source as each pass uses them: plain data, in latents and frames of the pass."""

from __future__ import annotations

from collections.abc import Iterable

from soundstage.conditioning.seams import (
    SEAM_FRAMES,
    SEAM_SAMPLES,
    frames_in,
    latent_samples,
    latent_video_frames,
    seams,
)
from soundstage.planning.grid import audio_edges, frames_at, latents_in, video_edges
from soundstage.planning.plan import Condition, KeptPart, PassPlan, SourceUse
from soundstage.planning.resolve import ResolvedRequest
from soundstage.planning.sizes import side_step
from soundstage.request.inputs import Control, Guide, Reference, Source
from soundstage.request.recipe import Pass
from soundstage.types import OUTPUT_RATE_HZ, SPACE_SCALE, TIME_SCALE, VideoShape

MIN_CLIP = TIME_SCALE  # frames that make one latent of a clip inside the film


def tell_changes(resolved: ResolvedRequest, pass_: PassPlan, shown: int) -> None:
    """Add a notice of the frames and seconds of a partly kept clip that change.

    pass_: the last. shown: how many frames the result has.
    """
    source, use = resolved.source, pass_.source
    if source is None or use is None or not source.keep_pixels:
        return
    if not (source.regenerate or any(resolved.extension())):
        return
    told = []
    if use.video == "part":
        frames = [(seam.start, min(seam.stop, shown)) for seam in use.video_seams]
        numbers = ", ".join(f"{a} to {b - 1}" for a, b in frames)
        seconds = ", ".join(f"{a / pass_.fps:.2f} to {b / pass_.fps:.2f}" for a, b in frames)
        told.append(f"frames {numbers} of the picture ({seconds} s)")
    if use.audio == "part":
        rate = OUTPUT_RATE_HZ
        own = resolved.infos.get("source.audio") or resolved.source_info
        given_s = 0.0 if own is None or own.sound_s is None else own.sound_s - source.start_s
        end_s = max(shown / pass_.fps, given_s)  # what is made beyond it is cut off
        heard = [(s.start / rate, min(s.stop / rate, end_s)) for s in use.audio_seams]
        seconds = ", ".join(f"{a:.2f} to {b:.2f}" for a, b in heard if a < b)
        told.append(f"{seconds} s of the sound")
    if told:
        resolved.notice(f"{' and '.join(told)} are made or faded over; everything else stays as it is")


def followed_name(one: Reference | Control) -> str:
    """Return what a plan calls a reference."""
    return f"{one.kind} of {one.video}" if isinstance(one, Control) else str(one.video)


def _merged(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the same stretches of time in order, those that overlap or touch as one."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


class ConditioningPlan:
    """The conditions of each pass. Problems are noted in the resolved request, and their inputs left out."""

    def __init__(self, resolved: ResolvedRequest) -> None:
        self.resolved = resolved
        self.request = resolved.request
        self.infos = resolved.infos
        self.source = resolved.source

    def conditions(self, pass_: Pass, shape: VideoShape, fps: float) -> tuple[Condition, ...]:
        made = [self._guide(i, guide, pass_, shape, fps) for i, guide in enumerate(self.request.guides)]
        if pass_.references:
            followed = enumerate(self.request.followed)
            made += [self._reference(i, where, one, shape, fps) for i, (where, one) in followed]
        return tuple(condition for condition in made if condition is not None)

    def _guide(self, i: int, guide: Guide, pass_: Pass, shape: VideoShape, fps: float) -> Condition | None:
        info = self.infos.get(f"guides[{i}].image")
        frame = self._guide_frame(i, guide, shape, fps)
        if info is None or frame is None or pass_.guides == "none":
            return None
        num_frames, available = 1, frames_at(info, fps, self.resolved.made_fps)
        clip = available > 1
        if clip and frame != 0:  # whole latents only, so it begins where a latent does
            frame = (frame - 1) // TIME_SCALE * TIME_SCALE + 1 if frame > 0 else frame
            room = available if guide.at == "before" else min(available, shape.num_frames - frame)
            num_frames = room // TIME_SCALE * TIME_SCALE
            if num_frames < MIN_CLIP:
                self.resolved.problem(
                    "guides",
                    f"guides[{i}]: {guide.image} has {room} frame(s) that fit; a clip inside the film "
                    f"needs at least {MIN_CLIP}, so give a longer clip, an earlier time, or a still",
                )
                return None
        elif clip:
            num_frames = (min(available, shape.num_frames) - 1) // TIME_SCALE * TIME_SCALE + 1
        doubled = clip and frame != 0
        latents = num_frames // TIME_SCALE if doubled else (num_frames - 1) // TIME_SCALE + 1
        if guide.at == "before":
            frame = -TIME_SCALE * latents if clip else -1
        mode = guide.mode or ("replace" if frame == 0 and guide.attention == 1 else "guide")
        if pass_.guides == "guide":
            mode = "guide"
        cells = (shape.height // SPACE_SCALE) * (shape.width // SPACE_SCALE)
        return Condition(
            kind="replace" if mode == "replace" else "guide",
            index=i,
            name=str(guide.image),
            frame=frame,
            num_frames=num_frames,
            num_latents=latents,
            doubled=doubled,
            width=shape.width,
            height=shape.height,
            strength=guide.strength if pass_.guide_strength is None else pass_.guide_strength,
            attention=guide.attention,
            tokens=0 if mode == "replace" else latents * cells,
        )

    def _guide_frame(self, i: int, guide: Guide, shape: VideoShape, fps: float) -> int | None:
        """Return the pixel frame of a pass where a guide begins; -1 stands for before the clip."""
        last = shape.num_frames - 1
        if guide.at == "before":
            return -1
        if guide.at == "last":
            return last
        if guide.frame is not None:
            rate = fps / self.resolved.made_fps  # of this pass to those that are made
            thin = self.request.thin
            asked = guide.frame * thin if guide.frame >= 0 else last / rate + (guide.frame + 1) * thin
            frame = round(asked * rate)
        else:
            frame = round((guide.at or 0.0) * fps)
        if not 0 <= frame <= last:
            told = f".frame is {guide.frame}" if guide.frame is not None else f".at is {guide.at:g} s"
            self.resolved.problem(
                "guides",
                f"guides[{i}]{told}, but the last frame is at {last / fps:.4g} s; give an earlier time "
                "or 'last'",
            )
            return None
        return frame

    def _reference(
        self, i: int, where: str, reference: Reference | Control, shape: VideoShape, fps: float
    ) -> Condition | None:
        info = self.infos.get(where)
        if info is None:
            return None
        downscale = self.resolved.downscale_of(reference)
        temporal = reference.temporal or self.resolved.temporal
        width, height = shape.width // downscale, shape.height // downscale
        if width % SPACE_SCALE or height % SPACE_SCALE:
            self.resolved.problem(
                where.partition("[")[0],
                f"{where.rpartition('.')[0]}: 1/{downscale} of {shape.width}x{shape.height} has no whole "
                f"latent cells; give sides that are multiples of {SPACE_SCALE * downscale} in every pass "
                "that sees it",
            )
            return None
        covered = min(frames_at(info, fps, self.resolved.made_fps), shape.num_frames)
        if covered + TIME_SCALE <= shape.num_frames:
            self.resolved.notice(
                f"{where} lasts {covered / fps:.3g} s of the film's {shape.num_frames / fps:.3g} s, and the "
                "rest follows nothing; give a longer one, or a shorter film"
            )
        # Frame 0, then 1, 1 + temporal, ...: of 16 frames by 2 the ninth is frame 15.
        latents = -(-(covered - 1) // temporal) // TIME_SCALE + 1
        return Condition(
            kind="reference",
            index=i,
            name=followed_name(reference),
            frame=0,
            num_frames=(latents - 1) * TIME_SCALE + 1,
            num_latents=latents,
            doubled=False,
            width=width,
            height=height,
            strength=reference.strength,
            attention=reference.attention,
            tokens=latents * (width // SPACE_SCALE) * (height // SPACE_SCALE),
            downscale=downscale,
            temporal=temporal,
        )

    # --- source --------------------------------------------------------------------------------------------

    def source_use(self, pass_: Pass, shape: VideoShape, fps: float, sound: int) -> SourceUse | None:
        source = self.source
        if source is None:
            return None
        before, after = (int(count * pass_.time) for count in self.resolved.extension())
        taken = shape.num_frames - before - after
        there = self.resolved.source_frames(fps)
        # The last frame fills up a latent; more than that is not there.
        if self.resolved.source_info is not None and (taken >= there + TIME_SCALE or taken < 1):
            self.resolved.problem(
                "source",
                f"the clip needs {taken} frames of the source at {fps:g} fps, which has {there} from "
                f"{source.start_s:g} s on; give a shorter duration, or "
                "source.extend_after_s to go on from it",
            )
            return None
        end = before + min(taken, there)
        spans = self._made_spans(before, end, after, shape.num_frames, fps)
        video_made = latents_in(spans, video_edges(shape.latent[0], fps))
        audio_made = latents_in(spans, audio_edges(sound))
        samples = round(shape.num_frames / fps * OUTPUT_RATE_HZ)
        frames = frames_in(spans, fps, shape.num_frames)
        heard = frames_in(spans, OUTPUT_RATE_HZ, samples)
        # A sound may go on after its picture.
        samples = max(samples, round(before / fps * OUTPUT_RATE_HZ) + self._source_samples())
        return SourceUse(
            video=self._video_part(pass_, source),
            audio=self._audio_part(pass_, source),
            first_frame=round(source.start_s * fps),
            num_frames=taken,
            before=before,
            margins=self._margins(pass_, shape),
            video_made=video_made,
            audio_made=audio_made,
            video_seams=seams(frames, latent_video_frames(video_made), shape.num_frames, SEAM_FRAMES),
            audio_seams=seams(heard, latent_samples(audio_made), samples, SEAM_SAMPLES),
        )

    def _made_spans(
        self, before: int, end: int, after: int, total: int, fps: float
    ) -> list[tuple[float, float]]:
        """Return the stretches of time that are made anew.

        before, after: frames in front of the source and behind it. end: the first frame behind it. total:
        frames of the pass, of which the last may only fill a latent.
        """
        source = self.source
        assert source is not None
        if source.regenerate:
            for span in source.regenerate:
                if 0 < (end + after) / fps <= span.start_s:
                    self.resolved.problem(
                        "source",
                        f"source.regenerate begins at {span.start_s:g} s, but the clip ends at "
                        f"{(end + after) / fps:.4g} s; give an earlier span",
                    )
            return _merged((span.start_s, span.end_s) for span in source.regenerate)
        spans = []
        ends = (before > 0) + (after > 0)
        half = (end - before) // (2 * max(1, ends))  # is kept, though whole latents are made anew
        feather = min(round(source.feather_s * fps), max(0, half - (self.resolved.frame_step - 1)))
        if before:
            spans.append((0.0, (before + feather) / fps))
        if after:
            spans.append(((end - feather) / fps, total / fps))
        if spans or (source.canvas is not None and source.mask is None):
            return spans
        return [(0.0, total / fps)]

    def _video_part(self, pass_: Pass, source: Source) -> KeptPart:
        if not self.resolved.has_video or source.video is None:
            return "none"
        if "video" not in source.modalities:
            return "all"
        if source.denoise is not None or pass_.start == "source":
            return "start" if pass_.start != "previous" else "none"
        partial = source.regenerate or source.mask or source.canvas or any(self.resolved.extension())
        return "part" if partial else "none"

    def _audio_part(self, pass_: Pass, source: Source) -> KeptPart:
        if not self.resolved.has_audio or self.resolved.driving or not self._source_sounds():
            return "none"
        if "audio" not in source.modalities:
            return "all"
        extends = any(self.resolved.extension())
        if (source.mask or source.canvas) and not source.regenerate and not extends:
            return "all"
        if source.denoise is not None or pass_.start == "source":
            return "start" if pass_.start != "previous" else "none"
        return "part" if source.regenerate or extends else "none"

    def _source_sounds(self) -> bool:
        own = self.infos.get("source.audio") or self.resolved.source_info
        return own is not None and own.sound_s is not None

    def _source_samples(self) -> int:
        """Return the number of samples in the source's sound, at the output's rate."""
        own = self.infos.get("source.audio") or self.resolved.source_info
        assert self.source is not None
        left_s = 0.0 if own is None or own.sound_s is None else own.sound_s - self.source.start_s
        return round(max(0.0, left_s) * OUTPUT_RATE_HZ)

    def _margins(self, pass_: Pass, shape: VideoShape) -> tuple[int, int, int, int]:
        """Return the pixels of a pass on each side of the source, in whole latent cells."""
        canvas = None if self.source is None else self.source.canvas
        if canvas is None:
            return 0, 0, 0, 0
        unit = side_step(self.resolved)
        scale = float(pass_.space)
        whole = [round(side / unit) * unit for side in (canvas.left, canvas.top, canvas.right, canvas.bottom)]
        left, top, right, bottom = (int(side * scale) for side in whole)
        if left + right >= shape.width or top + bottom >= shape.height or not any(whole):
            self.resolved.problem(
                "source",
                f"source.canvas of {canvas.left}, {canvas.top}, {canvas.right}, {canvas.bottom} pixels does "
                f"not fit {shape.width}x{shape.height} in steps of {unit}; leave room for the source",
            )
            return 0, 0, 0, 0
        return left, top, right, bottom
