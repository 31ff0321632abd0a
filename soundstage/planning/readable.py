"""Whether all that a plan needs of its inputs can be read, found before any weight is loaded."""

from __future__ import annotations

from collections.abc import Callable

from soundstage.errors import MediaError
from soundstage.media.check import picture_notice, sound_notice
from soundstage.media.in_memory import File
from soundstage.planning.grid import heard_s, sample_times
from soundstage.planning.plan import Condition, PassPlan
from soundstage.planning.resolve import ResolvedRequest


def check_readable(resolved: ResolvedRequest, passes: tuple[PassPlan, ...]) -> None:
    """Decode the ends of every stretch that will be read, or all of a short one.

    What cannot be read is a problem; damage that is bridged is a notice.
    """
    if resolved.problems:  # stretches are known only of what can be planned
        return
    for pass_ in passes:
        for condition in pass_.conditions:
            _check_condition(resolved, condition, pass_)
        _check_source(resolved, pass_)
    _check_sounds(resolved, passes)


def _check_condition(resolved: ResolvedRequest, condition: Condition, pass_: PassPlan) -> None:
    i = condition.index
    if condition.kind == "reference":
        where, file = f"references[{i}].video", resolved.request.references[i].video
    else:
        where, file = f"guides[{i}].image", resolved.request.guides[i].image
    limit = (condition.num_frames - 1) * condition.temporal + 1
    _check_pictures(
        resolved, where, file, sample_times(resolved.infos[where], pass_.fps, resolved.made_fps, limit)
    )


def _check_source(resolved: ResolvedRequest, pass_: PassPlan) -> None:
    source, use = resolved.source, pass_.source
    if source is None or use is None or source.video is None or use.video == "none":
        return
    end = use.first_frame + use.num_frames
    times = sample_times(resolved.infos["source.video"], pass_.fps, resolved.made_fps, end, use.first_frame)
    _check_pictures(resolved, "source.video", source.video, times)


def _check_pictures(resolved: ResolvedRequest, where: str, file: File, times_s: list[float]) -> None:
    if times_s:
        _report(resolved, where, file, lambda: picture_notice(file, times_s[0], times_s[-1]))


def _check_sounds(resolved: ResolvedRequest, passes: tuple[PassPlan, ...]) -> None:
    last, source, audio = passes[-1], resolved.source, resolved.request.audio
    length_s = last.num_frames / last.fps
    if audio is not None and resolved.has_audio:
        heard = [heard_s(pass_.identity) for pass_ in passes if pass_.identity in ("input", "soundtrack")]
        wanted_s = length_s if resolved.driving else max(heard, default=0.0)
        if wanted_s:
            _report(
                resolved, "audio.file", audio.file, lambda: sound_notice(audio.file, audio.start_s, wanted_s)
            )
    uses = [pass_.source for pass_ in passes if pass_.source is not None and pass_.source.audio != "none"]
    if source is not None and uses:
        where = "source.video" if source.audio is None else "source.audio"
        file = source.video if source.audio is None else source.audio
        assert file is not None
        _report(resolved, where, file, lambda: sound_notice(file, source.start_s, length_s))


def _report(resolved: ResolvedRequest, where: str, file: File, notice: Callable[[], str | None]) -> None:
    try:
        found = notice()
    except MediaError as error:
        resolved.problem(where.split(".")[0].split("[")[0], f"{where}: {error}")
        return
    if found is not None:
        resolved.notice(f"{file}: {found}")
