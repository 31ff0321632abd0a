"""A script is read with all its faults at once, and its shots become requests that stay the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import soundstage as ss
from soundstage.cli.program import app
from soundstage.clip import Clip
from soundstage.editing.timeline import Music
from soundstage.errors import ConfigError, MediaError, RequestError
from soundstage.media.in_memory import InMemory
from soundstage.production.checking import ScriptCheck, check_film
from soundstage.production.names import alike, shot_ids
from soundstage.production.reading import read_script, script_file
from soundstage.production.script import CastMember, FilmMix, Script, ScriptLine, Shot, line_fields
from soundstage.production.shots import LEAD_FRAMES, shot_requests
from soundstage.production.starting import new_script
from soundstage.production.wording import CastNames, definite, seen_in, short_of, voice_words

CAST = """
cast:
  Ada: {description: a small red ball, voice: bright}
  Bo: {description: a large blue cube, voice: deep}
places: {meadow: on a sunny day in a meadow}
"""


def written(tmp_path: Path, text: str, name: str = "film.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def faults(tmp_path: Path, text: str, name: str = "film.yaml") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_script(written(tmp_path, text, name))
    return [sentence.partition("film")[2] for sentence in caught.value.sentences]


# --- reading ------------------------------------------------------------------------------------------


def test_two_lines_are_a_film(tmp_path: Path) -> None:
    script = read_script(written(tmp_path, "title: First\nshots: A red ball bounces twice.\n"))
    made = shot_requests(script)
    assert [(one.number, one.id, one.request.prompt) for one in made] == [
        (1, "red-ball-bounces-twice", "A red ball bounces twice.")
    ]


def test_keys_may_have_spaces_and_lines_are_short(tmp_path: Path) -> None:
    text = f"""title: Two
{CAST}
shots:
  - Ada bounces.
  - action: Bo grows.
    same place as: 1
    match audio of: 1
    lines:
      - Bo (slowly, O.S.): Well.
      - {{who: Ada, says: 3}}
"""
    shot = read_script(written(tmp_path, text)).shots[1]
    assert (shot.same_place_as, shot.match_audio_of) == (1, 1)
    assert shot.lines == (ScriptLine("Bo", "Well.", "slowly", True), ScriptLine("Ada", "3"))


def test_all_faults_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    text = """title: Bad
colour: red
format: {recipe: fst, fps: -3}
cast:
  Ada: {description: a red ball, vioce: deep}
shots:
  - action: x
    seconds: -1
  - action: y
    lines: [{Adda: hi}, {Ada: No}]
    same place as: 2
    request: {stepz: 3}
  - action: z
    place: cellar
    continues: 4
    request: {steps: 0}
"""
    told = faults(tmp_path, text)
    lines = [sentence.partition(":")[0] for sentence in told]
    assert lines == [f".yaml, line {n}" for n in (2, 3, 5, 8, 10, 12, 14, 15, 16)]
    assert told[0].endswith("the fields are title, format, look, cast, places, sound, mix, seed, shots")
    assert "fps is -3; give a number of frames per second from 1 to 240" in told[1]
    assert "cast Ada: 'vioce' is not a field of a cast member; the fields are voice" in told[2]
    assert "shot 1: seconds is -1; give a number of seconds above 0" in told[3]
    assert "quotation marks" in told[4]
    assert "which is not a field of a request; did you mean steps?" in told[5]
    assert "shot 3: continues is 4, and the film has 3 shots" in told[7]


def test_fields_references_shots_cuts_and_mix_are_told_in_one_run(tmp_path: Path) -> None:
    text = """title: T
seed: -4
shots:
  - {action: A red ball rolls., seconds: 1}
  - {action: A blue cube grows., id: b, secons: 4}
  - {action: A blue cube grows., continues: b, same place as: 9}
  - {action: A star blinks., id: long, seconds: 1800}
  - {action: A star rolls., id: short, seconds: 1, transition: fade, transition_s: 3}
mix:
  fade_out_s: 6
  titles:
    - {text: A, start_s: 0, seconds: 1, color: rde}
    - {text: B, start_s: 9000, seconds: 1}
