"""The sound of a film: samples at their places, crossfades without a click, J and L cuts, levels, ducking."""

from pathlib import Path

import numpy as np
import pyloudnorm
import pytest

from soundstage.clip import Clip
from soundstage.editing import Caption, Cut, Music, RoomTone, Timeline, Transition, VoiceOver
from soundstage.editing.grid import CUT_FADE_S, grid_of
from soundstage.editing.limiter import limited
from soundstage.editing.mix import STEMS, Mixer, sum_of
from soundstage.editing.room_tone import RoomToneSource
from soundstage.errors import MediaError
from soundstage.media.loudness import Loudness
from tests.editing_clips import RATE, assembled, film, noise, tone

FADE = round(CUT_FADE_S / 2 * RATE)
BITS_16 = 2.5 / 2**15  # what a file of 16 bits changes


def stems(timeline: Timeline) -> dict[str, np.ndarray]:
    grid = grid_of(timeline)
    made = list(Mixer(grid, RoomToneSource(grid) if timeline.room_tone else None).stems())
    return {name: np.concatenate([second[name] for second in made], axis=1) for name in STEMS}


def db(power: float) -> float:
    return float(10 * np.log10(power))


def level_db(sound: np.ndarray) -> float:
    return db(float(np.square(sound).mean()))


def wav(path: Path, sound: np.ndarray, rate: int = RATE) -> Path:
    return Clip(None, sound, 24, sample_rate_hz=rate).save(path)


