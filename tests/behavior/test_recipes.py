"""Every row of the design's recipe table, run from the command line on the shipped nano.

Each test runs a command as a user would and looks at what the written file shows or lets hear. The weights
load once; a command that several tests look at runs once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import save_file

import soundstage as ss
from soundstage.cli.main import app
from soundstage.cli.making import UPSCALE_PROMPT
from soundstage.nano.evaluation.capabilities.case import Recode, StageMaker
from soundstage.nano.evaluation.capabilities.compare import bicubic, changes, psnr, step_ratio
from soundstage.nano.evaluation.sound import rms_dbfs
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import BACKGROUNDS, FPS, Scene, Subject
from soundstage.nano.world.sound import synthesize
from soundstage.types import OUTPUT_RATE_HZ, VideoShape
from tests.media_read import Media, read_media

SIZE, STEPS = 128, 6
KEPT_DB = 35.0
CODED_DB = 33.0  # what is the same, where much else changes in the same H.264 frames
PLACES = {
    "day": "on a sunny day in a meadow",
    "night": "at night under the stars",
    "fog": "in thick fog",
    "wood": "in a room with a wooden floor",
    "grid": "in a tiled room",
    "gradient": "in front of a soft gradient",
}


def words(background: str, sound: str = "There is no other sound.") -> str:
    return f"A red ball rests {PLACES[background]}. The camera is static. {sound}"


# --- the command line, and what it is given -------------------------------------------------------------


@dataclass
class Desk:
    """Runs commands in one folder and reads what they wrote."""

    folder: Path
    done: dict[tuple[str, ...], tuple[Path, dict[str, Any]]] = field(default_factory=dict)

    def run(self, *command: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in command])

    def report(self, *command: object, ending: str = ".mp4") -> tuple[Path, dict[str, Any]]:
        """The file of a command, and what --json says of it."""
        key = (*(str(word) for word in command), ending)
        if key not in self.done:
            path = self.folder / f"made-{len(self.done)}{ending}"
            seed = () if "--seed" in command else ("--seed", 10)  # else one is drawn, and no two are alike
            result = self.run(*command, *seed, "--output", path, "--json")
            assert result.exit_code == 0, result.stderr
            self.done[key] = path, json.loads(result.stdout)
        return self.done[key]

    def make(self, *command: object, ending: str = ".mp4") -> Media:
        """What a command wrote, read back from the file."""
        return read_media(self.report(*command, ending=ending)[0])

    def generate(self, background: str, *options: object, frames: int | None = 9) -> Media:
        """A clip at a place of the world: small, few frames, few steps."""
        length = () if frames is None else ("--frames", frames)
        return self.make("generate", words(background), *length, *sized(options), "--steps", STEPS, *options)


def sized(options: tuple[object, ...]) -> tuple[object, ...]:
    return () if {"--size", "--video"} & set(options) else ("--size", f"{SIZE}x{SIZE}")


@pytest.fixture(scope="module")
def engine() -> ss.Engine:
    return ss.load("nano")


@pytest.fixture(scope="module")
def desk(engine: ss.Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Commands that share one engine instead of loading one each."""

    def load(model: str, **where: object) -> ss.Engine:
        assert model == "nano"
        assert set(where.values()) <= {"auto", None}
        return engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ss, "load", load, raising=False)
        yield Desk(tmp_path_factory.mktemp("made"))


def scene(background: str, frames: int, *subjects: Subject, **facts: Any) -> Scene:
    shape = VideoShape(frames, SIZE, SIZE)
    return Scene(seed=3, shape=shape, background=background, camera="static", subjects=subjects, **facts)


ROLLING = Subject("ball", "red", "medium", "roll")
RESTING = Subject("cube", "blue", "large", "rest")
CLIP_FRAMES = 33