"""
    path = written(tmp_path, text)
    told = [
        "2: seed is -4; give a whole number",
        "5: shot 2: 'secons' is not a field of a shot; the fields are seconds",
        "6: shot 3: same_place_as is 9, and the film has 5 shots",
        "7: shot 4 (long): the clip would last 1800 s",
        "8: shot 5 (short): it has 25 frames in the film",
        "10: mix.fade_out_s is 6, and the last shot",
        "12: mix.titles[0].color is 'rde'",
        "13: mix.titles[1].start_s is 9000",
    ]
    for call in (lambda: ss.produce(path, devices="cpu"), lambda: checked(path)):
        with pytest.raises(ConfigError) as caught:
            call()
        found = caught.value.sentences
        assert len(found) == len(told)
        for sentence, part in zip(found, told, strict=True):
            assert sentence.startswith(f"{path}, line {part}")
    assert not (tmp_path / "film.produced").exists()


def checked(path: Path) -> ScriptCheck:
    read = script_file(path)
    with read.telling() as script:
        return check_film(script, ss.load("nano"), standing_in=read.standing_in)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("none.yaml", "there is no file 'none.yaml'; `soundstage script new none.yaml` writes one"),
        ("folder", "'folder' is a folder; give a script, a .yaml or .fountain file"),
        ("song.wav", "'song.wav' is no text in UTF-8; give a script, a .yaml or .fountain file"),
        ("song.fountain", "'song.fountain' is no text in UTF-8; give a screenplay, a .fountain file"),
    ],
)
def test_what_is_no_file_of_a_script_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for song in ("song.wav", "song.fountain"):
        (tmp_path / song).write_bytes(b"RIFF\xff\xfe\x80")
    assert call("script", "check", name).stderr == f"soundstage: {told}\n"


def test_a_misspelt_note_of_a_screenplay_is_a_fault_and_another_is_told(tmp_path: Path) -> None:
    text = "Title: T\n\nA red ball rolls. [[secnds: 2]]\n\n[[Note to self: look]]\n\n[[Cost: 300]]\n"
    (told,) = faults(tmp_path, text, "film.fountain")
    assert told.startswith(".fountain, line 3: the note [[secnds: ...]] is no field; did you mean seconds?")
    path = written(tmp_path, text.replace("secnds", "seconds"), "film.fountain")
    assert script_file(path).notices == ("the note [[Cost: 300]] in line 7 is no field of a script",)


def test_what_is_rounded_is_told_by_check_and_by_produce(tmp_path: Path) -> None:
    shots = "shots:\n  - {action: A red ball rolls., seconds: 1}\n  - A cube.\n"
    path = written(tmp_path, f"title: T\nformat: {{size: 63x63}}\n{shots}")
    lines = call("script", "check", path).stdout.splitlines()
    assert lines.count("snapped size: 63x63 -> 64x64 (multiples of 32)") == 1
    assert "   snapped duration: 1 s -> 1.042 s (25 frames at 24 fps, 8k+1)" in lines
    asked = json.loads(call("script", "check", path, "--json").stdout)
    assert asked["shots"][0]["snapped"][0] == "size: 63x63 -> 64x64 (multiples of 32)"
    events: list[dict[str, Any]] = []

    class Enough(Exception):
        pass

    def heed(event: dict[str, Any]) -> None:
        events.append(event)
        if event.get("state") == "queued":
            raise Enough

    with pytest.raises(Enough):
        ss.produce(path, devices="cpu", progress=heed)
    assert [event["text"] for event in events if event["event"] == "notice"] == [
        "snapped size: 63x63 -> 64x64 (multiples of 32)",
        "snapped duration: 1 s -> 1.042 s (25 frames at 24 fps, 8k+1)",
    ]


def test_names_that_are_not_there_name_the_nearest(tmp_path: Path) -> None:
    text = f"title: T\n{CAST}\nshots:\n  - {{action: x, place: medow, lines: [{{Adda: hi}}]}}\n"
    told = faults(tmp_path, text)
    assert any("who is 'Adda', who is not of the cast; did you mean Ada?" in one for one in told)
    assert any("place is 'medow', which is none of the places; did you mean meadow?" in one for one in told)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("2", "which is this very shot"),
        ("3", "a later shot (three)"),
        ("9", "and the film has 3 shots"),
        ("onne", "did you mean one?"),
    ],
)
@pytest.mark.parametrize("field", ["continues", "same place as", "match audio of"])
def test_references_lead_to_earlier_shots(tmp_path: Path, field: str, reference: str, reason: str) -> None:
    shots = "".join(f"  - {{id: {name}, action: x, MARK}}\n" for name in ("one", "two", "three"))
    marks = ("seconds: 1", f"{field}: {reference}", "seconds: 1")
    for mark in marks:
        shots = shots.replace("MARK", mark, 1)
    (told,) = faults(tmp_path, f"title: T\nshots:\n{shots}")
    assert told.startswith(".yaml, line 4: shot 2: ")
    assert reason in told


def test_missing_files_are_told_and_others_found_beside_the_script(tmp_path: Path) -> None:
    text = (
        "title: T\ncast: {Ada: {description: a ball, face: %s}}\nshots: {action: x, request: {guides: %s}}\n"
    )
    told = faults(tmp_path, text % ("a.png", "b.png"))
    assert ["face is " in told[0], "guides[0].image is " in told[1]] == [True, True]
    assert all("there is no such file" in one for one in told)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    script = read_script(written(tmp_path, text % ("a.png", "b.png")))
    assert script.cast["Ada"].face == str(tmp_path / "a.png")
    assert script.shots[0].request["guides"][0]["image"] == str(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("shots: x\n", "title is missing"),
        ("title: T\n", "shots is missing"),
        ("title: T\nshots: []\n", "shots is missing"),
        ("title: T\nshots: 3\n", "shots is 3"),
        ("title: T\ncast: [Ada]\nshots: x\n", "cast is ['Ada']; give names"),
        ("title: T\nshots: [[1]]\n", "is [1]; give words, or fields"),
        ("title: T\nshots:\n  - {action: x, transition: dissolve}\n", "no shot is before it"),
        ("title: T\nshots: {action: x, sound_lead_s: 1}\n", "no shot to be heard over"),
        ("title: T\nshots: {action: x, sound_lag_s: 1}\n", "no shot to be heard over"),
        ("title: T\nshots: [{action: x, sound_lag_s: 1}, {action: y, sound_lead_s: 1}]\n", "keep one"),
        ("title: T\nshots:\n  - {action: x, id: a}\n  - {action: x, id: A}\n", "which shot 1 has"),
        ("title: T\nshots:\n  - {action: x, lines: [Ada]}\n", "names no speaker"),
    ],
)
def test_what_is_no_script_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    assert any(reason in sentence for sentence in faults(tmp_path, text))


def test_the_mix_has_the_records_of_a_timeline(tmp_path: Path) -> None:
    text = """title: T