def test_every_sample_of_a_shot_is_at_its_place(tmp_path: Path) -> None:
    one, other = noise(RATE, 1), noise(RATE, 2)
    a, b = film(tmp_path / "a.mkv", sound=one), film(tmp_path / "b.mkv", sound=other)
    cuts = (Cut(source=a, start_s=0.25, end_s=0.75), Cut(source=b, start_s=0.5))
    clip, _ = assembled(Timeline(cuts=cuts), tmp_path)
    half, wave = RATE // 2, clip.waveform
    assert wave is not None
    assert wave.shape == (2, RATE)
    parts = one[:, half // 2 : half + half // 2], other[:, half:]
    made = stems(Timeline(cuts=cuts))["shots"]
    for first, part in zip((0, half), parts, strict=True):
        inner = slice(first + FADE, first + half - FADE)
        assert np.array_equal(made[:, inner], part[:, FADE:-FADE])
        assert np.abs(wave[:, inner] - part[:, FADE:-FADE]).max() < BITS_16


def test_two_shots_cross_with_equal_power_where_both_have_sound_beyond_the_cut(tmp_path: Path) -> None:
    a = film(tmp_path / "a.mkv", sound=noise(RATE, 1))
    b = film(tmp_path / "b.mkv", sound=noise(RATE, 2))
    made = stems(Timeline(cuts=(Cut(source=a, end_s=0.5), Cut(source=b, start_s=0.5))))["shots"]
    around = made[:, RATE // 2 - FADE : RATE // 2 + FADE]
    assert level_db(around) == pytest.approx(level_db(made), abs=0.6)


def test_no_cut_clicks(tmp_path: Path) -> None:
    """Of a low tone that is cut at its crest no sample is farther from the next than a crossfade makes it."""
    sources = [film(tmp_path / f"{i}.mkv", sound=np.roll(tone(1, 50), 240 * i, axis=1)) for i in range(3)]
    made = stems(Timeline(cuts=tuple(Cut(source=s) for s in sources)))["shots"]
    assert np.abs(np.diff(made)).max() < 0.004
    assert np.abs(made[:, [0, -1]]).max() < 0.004


def test_parts_that_follow_each_other_in_one_source_go_on_without_a_fade(tmp_path: Path) -> None:
    sound = noise(RATE, 1)
    a = film(tmp_path / "a.mkv", sound=sound)
    made = stems(Timeline(cuts=(Cut(source=a, end_s=0.5), Cut(source=a, start_s=0.5))))["shots"]
    assert np.array_equal(made[:, FADE:-FADE], sound[:, FADE:-FADE])


def test_a_dissolve_crosses_the_sounds_as_long_as_the_pictures(tmp_path: Path) -> None:
    a = film(tmp_path / "a.mkv", sound=noise(RATE, 1))
    b = film(tmp_path / "b.mkv", sound=noise(RATE, 2))
    made = stems(Timeline(cuts=(Cut(source=a), Cut(source=b, transition=Transition("dissolve", 0.5)))))
    at = RATE // 2 + RATE // 4  # the middle: both at 0.707
    halves = noise(RATE, 1)[:, at] * 0.5**0.5 + noise(RATE, 2)[:, at - RATE // 2] * 0.5**0.5
    assert np.allclose(made["shots"][:, at], halves, atol=1e-4)
    assert made["shots"].shape == (2, RATE + RATE // 2)


@pytest.mark.parametrize(("lead", "lag"), [(0.25, 0.0), (0.0, 0.25)])
def test_j_and_l_cuts_change_the_sound_before_or_after_the_picture(
    tmp_path: Path, lead: float, lag: float
) -> None:
    one, other = tone(1, 500), tone(1, 3000)
    a, b = film(tmp_path / "a.mkv", sound=one), film(tmp_path / "b.mkv", sound=other)
    cuts = (Cut(source=a, end_s=0.5, sound_lag_s=lag), Cut(source=b, start_s=0.5, sound_lead_s=lead))
    made = stems(Timeline(cuts=cuts))["shots"][0]
    edit = round((0.5 + lag - lead) * RATE)
    assert np.abs(made[FADE : edit - FADE] - one[0, FADE : edit - FADE]).max() < BITS_16
    assert np.abs(made[edit + FADE : -FADE] - other[0, edit + FADE : -FADE]).max() < BITS_16


def test_j_and_l_cuts_need_sound_beyond_the_picture(tmp_path: Path) -> None:
    a = film(tmp_path / "a.mkv", sound=tone(1, 500))

    def refused(one: Cut, other: Cut) -> str:
        with pytest.raises(MediaError) as error:
            grid_of(Timeline(cuts=(one, other)))
        return str(error.value)

    assert "cuts[1].sound_lead_s is 0.5" in refused(
        Cut(source=a), Cut(source=a, start_s=0.2, sound_lead_s=0.5)
    )
    assert "cuts[0].sound_lag_s is 0.5" in refused(Cut(source=a, sound_lag_s=0.5), Cut(source=a))
    both = refused(Cut(source=a, end_s=0.5, sound_lag_s=0.1), Cut(source=a, start_s=0.4, sound_lead_s=0.1))
    assert "both given for one cut" in both


def test_a_source_of_another_rate_is_resampled_in_place(tmp_path: Path) -> None:
    a = film(tmp_path / "a.mkv", sound=tone(1, 440))
    clip = Clip(np.zeros((24, 32, 32, 3), np.uint8), tone(1, 440, rate=44_100), 24, sample_rate_hz=44_100)
    b = clip.save(tmp_path / "b.mkv", codec="ffv1")
    exact = stems(Timeline(cuts=(Cut(source=a, start_s=0.5),)))["shots"]
    made = stems(Timeline(cuts=(Cut(source=b, start_s=0.5),)))["shots"]
    inner = slice(2 * FADE, -2 * FADE)
    assert np.abs(made - exact)[:, inner].max() < 2e-4


def test_music_is_ducked_by_the_wanted_depth_before_the_first_word(tmp_path: Path) -> None:
    picture, music = film(tmp_path / "a.mkv", count=24 * 6), wav(tmp_path / "music.wav", tone(6, 300))
    voice = wav(tmp_path / "voice.wav", noise(RATE, 3))
    made = stems(
        Timeline(
            cuts=(Cut(source=picture),),
            music=(Music(path=music, gain_db=-6, duck_db=12, fade_in_s=0, fade_out_s=0),),
            voice_over=(VoiceOver(path=voice, start_s=2),),
        )
    )
    full = level_db(tone(6, 300)) - 6
    under = level_db(made["music"][:, 2 * RATE : 3 * RATE])
    before = level_db(made["music"][:, RATE : round(1.7 * RATE)])
    after = level_db(made["music"][:, 4 * RATE : 5 * RATE])
    assert (under, before, after) == pytest.approx((full - 12, full, full), abs=0.1)
    assert np.array_equal(made["voice-over"][:, 2 * RATE + 600 : 3 * RATE - 600], noise(RATE, 3)[:, 600:-600])


def test_captions_duck_music_too_and_loud_shots_where_it_is_wanted(tmp_path: Path) -> None:
    loud = np.concatenate([np.zeros((2, 2 * RATE), np.float32), tone(2, 700)], axis=1)
    picture, music = film(tmp_path / "a.mkv", count=96, sound=loud), wav(tmp_path / "m.wav", tone(4, 300))
    plain = Music(path=music, gain_db=0, fade_in_s=0, fade_out_s=0)
    by_sound = Music(path=music, gain_db=0, fade_in_s=0, fade_out_s=0, duck_under="sound")
    line = Caption(start_s=0.5, end_s=1.0, text="Hello.")
    for piece, late in ((plain, 0.0), (by_sound, -9.0)):
        made = stems(Timeline(cuts=(Cut(source=picture),), music=(piece,), captions=(line,)))["music"]
        said = level_db(made[:, RATE // 2 : RATE]) - level_db(tone(4, 300))
        heard = level_db(made[:, 2 * RATE + 480 : 4 * RATE - 480]) - level_db(tone(4, 300))
        assert (said, heard) == pytest.approx((-9, late), abs=0.1)


def test_looped_music_lasts_to_the_end_without_a_gap(tmp_path: Path) -> None:
    picture, music = film(tmp_path / "a.mkv", count=24 * 5), wav(tmp_path / "m.wav", noise(RATE, 4))
    piece = Music(path=music, loop=True, gain_db=0, fade_in_s=0, fade_out_s=0)
    made = stems(Timeline(cuts=(Cut(source=picture),), music=(piece,)))["music"]
    spans = made[:, : 5 * RATE].reshape(2, -1, RATE // 10)
    powers = np.square(spans[:, 1:-1]).mean(axis=(0, 2))
    assert 10 * np.log10(powers / np.median(powers)) == pytest.approx(0, abs=1.0)


def test_room_tone_fills_what_shots_leave(tmp_path: Path) -> None:
    quiet = noise(2 * RATE, 5, 0.005)
    spoken = quiet.copy()
    spoken[:, : RATE // 2] += tone(0.5, 400)
    a = film(tmp_path / "a.mkv", count=48, sound=spoken)
    cuts = (Cut(source=a), Cut(source="black", end_s=1), Cut(source=a))
    made = stems(Timeline(cuts=cuts, room_tone=RoomTone()))
    black = slice(2 * RATE + 4800, 3 * RATE - 4800)
    assert level_db(made["room-tone"][:, black]) == pytest.approx(level_db(quiet), abs=0.7)
    assert not made["room-tone"][:, RATE : 2 * RATE - FADE].any()
    around = sum_of(made)[:, 2 * RATE - FADE : 2 * RATE + FADE]
    assert level_db(around) == pytest.approx(level_db(quiet), abs=0.7)
    with pytest.raises(MediaError, match="room_tone is to be taken from the shots"):
        stems(Timeline(cuts=(Cut(source="black", end_s=1),), room_tone=RoomTone()))


@pytest.mark.parametrize("level", [0.012, 0.05, 0.9])
def test_the_film_has_the_loudness_that_is_asked_for(tmp_path: Path, level: float) -> None:
    sound = noise(4 * RATE, 6, level)
    sound[:, 2 * RATE :] *= 0.3
    a = film(tmp_path / "a.mkv", count=96, sound=sound)
    clip, told = assembled(Timeline(cuts=(Cut(source=a),)), tmp_path, -16.0)
    assert clip.waveform is not None
    measured = pyloudnorm.Meter(RATE).integrated_loudness(clip.waveform.T.astype(float))
    assert measured == pytest.approx(-16, abs=0.5)
    assert told.level is not None
    assert told.level.after.integrated_lufs == pytest.approx(measured, abs=0.3)


def test_peaks_stay_below_the_limit_and_the_loudness_is_kept(tmp_path: Path) -> None:
    """Clicks 23 dB above a quiet noise would be far over full scale after the gain."""
    sound = noise(6 * RATE, 7, 0.01)
    sound[:, 24_000::RATE] = 0.15
    a = film(tmp_path / "a.mkv", count=144, sound=sound)
    clip, told = assembled(Timeline(cuts=(Cut(source=a),)), tmp_path, -16.0)
    assert clip.waveform is not None
    assert told.level is not None
    assert told.level.before.true_peak_dbtp + told.level.gain_db > 6  # type: ignore[operator]
    assert told.level.after.true_peak_dbtp <= -1.0  # type: ignore[operator]
    assert np.abs(clip.waveform).max() <= 10 ** (-1 / 20)
    assert told.level.after.integrated_lufs == pytest.approx(-16, abs=0.5)


@pytest.mark.parametrize("rate", [44_100, 48_000, 96_000])
def test_the_limiter_holds_true_peaks_without_a_step_in_its_gain(rate: int) -> None:
    at_s = np.arange(2 * rate) / rate
    hum = 0.5 * np.sin(2 * np.pi * 60 * at_s) * (1 + np.sin(2 * np.pi * 0.7 * at_s))
    wave = (hum + 0.2 * np.random.default_rng(1).standard_normal(2 * rate)).astype(np.float32)
    sound = np.stack([wave, wave / 2])
    blocks = [sound[:, i : i + rate] for i in range(0, 2 * rate, rate)]
    made = np.concatenate(list(limited(blocks, 6.0, -1.0, rate)), axis=1)
    peak = Loudness.of([made], rate).true_peak_dbtp
    assert peak is not None
    assert -1.5 < peak <= -1.0
    loud = np.flatnonzero(np.abs(wave) > 0.05)
    gains_db = 20 * np.log10(made[0, loud] / wave[loud])
    assert (np.abs(np.diff(gains_db)) / np.diff(loud)).max() < 0.06  # dB a sample: 12 dB in 5 ms


def test_silence_is_left_as_it_is(tmp_path: Path) -> None:
    a = film(tmp_path / "a.mkv", sound=np.zeros((2, RATE), np.float32))
    with pytest.warns(UserWarning, match="they are silent"):
        clip, told = assembled(Timeline(cuts=(Cut(source=a),)), tmp_path, -16.0)
    assert clip.waveform is not None
    assert not clip.waveform.any()
    assert told.level is not None
    assert told.level.after.integrated_lufs is None


def test_sounds_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    a, music = film(tmp_path / "a.mkv"), wav(tmp_path / "m.wav", tone(1, 300))
    cases = [
        ({"music": (Music(path=a),)}, "music[0].path is"),
        ({"music": (Music(path=tmp_path / "none.wav"),)}, "music[0].path: "),
        ({"music": (Music(path=music, from_s=2),)}, "music[0].from_s is 2"),
        ({"music": (Music(path=music, start_s=0.5, end_s=0.4),)}, "music[0].end_s is 0.4"),
        ({"voice_over": (VoiceOver(path=music, start_s=3),)}, "voice_over[0].start_s is 3"),
        ({"room_tone": RoomTone(cut=2)}, "room_tone.cut is 2"),
    ]
    for fields, told in cases:
        with pytest.raises(MediaError) as error:
            stems(Timeline(cuts=(Cut(source=a),), **fields))  # type: ignore[arg-type]
        assert told in str(error.value)