@pytest.fixture(scope="module")
def clip(desk: Desk) -> Path:
    """33 frames of a red ball that rolls over grass in the rain."""
    shot = scene("day", CLIP_FRAMES, ROLLING, ambience="rain")
    motion = simulate(shot)
    return ss.Clip(render(shot, motion), synthesize(shot, motion), FPS).save(desk.folder / "clip.mp4")


@pytest.fixture(scope="module")
def source(clip: Path) -> Media:
    """The clip as its file has it."""
    return read_media(clip)


@pytest.fixture(scope="module")
def pictures(desk: Desk) -> dict[str, Path]:
    """A blue cube in the tiled room, and at night."""
    found = {}
    for background in ("grid", "night"):
        found[background] = desk.folder / f"{background}.png"
        Image.fromarray(render(scene(background, 1, RESTING))[0]).save(found[background])
    return found


# --- what is seen and heard -----------------------------------------------------------------------------


@lru_cache
def plates(height: int, width: int) -> dict[str, np.ndarray]:
    """The world's backgrounds without subjects."""
    shape = VideoShape(1, height, width)
    empty = {name: Scene(0, shape, name, "static", ()) for name in BACKGROUNDS}
    return {name: render(one)[0].astype(np.float32) for name, one in empty.items()}


def background_of(frame: np.ndarray) -> str:
    """The world's background that a frame (H, W, 3) is nearest to."""
    away = {name: np.abs(frame - plate).mean() for name, plate in plates(*frame.shape[:2]).items()}
    return min(away, key=lambda name: away[name])


def backgrounds(media: Media) -> list[str]:
    """Of the first, the middle and the last frame."""
    frames = pixels(media)
    return [background_of(frames[i]) for i in (0, len(frames) // 2, -1)]


def pixels(media: Media) -> np.ndarray:
    assert media.frames is not None
    return media.frames


def samples(media: Media) -> np.ndarray:
    assert media.waveform is not None
    return media.waveform


def level(media: Media) -> float:
    """dBFS of the whole sound but its ends."""
    sound = samples(media)
    return rms_dbfs(sound, [(0.05, sound.shape[1] / OUTPUT_RATE_HZ - 0.05)])


def kept_db(made: np.ndarray, given: np.ndarray) -> float:
    """How far the error of samples (2, n) is below what was given, over what both have."""
    count = min(made.shape[1], given.shape[1])
    error = np.square(made[:, :count] - given[:, :count]).mean()
    return float(10 * np.log10(np.square(given[:, :count]).mean() / max(error, 1e-12)))


# --- lists of passes ------------------------------------------------------------------------------------

RECIPES = {
    "single": ("wood", (SIZE, SIZE), 9, 24, ["--size", "128x128", "--steps", "6"]),
    "draft": ("night", (96, 64), 9, 24, ["--size", "192x128"]),
    "fast": ("fog", (192, 128), 9, 24, ["--size", "192x128"]),
    "pro": ("wood", (192, 128), 9, 24, ["--size", "192x128", "--steps", "6"]),
    "hq": ("night", (192, 128), 9, 24, ["--size", "192x128", "--steps", "4"]),
    "three-stage": ("wood", (384, 256), 9, 24, ["--size", "384x256", "--allow-unfit"]),
    "uhd": ("night", (640, 384), 9, 24, ["--allow-unfit"]),
    "smooth": ("day", (192, 128), 17, 48, ["--size", "192x128"]),
}


SLOW_RECIPES = ("three-stage", "uhd", "smooth")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW_RECIPES else n for n in RECIPES]
)
def test_recipes_show_the_place_asked_for_at_the_size_asked_for(desk: Desk, name: str) -> None:
    background, (width, height), frames, fps, options = RECIPES[name]
    command = ("generate", words(background), "--recipe", name, "--frames", frames, *options)
    media = desk.make(*command)
    assert pixels(media).shape == (frames, height, width, 3)
    assert media.fps == fps
    assert backgrounds(media) == [background] * 3
    assert samples(media).shape[1] / OUTPUT_RATE_HZ == pytest.approx(frames / fps, abs=0.05)