mix:
  titles: [{text: Hello, start_s: 0, seconds: 1}]
  music: [{path: song.wav, gain_db: -20}]
  voice over:
    - path: voice.wav
shots: x
"""
    told = faults(tmp_path, text)
    assert [one.partition(":")[0] for one in told] == [".yaml, line 4", ".yaml, line 6"]
    for name in ("song.wav", "voice.wav"):
        (tmp_path / name).write_bytes(b"")
    mix = read_script(written(tmp_path, text)).mix
    assert [mix.music[0].path, mix.voice_over[0].path] == [
        tmp_path / "song.wav",
        tmp_path / "voice.wav",
    ]


def test_a_line_is_read_from_its_short_forms() -> None:
    assert line_fields({"Ada (V.O.)": "Hi."}) == {"who": "Ada", "off_screen": True, "says": "Hi."}
    assert line_fields("Ada (calm): Hi: you.") == {"who": "Ada", "how": "calm", "says": "Hi: you."}
    assert line_fields({"who": "Ada", "says": "Hi."}) == {"who": "Ada", "says": "Hi."}


def test_python_users_are_told_all_faults_too() -> None:
    script = Script("T", (Shot("x", place="a"), Shot("y", continues=7)))
    with pytest.raises(RequestError) as caught:
        shot_requests(script)
    assert len(caught.value.sentences) == 2


# --- Fountain -----------------------------------------------------------------------------------------

SCREENPLAY = """Title: Two
Fps: 24

[[
cast:
  Ada: {description: a small red ball, voice: bright}
places: {meadow: on a sunny day in a meadow}
]]

FADE IN:

EXT. MEADOW - DAY

On the left, Ada bounces twice. [[seconds: 1]]
The camera pushes in.

ADA (O.S.)
(softly)
Look at
me.

/* cut
out */
Ada rests. [[Remark: better words]]

[[continues: 1]]

DISSOLVE TO:

INT. KITCHEN - NIGHT

