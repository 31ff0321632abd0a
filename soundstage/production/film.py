"""The shots of a script as the production makes them, and the film's timeline from their clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from soundstage.conditioning.seams import SEAM_FRAMES
from soundstage.editing.grid import FilmGrid, grid_of
from soundstage.editing.timeline import Caption, Cut, Timeline, Transition
from soundstage.errors import RequestError, listed
from soundstage.library.model_files import ModelSet
from soundstage.media.probe import Info, probe
from soundstage.production.names import index_of
from soundstage.production.script import Script
from soundstage.production.shots import ShotRequest, shot_requests
from soundstage.production.takes import FilmShot, ShotTake
from soundstage.request.inputs import Source
from soundstage.request.request import Request
from soundstage.review.record import Asked

TITLE_WORDS = 8
CAPTION_MARGIN_S = 0.1  # at the ends of a shot, in which no caption is shown
UPSCALE = "upscale"


def film_shots(
    script: Script, model: ModelSet, *, draft: bool = False
) -> tuple[list[ShotRequest], list[FilmShot]]:
    """Return the requests of a script's shots, and the shots to be made.

    draft: by the draft recipe. Raises RequestError with all faults of the script.
    """
    made = list(shot_requests(script, model, draft=draft))
    unheard = shot_requests(_unheard(script), model, draft=draft)
    shots = [
        FilmShot(
            one.id,
            one.number,
            _title(one),
            one.seed,
            _filling(one),
            one.depends_on,
            silent.request.prompt,
            _asked(one, script, model),
        )
        for one, silent in zip(made, unheard, strict=True)
    ]
    return made, shots


def enlarged(take: ShotTake) -> FilmShot:
    """Return the shot whose take is a picked one made twice as large."""

    def fill(clips: Mapping[str, Path], folder: Path) -> Request:
        source = Source(video=str(clips[take.shot.id]), modalities=frozenset({"video"}))
        return Request(prompt=take.request.prompt, source=source, recipe=UPSCALE)

    return replace(take.shot, seed=take.seed, fill=fill, needs=(take.shot.id,), picture_prompt=None)


def named_shots(words: Iterable[str | int], made: Sequence[ShotRequest], field: str = "only") -> list[str]:
    """Return the ids of shots by their numbers or ids. field: what messages call them.

    Raises RequestError for one that is not there.
    """
    names = [one.id for one in made]
    found = []
    for word in words:
        index = index_of(word, len(names), names)
        if index is None:
            raise RequestError(
                f"{field} is '{word}', which is no shot; the film has shots 1 to {len(names)}: "
                f"{listed(str(word), names)}",
                field=field,
            )
        found.append(names[index])
    if not found:
        raise RequestError(
            f"only is empty; leave it out for the whole film, or give numbers or ids of shots: "
            f"{listed('', names)}",
            field="only",
        )
    return list(dict.fromkeys(found))


# --- requests


def _unheard(script: Script) -> Script:
    """Return a script without what is only heard: its prompts decide the pictures."""
    places = {name: replace(place, sounds="") for name, place in script.places.items()}
    shots = tuple(replace(shot, sounds="", sound=None) for shot in script.shots)
    return replace(script, sound=None, places=places, shots=shots)


def _filling(made: ShotRequest) -> Callable[[Mapping[str, Path], Path], Request]:
    def fill(clips: Mapping[str, Path], folder: Path) -> Request:
        return made.filled({name: str(path) for name, path in clips.items()}, folder)

    return fill


def _asked(made: ShotRequest, script: Script, model: ModelSet) -> Asked:
    """Return what a take is checked for. The loudness of the film is set by its mix, and checked there."""
    policy = made.shot.sound or script.sound
    fps = script.format.fps or model.defaults.fps
    asked = Asked(seams_s=(made.lead_frames / fps,) if made.lead_frames else ())
    return asked if policy is None else replace(policy.asked(asked), loudness_lufs=None)


def _title(made: ShotRequest) -> str:
    words = made.shot.action.split()
    return " ".join(words[:TITLE_WORDS]) + ("..." if len(words) > TITLE_WORDS else "")


# --- the timeline


def timeline_of(
    script: Script,
    made: Sequence[ShotRequest],
    clips: Mapping[str, Path],
    *,
    burn_captions: bool = False,
    infos: Sequence[Info] | None = None,
) -> Timeline:
    """Return the timeline of a film. clips: those of all its shots, by id.

    infos: what the clip of each shot will be, where they are not made yet; None looks at them. Raises
    MediaError for clips that are too short for their place.
    """
    found = [probe(str(clips[one.id])) for one in made] if infos is None else infos
    model_fps = script.format.fps
    cuts = tuple(
        _cut(one, made, clips[one.id], info, model_fps) for one, info in zip(made, found, strict=True)
    )
    mix = script.mix
    plain = Timeline(
        cuts=cuts,
        titles=mix.titles,
        music=mix.music,
        voice_over=mix.voice_over,
        room_tone=mix.room_tone,
        fade_out_s=mix.fade_out_s,
    )
    captions = tuple(_captions(grid_of(plain, found), made))
    burnt = (burn_captions or mix.burn_captions) and bool(captions)
    return replace(plain, captions=captions, burn_captions=burnt)


def _cut(
    made: ShotRequest, all_made: Sequence[ShotRequest], source: Path, info: Info, fps: float | None
) -> Cut:
    shot = made.shot
    rate = info.fps or fps or 24.0
    begin, end = _kept(made, all_made, info.num_frames)
    end_s = end / rate - shot.sound_lag_s if shot.sound_lag_s or end < info.num_frames else None
    kind = shot.transition
    same = _first_there(made, all_made)
    return Cut(
        source=source,
        start_s=begin / rate + shot.sound_lead_s,
        end_s=end_s,
        transition=Transition(kind, 0.0 if kind == "cut" else shot.transition_s),
        sound_lead_s=shot.sound_lead_s,
        sound_lag_s=shot.sound_lag_s,
        match_to=same,
        caption=_title(made),
    )


def _first_there(made: ShotRequest, all_made: Sequence[ShotRequest]) -> int | None:
    """Return the number of the first shot in the place of this one, whose colours it gets; None without."""
    names = [one.id for one in all_made]
    place = made.number - 1
    while (same := all_made[place].shot.same_place_as) is not None:
        earlier = index_of(same, place, names)
        if earlier is None or earlier >= place:
            break
        place = earlier
    return None if place == made.number - 1 else place + 1


def _kept(made: ShotRequest, all_made: Sequence[ShotRequest], num_frames: int) -> tuple[int, int]:
    """Return the frames [begin, end) of a shot's clip that are in the film.

    A shot that goes on from the one before it begins with the frames in which the made picture fades in, and
    these replace the last ones of that shot.
    """
    following = all_made[made.number : made.number + 1]
    begin = made.lead_frames - (SEAM_FRAMES if _goes_on(made, all_made) else 0)
    end = num_frames - (SEAM_FRAMES if following and _goes_on(following[0], all_made) else 0)
    return begin, end


def _goes_on(made: ShotRequest, all_made: Sequence[ShotRequest]) -> bool:
    """Return whether a shot continues the one right before it in the film, by a plain cut."""
    if made.number == 1 or made.shot.transition != "cut" or made.shot.sound_lead_s:
        return False
    before = all_made[made.number - 2]
    return made.needed("continues") == before.id and not before.shot.sound_lag_s


def _captions(grid: FilmGrid, made: Sequence[ShotRequest]) -> Iterable[Caption]:
    """Yield the lines of each shot, spread over it by the letters of their words."""
    for placed, one in zip(grid.placed, made, strict=True):
        lines = one.shot.lines
        begin = float(placed.first / grid.fps) + CAPTION_MARGIN_S
        length = float(placed.num_frames / grid.fps) - 2 * CAPTION_MARGIN_S
        letters = sum(len(line.says) for line in lines)
        for line in lines:
            seconds = length * len(line.says) / letters
            yield Caption(round(begin, 3), round(begin + seconds, 3), line.says, line.who)
            begin += seconds


def timeline_facts(timeline: Timeline) -> dict[str, Any]:
    """Return a timeline as JSON-ready values."""
    from pydantic import TypeAdapter

    facts: dict[str, Any] = TypeAdapter(Timeline).dump_python(timeline, mode="json")
    return facts