def test_smooth_shows_what_a_slower_clip_shows_at_twice_the_rate(desk: Desk) -> None:
    """No frame between two others jumps: each changes about as much as its neighbours do."""
    media = desk.make("generate", words("day"), "--recipe", "smooth", "--frames", 17, "--size", "192x128")
    steps = changes(pixels(media))
    assert steps.max() < 12


def test_upscale_doubles_a_clip_and_keeps_what_it_shows(desk: Desk, clip: Path, source: Media) -> None:
    """Its usual words say nothing of the place."""
    media = desk.make("upscale", clip, "--frames", 9)
    large = bicubic(pixels(source)[:9], 2 * SIZE, 2 * SIZE)
    assert pixels(media).shape == large.shape
    assert backgrounds(media) == ["day"] * 3
    prompt = ("generate", UPSCALE_PROMPT, "--frames", 9, "--size", "256x256", "--steps", STEPS)
    fresh = desk.make(*prompt, "--only", "video")
    assert psnr(pixels(media), large) > psnr(pixels(fresh), large)
    part = slice(2_000, 16_000)  # AAC rings at the ends of so short a sound
    assert kept_db(samples(media)[:, part], samples(source)[:, part]) > 15


def test_a_dub_has_new_speech_over_the_picture_of_its_source(
    desk: Desk, clip: Path, source: Media, lora: Path
) -> None:
    command = ("dub", clip, words("day", "A deep voice speaks."), "--frames", 9, "--size", "128x128")
    media = desk.make(*command, "--lora", f"{lora}:0")
    assert pixels(media).shape == (9, SIZE, SIZE, 3)
    assert backgrounds(media) == ["day"] * 3
    assert kept_db(samples(media), samples(source)) < 10


# --- pictures -------------------------------------------------------------------------------------------


def test_the_first_frame_is_the_picture_as_the_vae_makes_it(
    desk: Desk, engine: ss.Engine, pictures: dict[str, Path]
) -> None:
    free = desk.generate("grid")
    led = desk.generate("grid", "--image", f"{pictures['grid']}:1")
    picture = np.array(Image.open(pictures["grid"]))[None]
    assert engine._renderer is not None
    assert engine._renderer.built is not None
    coded = StageMaker(engine, engine._renderer.built).through_vae(Recode(picture))
    seen = psnr(pixels(led)[:1], coded)
    assert seen > 26
    assert seen > psnr(pixels(free)[:1], coded) + 5
    assert psnr(pixels(led)[-1:], coded) > psnr(pixels(free)[-1:], coded)


def test_less_strength_keeps_less_of_the_picture(desk: Desk, pictures: dict[str, Path]) -> None:
    picture = np.asarray(Image.open(pictures["grid"]))
    kept = [
        psnr(pixels(desk.generate("grid", "--image", f"{pictures['grid']}:{strength}"))[0], picture)
        for strength in ("1", "0.3")
    ]
    assert kept[0] > kept[1] + 1


def test_the_last_frame_nears_the_last_image(desk: Desk, pictures: dict[str, Path]) -> None:
    picture = np.asarray(Image.open(pictures["grid"]))
    free = desk.generate("grid", frames=17)
    led = desk.generate("grid", "--last-image", pictures["grid"], frames=17)
    assert psnr(pixels(led)[-1], picture) > psnr(pixels(free)[-1], picture) + 1


def test_keyframes_go_from_one_picture_to_the_other(desk: Desk, pictures: dict[str, Path]) -> None:
    prompt = "A blue cube rests. The camera is static."
    size = ("--frames", 25, "--size", f"{SIZE}x{SIZE}", "--steps", STEPS)
    media = desk.make("keyframe", prompt, pictures["grid"], pictures["night"], *size)
    first, last = (np.asarray(Image.open(pictures[name])) for name in ("grid", "night"))
    frames = pixels(media)
    assert psnr(frames[0], first) > psnr(frames[0], last) + 3
    assert psnr(frames[-1], last) > psnr(frames[-1], first)