CARLA
Hi.
"""


def test_a_screenplay_is_read_as_a_script(tmp_path: Path) -> None:
    script = read_script(written(tmp_path, SCREENPLAY, "film.fountain"))
    assert (script.title, script.format.fps, list(script.cast)) == ("Two", 24, ["Ada", "Carla"])
    first, second, third = script.shots
    assert first.action == "On the left, Ada bounces twice. The camera pushes in."
    assert (first.transition, first.seconds, first.heading) == ("fade", 1, "EXT. MEADOW - DAY")
    assert first.lines == (ScriptLine("Ada", "Look at me.", "softly", True),)
    assert (second.action, second.continues) == ("Ada rests.", 1)
    assert (third.transition, third.action, third.lines[0].who) == ("dissolve", "CARLA speaks.", "Carla")


def test_faults_of_a_screenplay_have_its_lines(tmp_path: Path) -> None:
    text = SCREENPLAY.replace("continues: 1", "continues: 9").replace("seconds: 1", "seconds: -1")
    told = faults(tmp_path, text, "film.fountain")
    assert [one.partition(" shot")[0] for one in told] == [
        f".fountain, line {SCREENPLAY.splitlines().index(line) + 1}:"
        for line in ("On the left, Ada bounces twice. [[seconds: 1]]", "[[continues: 1]]")
    ]


# --- ids and seeds ------------------------------------------------------------------------------------


def test_seeds_and_ids_stay_when_shots_are_put_in() -> None:
    shots = (Shot("Ada rolls to the left."), Shot("A cube grows."), Shot("Rain falls.", id="end"))
    before = {one.id: one.seed for one in shot_requests(Script("T", shots))}
    after = {
        one.id: one.seed
        for one in shot_requests(Script("T", (Shot("New."), *shots[:2], Shot("x"), shots[2])))
    }
    assert before.items() <= after.items()
    other = {one.id: one.seed for one in shot_requests(Script("T", shots, seed=1))}
    assert all(other[name] != seed for name, seed in before.items())


def test_shots_that_begin_alike_have_ids_of_their_own() -> None:
    shots = [Shot("A ball rolls."), Shot("The ball rolls.", camera="Static."), Shot("A ball rolls.")]
    names = shot_ids(shots)
    assert names[0] == "ball-rolls"
    assert len(set(names)) == 3
    assert alike(shots) == [(0, 1), (0, 2)]
    assert shot_ids([Shot("Ada's hand closes."), Shot("Ada\u2019s eyes open.")]) == (
        "ada-hand-closes",
        "ada-eyes-open",
    )
    assert shot_ids([Shot("\u65e5\u672c"), Shot("3 balls")])[1] == "shot-3-balls"


# --- prompts ------------------------------------------------------------------------------------------


def test_names_become_descriptions_once() -> None:
    cast = {"Ada": CastMember("a tall woman in a red coat"), "Bo": CastMember("a tall woman with a hat")}
    names = CastNames({"Ada": cast["Ada"]})
    assert names.put_in("Ada sits. ADA stands; Ada's coat falls. Adam waits.") == (
        "A tall woman in a red coat sits. The tall woman stands; the tall woman's coat falls. Adam waits."
    )
    both = CastNames(cast)
    assert both.put_in("Ada sees Bo. Ada goes, Bo stays.") == (
        "A tall woman in a red coat sees a tall woman with a hat. "
        "The tall woman in a red coat goes, the tall woman with a hat stays."
    )
    assert short_of(CastMember("an old man, bald")) == "the old man"
    assert (definite("Ada"), voice_words("deep"), voice_words("an old voice")) == (
        "Ada",
        "a deep voice",
        "an old voice",
    )


def test_a_prompt_for_nano_has_its_captions_form(tmp_path: Path) -> None:
    script = read_script(new_script(tmp_path / "film.yaml"))
    prompts = [one.request.prompt for one in shot_requests(script)]
    assert prompts[0] == (
        "On a sunny day in a meadow, on the left, a small red ball bounces twice. The camera is static. "
        "[SPEECH]: A bright voice speaks. There is a thud with each bounce."
    )
    assert prompts[1].startswith("On a sunny day in a meadow, on the right, a large blue cube grows.")


def test_a_prompt_for_other_models_has_words_speakers_and_voices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soundstage.production.shots.Vocabulary.of_folder", lambda folder: None)
    text = f"""title: T
look: {{style: noir, grade: cold shadows}}
{CAST}
shots:
  - action: Ada turns to Bo.
    heading: INT. KITCHEN - NIGHT
    camera: slow push in
    lines: [{{Ada (whispers): "Do you hear that?"}}, {{Bo (O.S.): It is the rain.}}]
    sounds: rain on the window
