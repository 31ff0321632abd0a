"""Whether all that a plan needs of its inputs can be read, found before any weight is loaded."""

from __future__ import annotations

from collections.abc import Callable

from soundstage.errors import MediaError
from soundstage.media.check import picture_notice, sound_notice
from soundstage.media.in_memory import File
from soundstage.planning.grid import heard_s, sample_times
from soundstage.planning.plan import Condition, PassPlan
from soundstage.planning.resolve import Facts


def check_readable(facts: Facts, passes: tuple[PassPlan, ...]) -> None:
    """Decode the ends of every stretch that will be read, or all of a short one.

    What cannot be read is a problem; damage that is bridged is a notice.
    """
    if facts.problems:  # stretches are known only of what can be planned
        return
    for step in passes:
        for condition in step.conditions:
            _check_condition(facts, condition, step)
        _check_source(facts, step)
    _check_sounds(facts, passes)


def _check_condition(facts: Facts, condition: Condition, step: PassPlan) -> None:
    i = condition.index
    if condition.kind == "reference":
        where, file = f"references[{i}].video", facts.request.references[i].video
    else:
        where, file = f"guides[{i}].image", facts.request.guides[i].image
    limit = (condition.num_frames - 1) * condition.temporal + 1
    _check_pictures(facts, where, file, sample_times(facts.infos[where], step.fps, facts.made_fps, limit))


def _check_source(facts: Facts, step: PassPlan) -> None:
    source, use = facts.source, step.source
    if source is None or use is None or source.video is None or use.video == "none":
        return
    end = use.first_frame + use.num_frames
    times = sample_times(facts.infos["source.video"], step.fps, facts.made_fps, end, use.first_frame)
    _check_pictures(facts, "source.video", source.video, times)


def _check_pictures(facts: Facts, where: str, file: File, times_s: list[float]) -> None:
    if times_s:
        _report(facts, where, file, lambda: picture_notice(file, times_s[0], times_s[-1]))


def _check_sounds(facts: Facts, passes: tuple[PassPlan, ...]) -> None:
    last, source, audio = passes[-1], facts.source, facts.request.audio
    length_s = last.num_frames / last.fps
    if audio is not None and facts.has_audio:
        heard = [heard_s(step.identity) for step in passes if step.identity in ("input", "soundtrack")]
        wanted_s = length_s if facts.driving else max(heard, default=0.0)
        if wanted_s:
            _report(
                facts, "audio.file", audio.file, lambda: sound_notice(audio.file, audio.start_s, wanted_s)
            )
    uses = [step.source for step in passes if step.source is not None and step.source.audio != "none"]
    if source is not None and uses:
        where = "source.video" if source.audio is None else "source.audio"
        file = source.video if source.audio is None else source.audio
        assert file is not None
        _report(facts, where, file, lambda: sound_notice(file, source.start_s, length_s))


def _report(facts: Facts, where: str, file: File, notice: Callable[[], str | None]) -> None:
    try:
        found = notice()
    except MediaError as error:
        facts.problem(where.split(".")[0].split("[")[0], f"{where}: {error}")
        return
    if found is not None:
        facts.notice(f"{file}: {found}")