# --- clips ----------------------------------------------------------------------------------------------


def test_a_clip_follows_its_reference(desk: Desk, clip: Path, source: Media) -> None:
    """The words leave the place open; the reference shows it."""
    command = ("generate", "A red ball rolls.", "--frames", 9, "--size", f"{SIZE}x{SIZE}", "--steps", STEPS)
    free, led = desk.make(*command), desk.make(*command, "--reference", clip)
    shown = pixels(source)[:9]
    assert psnr(pixels(led), shown) > psnr(pixels(free), shown)


@pytest.fixture(scope="module")
def lora(desk: Desk) -> Path:
    """An adapter of the picture's last layer, of random numbers: it spoils the picture and says so."""
    key, generator = "diffusion_model.proj_out", torch.Generator().manual_seed(0)
    width, out = 256, 128
    down = torch.randn(4, width, generator=generator) / width**0.5
    up = 0.5 * torch.randn(out, 4, generator=generator)
    path = desk.folder / "lora.safetensors"
    save_file({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}, path)
    return path


def test_a_lora_changes_the_picture_by_its_strength(desk: Desk, lora: Path) -> None:
    free = desk.generate("wood")
    off, half, on = (desk.generate("wood", "--lora", f"{lora}:{s}") for s in ("0", "0.3", "1"))
    assert np.array_equal(pixels(off), pixels(free))
    assert psnr(pixels(on), pixels(free)) < psnr(pixels(half), pixels(free)) - 1 < 40


def test_a_lora_with_a_span_changes_that_stretch_most(desk: Desk, lora: Path) -> None:
    free = desk.generate("wood", frames=25)
    late = desk.generate("wood", "--lora", f"{lora}@0.7-1.1", frames=25)
    first, last = (psnr(pixels(late)[part], pixels(free)[part]) for part in (slice(0, 8), slice(17, 25)))
    assert last < first - 2


def test_denoising_less_stays_nearer_to_the_clip(desk: Desk, clip: Path, source: Media) -> None:
    shown = pixels(source)[:9]
    near, far = (desk.generate("night", "--video", clip, "--denoise", d) for d in ("0.4", "0.85"))
    fresh = desk.generate("night")
    kept = [psnr(pixels(media), shown) for media in (near, far, fresh)]
    assert kept[0] > kept[1] + 1
    assert kept[0] > kept[2] + 3


def test_a_retake_keeps_what_is_outside_and_changes_what_is_inside(
    desk: Desk, clip: Path, source: Media
) -> None:
    media = desk.make("retake", clip, "1.05-1.375", words("night", "It is silent."), "--steps", STEPS)
    made, shown = pixels(media), pixels(source)
    assert made.shape == shown.shape
    assert min(psnr(a, b) for a, b in zip(made[:17], shown, strict=False)) > KEPT_DB
    assert psnr(made[25:], shown[25:]) < 25


def test_a_retake_of_sound_keeps_every_sample_outside(desk: Desk, clip: Path, source: Media) -> None:
    """Sound alone is written without loss."""
    command = ("retake", clip, "0.8-1.375", words("day", "It is silent."), "--only", "audio")
    media = desk.make(*command, "--steps", STEPS, ending=".wav")
    assert media.frames is None
    kept, inside = slice(0, 30_000), slice(45_000, None)
    assert np.abs(samples(media)[:, kept] - samples(source)[:, kept]).max() <= 2 / 32768
    assert kept_db(samples(media)[:, inside], samples(source)[:, inside]) < 10