"""
    (made,) = shot_requests(read_script(written(tmp_path, text)))
    prompt = made.request.prompt
    for words in (
        "Style: noir.",
        "Interior, kitchen, night.",
        "A small red ball turns to a large blue cube.",
        "Cold shadows.",
        "Slow push in.",
        'The small red ball whispers in a bright voice: "Do you hear that?"',
        'a deep voice off screen says: "It is the rain."',
        "Rain on the window.",
    ):
        assert words in prompt
    assert "\n" not in prompt
    assert "Ada" not in prompt
    assert "Bo" not in prompt


def test_a_shot_is_long_enough_for_its_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundstage.production.shots.Vocabulary.of_folder", lambda folder: None)
    shot = Shot("Ada stands.", lines=(ScriptLine("Ada", "word " * 10),))
    script = Script("T", (shot, replace(shot, seconds=3.0)), cast={"Ada": CastMember("a ball")})
    assert [one.request.duration_s for one in shot_requests(script)] == [4.5, 3.0]


def test_the_cast_is_seen_heard_and_adapted_where_they_are(tmp_path: Path) -> None:
    for name in ("a.png", "b.wav", "c.safetensors"):
        (tmp_path / name).write_bytes(b"")
    ada = CastMember("a ball", face=str(tmp_path / "a.png"), loras=[str(tmp_path / "c.safetensors")])  # type: ignore[arg-type]
    bo = CastMember("a cube", voice_clip=str(tmp_path / "b.wav"))
    shots = (Shot("Ada rolls."), Shot("It rains.", lines=(ScriptLine("Bo", "Hi", off_screen=True),)))
    script = Script("T", shots, cast={"Ada": ada, "Bo": bo})
    first, second = (one.request for one in shot_requests(script))
    assert [(g.image, g.at) for g in first.guides] == [(ada.face, "before")]
    assert first.loras
    assert first.audio is None
    assert second.audio is not None
    assert second.audio.mode == "identity"
    assert not second.guides
    assert not second.loras
    assert seen_in(script, shots[1]) == ()


def test_fields_of_a_shot_win_over_those_of_the_film() -> None:
    from soundstage.production.script import FilmFormat

    fields = FilmFormat(recipe="fast", request={"guidance": 3, "num_frames": 17})
    shots = (Shot("x"), Shot("y", recipe="pro", seed=5, request={"guidance": 2, "prompt": "z"}))
    first, second = (one.request for one in shot_requests(Script("T", shots, format=fields)))
    assert (first.recipe, first.guidance, first.num_frames, first.duration_s) == ("fast", 3, 17, None)
    assert (second.recipe, second.guidance, second.seed, second.prompt) == ("pro", 2, 5, "z")
    assert shot_requests(Script("T", shots), draft=True)[1].request.recipe == "draft"


# --- other shots --------------------------------------------------------------------------------------


def clip(frames: int) -> InMemory:
    frames_of = np.broadcast_to(np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, 32, 32, 3))
    return InMemory(frames_of, np.zeros((2, 2000 * frames), np.float32), 24.0)


def test_a_shot_takes_the_end_place_and_sound_of_others(tmp_path: Path) -> None:
    shots = (
        Shot("ah b", heading="at night", sounds="rain", seconds=0.375),
        Shot("c d", continues=1, seconds=1),
        Shot("e f", same_place_as=2, match_audio_of=1),
        Shot("g h", same_place_as=1, same_place_strength=0),
    )
    made = shot_requests(Script("T", shots))
    assert [one.depends_on for one in made] == [(), ("ah-b",), ("c-d",), ()]
    assert (made[1].lead_frames, made[2].place, "At night" in made[2].request.prompt) == (9, None, True)
    assert made[2].request.prompt.endswith("Rain.")
    source = made[1].filled({"ah-b": clip(9)}).source
    assert source is not None
    assert (source.start_s, source.extend_after_s) == (0, 1)
    assert made[1].filled({"ah-b": clip(49)}).source.start_s == pytest.approx(40 / 24)  # type: ignore[union-attr]
    filled = made[2].filled({"c-d": clip(33)}, tmp_path)
    assert filled.guides[0].image == str(tmp_path / "c-d.png")
    assert filled.guides[0].at == "before"
    from PIL import Image

    assert np.asarray(Image.open(tmp_path / "c-d.png")).max() == 9  # the first frame that is its own
    with pytest.raises(RequestError, match="needs the clip of ah-b"):
        made[1].filled({})
    with pytest.raises(RequestError, match="continues a clip of 8 frames; it needs 9"):
        made[1].filled({"ah-b": clip(8)})
    assert LEAD_FRAMES % 8 == 1


def test_a_voice_is_matched_where_an_adapter_follows_it(tmp_path: Path) -> None:
    (tmp_path / "id.safetensors").write_bytes(b"")
    lora = (str(tmp_path / "id.safetensors"),)
    shots = (Shot("It rains."), Shot("He sings.", match_audio_of=1, loras=lora))  # type: ignore[arg-type]
    made = shot_requests(Script("T", shots))[1]
    assert made.depends_on == ("rains",)
    filled = made.filled({"rains": clip(9)})
    assert filled.audio is not None
    assert filled.audio.mode == "identity"


def test_a_continued_draft_keeps_the_size_and_shows_new_faces(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    cast = {name: CastMember(name, face=str(tmp_path / f"{name}.png")) for name in "ab"}
    shots = (Shot("a rolls.", seconds=0.3), Shot("a meets b.", continues="previous", seconds=0.3))
    script = Script("T", shots, cast=cast)
    made = shot_requests(script, draft=True)[1]
    assert made.lead_frames == 9
    assert [guide.image for guide in made.request.guides] == [cast["b"].face]
    assert made.filled({"rolls": clip(9)}).size == (64, 64)  # the draft recipe makes half of it
    assert shot_requests(script)[1].filled({"rolls": clip(9)}).size is None


def test_a_draft_with_levels_of_its_own_leaves_out_steps_and_says_so(tmp_path: Path) -> None:
    path = written(
        tmp_path, "title: T\nformat: {request: {steps: 8, guidance: 1}}\nshots: [A red ball rolls.]\n"
    )
    script = read_script(path)
    (draft,), (full,) = shot_requests(script, draft=True), shot_requests(script)
    assert (draft.request.steps, full.request.steps, full.notices) == (None, 8, ())
    assert draft.request.guidance == 1
    told = "a draft leaves out steps of the script: its recipe has its own noise levels"
    assert draft.notices == (told,)
    assert told in check_film(script, ss.load("nano"), draft=True).to_dict()["shots"][0]["notices"]


# --- check and new ------------------------------------------------------------------------------------


def test_a_film_is_checked_without_making_it(tmp_path: Path) -> None:
    stage = ss.load("nano")
    found = check_film(read_script(new_script(tmp_path / "film.yaml")), stage)
    assert [shot.frames for shot in found.shots] == [49, 49, 24, 49]
    assert found.frames == 159  # 12 are in the dissolve twice
    assert found.seconds == pytest.approx(159 / 24)
    assert 0 < found.shots[0].choice.price.seconds < found.time_s
    assert not [finding for shot in found.shots for finding in shot.findings]
    assert json.loads(json.dumps(found.to_dict()))["shots"][2]["lead_frames"] == 25


def test_a_check_finds_what_could_be_better(tmp_path: Path) -> None:
    ada = CastMember("Ada", voice_clip="a.wav")
    lines = (ScriptLine("Ada", "word " * 9), ScriptLine("Bo", "Hi"))
    shots = (Shot("Ada rolls on a table.", lines=lines, seconds=1), Shot("Ada rolls on a table."))
    (tmp_path / "a.wav").write_bytes(b"")
    cast = {"Ada": replace(ada, voice_clip=None), "Bo": CastMember("a cube")}
    found = check_film(Script("T", shots, cast=cast), ss.load("nano"))
    rules = [{finding.rule for finding in shot.findings} for shot in found.shots]
    assert {"speech-length", "described", "vocabulary"} <= rules[0]
    assert "own-id" in rules[1]


def test_a_shot_that_cannot_be_made_is_told_with_its_number() -> None:
    shots = (Shot("x", seconds=1), Shot("y", seconds=3000), Shot("z", request={"steps": 3}, recipe="fast"))
    with pytest.raises(ConfigError) as caught:
        check_film(Script("T", shots), ss.load("nano"))
    assert [sentence.partition(":")[0] for sentence in caught.value.sentences] == ["shot 2 (y)", "shot 3 (z)"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sound_lead_s": 1.0, "sound_lag_s": 1.1}, "take all of its 49 frames"),
        ({"transition": "dissolve", "transition_s": 1.5}, "has 49 frames in the film, and the transitions"),
        ({"transition": "fade", "transition_s": 6.0}, "take 72 and 24 of them"),
    ],
)
def test_a_cut_that_does_not_fit_is_told_before_anything_is_made(fields: dict[str, Any], reason: str) -> None:
    shots = (Shot("x"), Shot("y", **fields), Shot("z", transition="fade", transition_s=2.0))
    with pytest.raises(ConfigError, match=reason):
        check_film(Script("T", shots), ss.load("nano"))


def test_a_mix_that_does_not_fit_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no sound")
    Clip(None, np.zeros((2, 4800), np.float32), 24.0).save(tmp_path / "song.wav")
    text = """title: T
shots: A red ball rolls.
mix:
"""
    for mix, told in (
        (
            "fade_out_s: 5",
            "mix.fade_out_s is 5, and the last shot, shot 1 (red-ball-rolls), is seen for 2.042 s",
        ),
        (
            "titles: [{text: A, start_s: 9, seconds: 1}]",
            "mix.titles[0].start_s is 9, and the film lasts 2.042 s;",
        ),
        (
            "titles: [{text: A, start_s: 0, seconds: 1, color: rde}]",
            "mix.titles[0].color is 'rde'; give a CSS",
        ),
        (
            "music: [{path: song.wav, start_s: 9}]",
            "mix.music[0].start_s is 9, and the film lasts 2.042 s; give",
        ),
        ("music: [{path: notes.txt}]", "mix.music[0].path: "),
        ("room_tone: {cut: 2}", "mix.room_tone.cut is 2, and the film has 1 cut"),
    ):
        path = written(tmp_path, f"{text}  {mix}\n")
        with pytest.raises(ConfigError) as caught:
            check_film(read_script(path), ss.load("nano"))
        (sentence,) = caught.value.sentences
        assert sentence.startswith(told)
        with pytest.raises(ConfigError) as caught:
            ss.produce(path, devices="cpu")
        (in_file,) = caught.value.sentences
        assert in_file == f"{path}, line 4: {sentence}"
    assert not (tmp_path / "film.produced").exists()


@pytest.mark.parametrize("only", ["", " , "])
def test_a_film_of_no_shots_is_refused(tmp_path: Path, only: str) -> None:
    path = written(tmp_path, "title: T\nshots: A red ball rolls.\n")
    result = CliRunner().invoke(app, ["produce", str(path), "--only", only, "--devices", "cpu"])
    assert result.exit_code == 2
    assert "only is empty; leave it out for the whole film, or give" in result.output
    assert not (tmp_path / "film.produced").exists()


@pytest.mark.parametrize("name", ["1a", "a b", "a" * 61, "", "a\n"])
def test_the_id_of_a_shot_is_told_in_words(name: str) -> None:
    with pytest.raises(RequestError, match="; give one that begins with a letter and has letters, digits, -"):
        Shot("A red ball rolls.", id=name)


def test_a_film_is_produced_only_where_its_cuts_fit(tmp_path: Path) -> None:
    text = """title: T