def test_an_extension_keeps_the_clip_and_goes_on_from_it(desk: Desk, clip: Path, source: Media) -> None:
    prompt = "A red ball rolls on a sunny day in a meadow. The camera is static. It rains."
    media = desk.make("extend", clip, prompt, "--after", 0.6, "--steps", STEPS)
    made, shown = pixels(media), pixels(source)
    assert len(made) == CLIP_FRAMES + 16
    assert psnr(made[:9], shown[:9]) > KEPT_DB
    assert background_of(made[-1]) == "day"
    steps = changes(made)
    assert steps[CLIP_FRAMES - 1 :].max() < 4 * steps[: CLIP_FRAMES - 1].max()
    assert samples(media).shape[1] / OUTPUT_RATE_HZ == pytest.approx(len(made) / FPS, abs=0.05)
    assert kept_db(samples(media)[:, :30_000], samples(source)[:, :30_000]) > 15


def test_a_clip_can_be_extended_before_its_beginning(desk: Desk, clip: Path, source: Media) -> None:
    prompt = "A red ball rolls on a sunny day in a meadow. The camera is static."
    media = desk.make("extend", clip, prompt, "--before", 0.3, "--steps", STEPS)
    made, shown = pixels(media), pixels(source)
    assert len(made) == CLIP_FRAMES + 8
    kept = [psnr(a, b) for a, b in zip(made[8:], shown, strict=True)]
    assert kept[-1] > CODED_DB
    assert kept[-1] > kept[0] + 10
    assert background_of(made[0]) == "day"