shots:
  - {id: a, action: x}
  - {id: b, action: y, transition: dissolve, transition_s: 3}
"""
    with pytest.raises(ConfigError, match=r"shot 2 \(b\): it has 49 frames in the film"):
        ss.produce(written(tmp_path, text), devices="cpu")
    assert not (tmp_path / "film.produced").exists()


def test_lengths_are_those_of_the_editing(tmp_path: Path) -> None:
    from soundstage.editing.grid import grid_of
    from soundstage.editing.timeline import Cut, Timeline, Transition

    shots = (
        Shot("a", transition="fade", transition_s=0.3),
        Shot("b", transition="dissolve", sound_lead_s=0.2, sound_lag_s=0.1),
        Shot("c", transition="fade", transition_s=0.4),
    )
    found = check_film(Script("T", shots), ss.load("nano"))
    path = tmp_path / "clip.mkv"
    frames = np.zeros((49, 32, 32, 3), np.uint8)
    Clip(frames=frames, waveform=np.zeros((2, 98_000), np.float32), fps=24.0).save(path)
    cuts = tuple(
        Cut(
            source=path,
            start_s=shot.sound_lead_s,
            end_s=49 / 24 - shot.sound_lag_s,
            transition=Transition(shot.transition, 0.0 if shot.transition == "cut" else shot.transition_s),
            sound_lead_s=shot.sound_lead_s,
            sound_lag_s=shot.sound_lag_s,
        )
        for shot in shots
    )
    grid = grid_of(Timeline(cuts=cuts))
    assert [shot.frames for shot in found.shots] == [placed.num_frames for placed in grid.placed]
    assert found.frames == grid.num_frames


def test_the_timeline_has_the_mix_and_goes_on_where_a_shot_continues(tmp_path: Path) -> None:
    from soundstage.production.film import timeline_of

    shots = (
        Shot("a", id="a", lines=(ScriptLine("Ada", "Hi"),)),
        Shot("b", id="b", continues="a"),
        Shot("c", id="c", continues="a", same_place_as=2, same_place_strength=0),
    )
    (tmp_path / "song.wav").write_bytes(b"")
    mix = FilmMix(music=(Music(tmp_path / "song.wav"),), fade_out_s=0.5, burn_captions=True)
    made = shot_requests(Script("T", shots, cast={"Ada": CastMember("a ball")}, mix=mix))
    path = tmp_path / "clip.mkv"
    Clip(np.zeros((49, 32, 32, 3), np.uint8), np.zeros((2, 98_000), np.float32), 24.0).save(path)
    timeline = timeline_of(Script("T", shots, mix=mix), made, dict.fromkeys("abc", path))
    assert [round((cut.end_s or 49 / 24) * 24) for cut in timeline.cuts] == [46, 49, 49]
    assert [round(cut.start_s * 24) for cut in timeline.cuts] == [0, 22, 25]
    assert [cut.match_to for cut in timeline.cuts] == [None, None, 2]
    assert (timeline.music, timeline.fade_out_s, timeline.burn_captions) == (mix.music, 0.5, True)
    rooms = (Shot("a"), Shot("b", same_place_as=1), Shot("c", same_place_as=2))
    made = shot_requests(Script("T", rooms))
    timeline = timeline_of(Script("T", rooms), made, dict.fromkeys([one.id for one in made], path))
    assert [cut.match_to for cut in timeline.cuts] == [None, 1, 1]


def test_new_scripts_are_read_and_kept(tmp_path: Path) -> None:
    example = read_script(new_script(tmp_path / "film.yaml"))
    screenplay = read_script(new_script(tmp_path / "film.fountain"))
    assert [shot.action for shot in example.shots][:3] == [shot.action for shot in screenplay.shots][:3]
    assert example.cast == screenplay.cast
    assert example.sound == screenplay.sound
    for name in ("one.yaml", "one.fountain"):
        one = read_script(new_script(tmp_path / name, 'A ball: "Hi" rolls on and on, then stops.'))
        assert (one.title, one.shots[0].action) == (
            'A ball: "Hi" rolls on and...',
            'A ball: "Hi" rolls on and on, then stops.',
        )
    with pytest.raises(MediaError, match="is there already"):
        new_script(tmp_path / "film.yaml")
    with pytest.raises(RequestError, match=r"ends in \.yaml or \.fountain"):
        new_script(tmp_path / "film.txt")
    with pytest.raises(RequestError, match="the sentence is empty"):
        new_script(tmp_path / "b.yaml", "  ")


# --- the command --------------------------------------------------------------------------------------


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_prints_every_mistake_on_a_line(tmp_path: Path) -> None:
    path = written(
        tmp_path, "title: T\nshots:\n  - {action: x, seconds: -1}\n  - {action: y, continues: 7}\n"
    )
    done = call("script", "check", path)
    assert done.exit_code == 2
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == [
        f"{path}, line 3",
        f"{path}, line 4",
    ]
    told = json.loads(call("script", "check", path, "--json").stdout)["error"]
    assert told["kind"] == "ConfigError"
    assert len(told["sentences"]) == 2
    written(tmp_path, "title: [\n")
    assert "is not a YAML file" in call("script", "check", path).stderr
    assert "there is no file" in call("script", "check", tmp_path / "none.yaml").stderr


def test_the_command_writes_and_checks_a_script(tmp_path: Path) -> None:
    path = tmp_path / "film.yaml"
    assert call("script", "new", path).stdout.split() == [str(path)]
    assert "--force" in call("script", "new", path).stderr
    assert call("script", "new", path, "--from", "A red ball rolls.", "--force").exit_code == 0
    shown = call("script", "check", path).stdout
    assert "A red ball rolls: 1 shot, made by nano" in shown
    assert "red-ball-rolls" in shown
    assert json.loads(call("script", "check", path, "--json").stdout)["shots"][0]["frames"] == 49