def test_a_mask_keeps_its_black_half(desk: Desk, clip: Path, source: Media) -> None:
    """The white half shows what is asked for, where the clip has nothing but the meadow."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, SIZE // 2 :] = 255
    Image.fromarray(mask).save(desk.folder / "mask.png")
    prompt = "On the right a large blue cube stands still on a sunny day in a meadow."
    size = ("--frames", 9, "--size", f"{SIZE}x{SIZE}", "--steps", STEPS)
    media = desk.make("generate", prompt, *size, "--video", clip, "--mask", desk.folder / "mask.png")
    left, right = slice(0, SIZE // 8), slice(3 * SIZE // 4, SIZE)
    made, shown = pixels(media), pixels(source)[:9]
    assert psnr(made[:, :, left], shown[:, :, left]) > CODED_DB
    assert psnr(made[:, :, right], shown[:, :, right]) < 25


def test_a_canvas_paints_around_the_clip(desk: Desk, clip: Path, source: Media) -> None:
    media = desk.generate("day", "--video", clip, "--canvas", "64,0,64,0")
    made, shown = pixels(media), pixels(source)[:9]
    assert made.shape == (9, SIZE, 2 * SIZE, 3)
    middle = slice(64 + 32, 64 + SIZE - 32)
    assert psnr(made[:, :, middle], shown[:, :, 32:-32]) > CODED_DB
    assert backgrounds(media) == ["day"] * 3


# --- sounds ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def track(desk: Desk) -> Path:
    """A ball that bounces: two thuds."""
    shot = scene("wood", 25, Subject("ball", "red", "medium", "bounce", count=1))
    return ss.Clip(None, synthesize(shot, simulate(shot)), FPS).save(desk.folder / "track.wav")


def test_a_driving_sound_is_heard_in_its_own_samples(desk: Desk, track: Path) -> None:
    command = ("a2v", track, words("wood", "A thud with each bounce."))
    media = desk.make(*command, "--frames", 25, "--size", f"{SIZE}x{SIZE}", "--steps", STEPS)
    assert kept_db(samples(media), samples(read_media(track))) > 15
    assert backgrounds(media) == ["wood"] * 3


def test_a_driving_sound_leads_the_picture(desk: Desk, track: Path) -> None:
    prompt = words("wood", "A thud with each bounce.")
    options = ("--frames", 25, "--size", f"{SIZE}x{SIZE}", "--steps", STEPS)
    led = desk.make("a2v", track, prompt, *options)
    later = desk.make("a2v", track, prompt, *options, "--audio-start", 0.3)
    assert psnr(pixels(led), pixels(later)) < 50


def test_a_voice_to_speak_with_changes_the_sound(desk: Desk) -> None:
    """Two voices make two sounds, and neither is the one that is made without."""
    prompt = words("wood", "A deep voice speaks.")
    command = ("generate", prompt, "--frames", 25, "--size", f"{SIZE}x{SIZE}", "--steps", STEPS)
    made = [desk.make(*command)]
    for voice in ("deep", "bright"):
        shot = scene("wood", 25, RESTING, voice=voice)
        path = ss.Clip(None, synthesize(shot, simulate(shot)), FPS).save(desk.folder / f"{voice}.wav")
        made.append(desk.make(*command, "--audio", path, "--audio-mode", "identity"))
    first, deep, bright = (samples(media) for media in made)
    assert first.shape == deep.shape == bright.shape
    assert max(kept_db(deep, first), kept_db(bright, first), kept_db(deep, bright)) < 20
    assert all(backgrounds(media) == ["wood"] * 3 for media in made)


def test_sound_alone_is_a_wav_that_follows_the_words(desk: Desk) -> None:
    command = ("--duration", 1, "--steps", STEPS)
    prompts = {"rain": words("day", "It rains steadily."), "silence": words("day", "There is no sound.")}
    made = {name: desk.make("t2a", text, *command, ending=".wav") for name, text in prompts.items()}
    assert all(media.frames is None for media in made.values())
    assert level(made["rain"]) > level(made["silence"]) + 6


def test_picture_alone_has_no_sound(desk: Desk) -> None:
    media = desk.generate("fog", "--only", "video")
    assert media.waveform is None
    assert backgrounds(media) == ["fog"] * 3


def test_a_silent_clip_gets_sound_and_keeps_its_picture(desk: Desk, source: Media) -> None:
    silent = ss.Clip(pixels(source), None, FPS).save(desk.folder / "silent.mp4")
    media = desk.make("v2a", silent, words("day", "It rains steadily."), "--steps", STEPS)
    assert pixels(media).shape == pixels(source).shape
    assert psnr(pixels(media), pixels(read_media(silent))) > KEPT_DB
    assert level(media) > -60


def test_the_picture_of_a_silent_clip_leads_its_sound(desk: Desk, clip: Path) -> None:
    command = ("v2a", clip, "A red ball rolls with a rumble.", "--frames", 9, "--steps", STEPS)
    early, late = desk.make(*command), desk.make(*command, "--video-start", 0.6)
    assert kept_db(samples(late), samples(early)) < 40


# --- time -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "first", "last"),
    [
        (f"[0-1s] {words('wood')} [1-2.1s] {words('day')}", "wood", "day"),
        (f"{words('fog')} | {words('day')}", "fog", "day"),
    ],
    ids=["times", "bars"],
)
def test_each_part_of_a_prompt_is_shown_in_its_time(desk: Desk, prompt: str, first: str, last: str) -> None:
    size = ("--frames", 49, "--size", f"{SIZE}x{SIZE}", "--steps", STEPS, "--only", "video")
    seen = backgrounds(desk.make("generate", prompt, *size))
    assert (seen[0], seen[-1]) == (first, last)


def test_a_long_take_has_no_jump_where_its_windows_meet(desk: Desk) -> None:
    options = ("--size", f"{SIZE}x{SIZE}", "--steps", STEPS, "--take", "window_frames=33")
    path, report = desk.report("generate", words("wood", "It rains."), "--frames", 57, *options)
    media = read_media(path)
    assert len(report["windows"]) > 1
    assert len(pixels(media)) == 57
    assert backgrounds(media) == ["wood"] * 3
    steps, seam = changes(pixels(media)), 32
    around = slice(seam - 2, seam + 3)
    assert steps[around].max() < 3 * max(np.delete(steps, np.r_[around]).max(), 1)
    at = seam / FPS
    assert step_ratio(samples(media), (at - 0.1, at + 0.1), (0.2, at - 0.2)) < 3
