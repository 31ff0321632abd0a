"""Every way to shape a shot, end to end over a tiny model: what is kept is kept bit for bit.

The weights are random, so that only mechanisms are tested: what is given comes out, what is made differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import soundstage as ss
from soundstage.conditioning.pixels import fit, to_uint8
from soundstage.engine import Engine
from soundstage.library.model_files import EXTRAS, SHIPPED_MODELS, find_model
from soundstage.planning.plan import LoraUse
from soundstage.rendering.encoded_inputs import EncodedInputs
from soundstage.rendering.encoding_cache import EncodingCache
from soundstage.rendering.events import Done, Phase, Preview
from soundstage.rendering.loras import Attached
from tests.quick_codecs import QuickCodecs
from tests.tiny_model import write_tiny_model

FPS = 24.0
UNGUIDED = {"guidance": 1, "stg": 0, "modality_guidance": 1, "steps": 2}


class StandIns(QuickCodecs):
    """Upsamplers that stretch, and adapters that are noted down."""

    adapted: list[tuple[LoraUse, ...]]

    def upsample(self, role: str, latents: Tensor) -> Tensor:
        frames, height, width = latents.shape[2:]
        size = {
            "space-x2": (frames, 2 * height, 2 * width),
            "space-x1.5": (frames, 3 * height // 2, 3 * width // 2),
            "time-x2": (2 * frames - 1, height, width),
        }[role]
        return F.interpolate(latents, size=size, mode="nearest")

    def attach(self, paths: Sequence[str]) -> list[Attached]:
        return []

    def adapt(self, loras: Sequence[LoraUse], video: Tensor | None, audio: Tensor | None) -> None:
        self.adapted = [*getattr(self, "adapted", []), tuple(loras)]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    for role, (name, _) in EXTRAS.items():
        if role != "preview":
            (folder / name).symlink_to(SHIPPED_MODELS["nano"] / name)
    model = find_model(folder)
    return Engine(model, parts=StandIns(model, torch.device("cpu"), torch.float32))


def picture(seed: int = 0, height: int = 64, width: int = 64) -> np.ndarray:
    """Soft random colours."""
    small = np.random.default_rng(seed).integers(0, 255, (1, 3, 4, 4)).astype(np.float32)
    large = F.interpolate(torch.from_numpy(small), size=(height, width), mode="bilinear")
    return large[0].permute(1, 2, 0).numpy().astype(np.uint8)


def film(num_frames: int, *, silent: bool = False, size: int = 64) -> ss.Clip:
    frames = np.stack([picture(i // 3, size, size) for i in range(num_frames)])
    rate = 48_000
    count = round(num_frames / FPS * rate)
    sound = np.random.default_rng(1).uniform(-0.5, 0.5, (2, count)).astype(np.float32)
    return ss.Clip(frames, None if silent else sound, FPS, {})


def finished(stage: Engine, **fields: Any) -> Done:
    *_, done = stage.run(ss.Request(**{"prompt": "a red ball", "seed": 3, **UNGUIDED, **fields}))
    assert isinstance(done, Done)
    return done


@torch.no_grad()
def encoded(stage: Engine, frames: np.ndarray) -> Tensor:
    height, width = frames.shape[1:3]
    return stage._parts.encode_video(fit(frames, width, height))


def heard(stage: Engine, clip: ss.Clip, count: int) -> Tensor:
    sound = np.pad(clip.waveform, ((0, 0), (0, 9_600)))[:, : round((count / 25 + 0.1) * 48_000)]
    with torch.no_grad():
        return stage._parts.encode_audio(torch.from_numpy(sound)[None], 48_000)[:, :, :count]


# --- guides ---------------------------------------------------------------------------------------------


def test_a_first_picture_comes_out_as_it_went_in(stage: Engine) -> None:
    guide = ss.Guide(picture(), crf=0)
    done = finished(stage, guides=[guide], num_frames=17)
    assert torch.equal(done.video_latents[:, :, :1], encoded(stage, picture()[None]))
    free = finished(stage, num_frames=17)
    assert not torch.equal(done.video_latents[:, :, 1:], free.video_latents[:, :, 1:])


def test_strength_0_in_place_is_no_guide_at_all(stage: Engine) -> None:
    with_guide = finished(stage, guides=[ss.Guide(picture(), strength=0)])
    assert torch.equal(with_guide.video_latents, finished(stage).video_latents)
    between = finished(stage, guides=[ss.Guide(picture(), strength=0.5, crf=0)]).video_latents[:, :, 0]
    kept = encoded(stage, picture()[None])[:, :, 0]
    free = finished(stage).video_latents[:, :, 0]
    assert 0 < (between - kept).abs().mean() < (free - kept).abs().mean()


def test_compression_changes_what_is_kept(stage: Engine) -> None:
    soft = finished(stage, guides=[ss.Guide(picture(), crf=45)])
    assert not torch.equal(soft.video_latents[:, :, :1], encoded(stage, picture()[None]))


def test_a_last_picture_in_place_and_beside(stage: Engine) -> None:
    placed = finished(stage, guides=[ss.Guide(picture(), at="last", mode="replace", crf=0)], num_frames=17)
    assert torch.equal(placed.video_latents[:, :, -1:], encoded(stage, picture()[None]))
    beside = finished(stage, guides=[ss.Guide(picture(), at="last")], num_frames=17)
    free = finished(stage, num_frames=17)
    assert beside.video_latents.shape == free.video_latents.shape
    assert not torch.equal(beside.video_latents, free.video_latents)


def test_a_clip_in_place_inside_the_film(stage: Engine) -> None:
    clip = film(8, silent=True)
    done = finished(stage, guides=[ss.Guide(clip, frame=9, mode="replace")], num_frames=25)
    doubled = encoded(stage, clip.frames[[0, *range(8)]])
    assert torch.equal(done.video_latents[:, :, 2:3], doubled[:, :, 1:])


def test_guides_may_overlap_and_come_before_the_clip(stage: Engine) -> None:
    guides = [
        ss.Guide(picture(1), frame=4),
        ss.Guide(picture(2), frame=4, strength=0.5),
        ss.Guide(film(9), at=0.0, mode="guide", attention=0.5),
        ss.Guide(film(8), at="before"),
    ]
    plan = stage.plan(ss.Request(prompt="a", guides=guides, num_frames=17, **UNGUIDED))
    assert [c.tokens for c in plan.passes[0].conditions] == [4, 4, 8, 4]
    assert [c.frame for c in plan.passes[0].conditions] == [4, 4, 0, -8]
    done = finished(stage, guides=guides, num_frames=17)
    assert done.video_latents.shape == (1, 128, 3, 2, 2)
    assert done.clip.frames.shape == (17, 64, 64, 3)


def test_a_strength_0_guide_beside_still_is_seen(stage: Engine) -> None:
    seen = finished(stage, guides=[ss.Guide(picture(), frame=4, strength=0)], num_frames=9)
    assert not torch.equal(seen.video_latents, finished(stage, num_frames=9).video_latents)


def test_references_are_seen_and_dropped(stage: Engine) -> None:
    free = finished(stage, size=(128, 128))
    results = [free.video_latents]
    for reference in (
        ss.Reference(film(9, size=128)),
        ss.Reference(film(9, size=128), downscale=2),
        ss.Reference(film(9, size=128), attention=0.3),
        ss.Reference(film(9, size=128), mask=np.zeros((128, 128, 3), np.uint8)),
    ):
        done = finished(stage, size=(128, 128), references=[reference])
        assert done.video_latents.shape == free.video_latents.shape
        assert not any(torch.equal(done.video_latents, other) for other in results)
        results.append(done.video_latents)


def test_inputs_are_encoded_once(stage: Engine) -> None:
    clip = film(9)
    before = stage._parts.num_encoded
    for seed in (1, 2):
        finished(stage, references=[ss.Reference(clip)], guides=[ss.Guide(picture(9))], seed=seed)
    assert stage._parts.num_encoded == before + 2


# --- sources --------------------------------------------------------------------------------------------


def test_a_retake_changes_the_inside_and_keeps_the_outside(stage: Engine) -> None:
    clip = film(57)
    done = finished(stage, source=ss.Source(clip, regenerate=[ss.Span(0.0, 0.1)]))
    source = encoded(stage, clip.frames)
    assert torch.equal(done.video_latents[:, :, 2:], source[:, :, 2:])
    assert not torch.equal(done.video_latents[:, :, :1], source[:, :, :1])
    sound = heard(stage, clip, 59)
    assert torch.equal(done.audio_latents[:, :, 4:], sound[:, :, 4:])
    assert not torch.equal(done.audio_latents[:, :, :3], sound[:, :, :3])
    assert np.array_equal(done.clip.frames[40:], clip.frames[40:])
    assert not np.array_equal(done.clip.frames[:3], clip.frames[:3])
    assert np.array_equal(done.clip.waveform[:, 24_000:], clip.waveform[:, 24_000:])
    assert not np.array_equal(done.clip.waveform[:, :4000], clip.waveform[:, :4000])


def test_a_retake_of_the_sound_keeps_the_whole_picture(stage: Engine) -> None:
    clip = film(17)
    source = ss.Source(clip, regenerate=[ss.Span(0.2, 0.4)], modalities={"audio"})
    done = finished(stage, source=source)
    assert torch.equal(done.video_latents, encoded(stage, clip.frames))
    assert np.array_equal(done.clip.frames, clip.frames)
    sound = heard(stage, clip, 18)
    assert torch.equal(done.audio_latents[:, :, :5], sound[:, :, :5])
    assert not torch.equal(done.audio_latents[:, :, 5:10], sound[:, :, 5:10])


def test_a_retake_of_the_picture_keeps_the_whole_sound(stage: Engine) -> None:
    clip = film(17)
    done = finished(stage, source=ss.Source(clip, regenerate=[ss.Span(0.2, 0.4)], modalities={"video"}))
    assert torch.equal(done.audio_latents, heard(stage, clip, 18))
    assert np.array_equal(done.clip.waveform, clip.waveform)


def test_an_extension_goes_on_from_the_source(stage: Engine) -> None:
    clip = film(41)
    done = finished(stage, source=ss.Source(clip, extend_after_s=0.5, feather_s=0))
    assert done.clip.frames.shape[0] == 41 + 16
    assert torch.equal(done.video_latents[:, :, :6], encoded(stage, clip.frames))
    assert np.array_equal(done.clip.frames[:9], clip.frames[:9])
    feathered = finished(stage, source=ss.Source(clip, extend_after_s=0.5, feather_s=0.2))
    assert torch.equal(feathered.video_latents[:, :, :5], encoded(stage, clip.frames)[:, :, :5])
    assert not torch.equal(feathered.video_latents[:, :, 5], encoded(stage, clip.frames)[:, :, 5])


def test_an_extension_backward_keeps_the_end(stage: Engine) -> None:
    """The source's first latent holds one frame, the film's latent there holds eight: it is made anew."""
    clip = film(49)
    done = finished(stage, source=ss.Source(clip, extend_before_s=0.3, feather_s=0))
    assert done.clip.frames.shape[0] == 49 + 8
    assert torch.equal(done.video_latents[:, :, 2:], encoded(stage, clip.frames)[:, :, 1:])
    assert np.array_equal(done.clip.frames[-1], clip.frames[-1])
    sound = np.pad(clip.waveform, ((0, 0), (16_000, 0)))
    assert np.array_equal(done.clip.waveform[:, -9600:], sound[:, -9600:])


def test_an_inpainting_mask_keeps_the_other_cells(stage: Engine) -> None:
    clip = film(9, size=128)
    mask = np.zeros((128, 128, 3), np.uint8)
    mask[40:60, 40:60] = 255
    done = finished(stage, source=ss.Source(clip, mask=mask))
    source = encoded(stage, clip.frames)
    made = (done.video_latents != source).any(dim=1)[0]
    expected = torch.zeros(2, 4, 4, dtype=torch.bool)
    expected[:, 1, 1] = True
    assert torch.equal(made, expected)
    assert np.array_equal(done.clip.frames[:, 112:], clip.frames[:, 112:])
    assert not np.array_equal(done.clip.frames[:, 40:60, 40:60], clip.frames[:, 40:60, 40:60])
    assert torch.equal(done.audio_latents, heard(stage, clip, 9))


def test_a_canvas_is_painted_around_the_source(stage: Engine) -> None:
    clip = film(9)
    done = finished(stage, source=ss.Source(clip, canvas=ss.Canvas(right=64, top=32)))
    assert done.clip.frames.shape == (9, 96, 128, 3)
    assert torch.equal(done.video_latents[:, :, :, 1:, :2], encoded(stage, clip.frames))
    assert not done.video_latents[:, :, :, :1].eq(0).any()
    assert np.array_equal(done.clip.frames[:, -16:, :16], clip.frames[:, -16:, :16])


def test_denoising_less_stays_nearer_to_the_source(stage: Engine) -> None:
    clip = film(9)
    source = encoded(stage, clip.frames)
    sigmas = {"schedule": "distilled", "steps": 8}
    far, near = (
        (finished(stage, source=ss.Source(clip, denoise=d), **sigmas).video_latents - source).abs().mean()
        for d in (0.95, 0.1)
    )
    assert near < far


def test_sound_is_made_for_a_silent_clip(stage: Engine) -> None:
    clip = film(17, silent=True)
    done = finished(stage, source=ss.Source(clip, modalities={"audio"}))
    assert np.array_equal(done.clip.frames, clip.frames)
    assert done.audio_latents.shape == (1, 8, 18, 16)
    other = finished(stage, source=ss.Source(film(17, silent=True, size=96), modalities={"audio"}))
    assert done.clip.waveform.shape[0] == 2
    assert not torch.equal(done.audio_latents, other.audio_latents)


def test_an_extension_in_passes_of_two_rates(stage: Engine) -> None:
    clip = ss.Clip(film(33, size=128).frames, None, 48.0, {})
    source = ss.Source(clip, extend_after_s=0.4, feather_s=0)
    _, done = run(stage, recipe="smooth", size=None, num_frames=None, source=source)
    assert done.clip.frames.shape == (33 + 32, 128, 128, 3)
    assert torch.equal(done.video_latents[:, :, :5], encoded(stage, clip.frames))


def test_a_stretch_of_sound_alone_is_made_anew(stage: Engine) -> None:
    sound = film(33).waveform
    source = ss.Source(audio=sound, regenerate=[ss.Span(0.0, 0.1)])
    done = finished(stage, source=source, modalities={"audio"})
    assert done.clip.frames is None
    assert np.array_equal(done.clip.waveform[:, 24_000:], sound[:, 24_000:])
    assert not np.array_equal(done.clip.waveform[:, :4800], sound[:, :4800])


# --- sound ----------------------------------------------------------------------------------------------


def test_a_driving_sound_is_heard_in_its_own_samples(stage: Engine) -> None:
    sound = film(17).waveform
    done = finished(stage, audio=ss.Audio(sound), num_frames=17)
    assert np.array_equal(done.clip.waveform, sound)
    assert torch.equal(done.audio_latents, heard(stage, film(17), 18))
    short = finished(stage, audio=ss.Audio(sound[:, :10_000]), num_frames=17)
    assert np.array_equal(short.clip.waveform[:, :10_000], sound[:, :10_000])
    assert not short.clip.waveform[:, 10_000:].any()
    assert not torch.equal(short.video_latents, done.video_latents)


def test_a_voice_is_heard_at_negative_time_and_dropped(stage: Engine) -> None:
    audio = ss.Audio(film(9).waveform, mode="identity")
    plan = stage.plan(ss.Request(prompt="a", audio=audio, num_frames=17, **UNGUIDED))
    assert plan.passes[0].kinds == ("cond", "identity")
    assert plan.passes[0].added_audio == 10
    done = finished(stage, audio=audio, num_frames=17)
    free = finished(stage, num_frames=17)
    assert done.audio_latents.shape == free.audio_latents.shape
    assert not torch.equal(done.audio_latents, free.audio_latents)


# --- recipes --------------------------------------------------------------------------------------------


def run(stage: Engine, **fields: Any) -> tuple[list[Any], Done]:
    request = {"prompt": "a", "size": (128, 128), "num_frames": 9, "seed": 10, **fields}
    events = list(stage.run(ss.Request(**request)))
    assert isinstance(events[-1], Done)
    return events, events[-1]


def test_fast_upscales_between_its_passes_and_keeps_pictures_pinned(stage: Engine) -> None:
    events, done = run(stage, recipe="fast", guides=[ss.Guide(picture(0, 128, 128), crf=0)])
    names = [e.name for e in events if isinstance(e, Phase)]
    assert names == ["load", "encode", "denoise", "upsample", "denoise", "decode video", "decode audio"]
    assert done.clip.frames.shape == (9, 128, 128, 3)
    assert torch.equal(done.video_latents[:, :, :1], encoded(stage, picture(0, 128, 128)[None]))
    assert [[use.strength for use in uses] for uses in stage._parts.adapted[-2:]] == [[1.0], [1.0]]


def test_pro_keeps_the_sound_of_its_guided_pass(stage: Engine) -> None:
    _, pro = run(stage, recipe="pro", steps=2)
    _, half = run(stage, recipe="single", size=(64, 64), steps=2)
    assert torch.equal(pro.audio_latents, half.audio_latents)
    _, fast = run(stage, recipe="fast")
    assert not torch.equal(pro.audio_latents, fast.audio_latents)


def test_three_stages_make_the_sound_once(stage: Engine) -> None:
    _, three = run(stage, recipe="three-stage")
    _, draft = run(stage, recipe="draft", size=(64, 64))
    assert torch.equal(three.audio_latents, draft.audio_latents)
    assert draft.clip.frames.shape == (9, 32, 32, 3)
    assert three.clip.frames.shape == (9, 128, 128, 3)


def test_smooth_doubles_the_frames(stage: Engine) -> None:
    _, done = run(stage, recipe="smooth", num_frames=17)
    assert done.clip.frames.shape == (17, 128, 128, 3)
    assert done.clip.fps == 48
    assert done.audio_latents.shape[2] == round(17 / 48 * 25)


def test_thinning_keeps_every_second_frame(stage: Engine) -> None:
    done = finished(stage, num_frames=9, thin=2)
    assert done.video_latents.shape[2] == 3
    assert done.clip.frames.shape[0] == 9
    assert done.clip.fps == FPS


def test_dubbing_sees_the_clip_and_hears_its_voice(stage: Engine) -> None:
    clip = film(9, size=128)
    dub = {"references": [ss.Reference(clip)], "audio": ss.Audio(clip.waveform, mode="identity")}
    plan = stage.plan(ss.Request(prompt="a", recipe="dub", size=(128, 128), num_frames=9, **dub))
    assert [(p.identity, p.frozen, p.added_video) for p in plan.passes] == [
        ("soundtrack", (), 8),
        ("previous", ("audio",), 32),
    ]
    _, done = run(stage, recipe="dub", **dub)
    assert done.clip.frames.shape == (9, 128, 128, 3)


def test_upscaling_starts_from_the_clip_and_keeps_its_sound(stage: Engine) -> None:
    clip = film(9)
    source = ss.Source(clip, modalities={"video"})
    _, done = run(stage, recipe="upscale", size=None, num_frames=None, source=source)
    assert done.clip.frames.shape == (9, 128, 128, 3)
    assert np.array_equal(done.clip.waveform, clip.waveform)


def test_a_retake_in_two_passes_keeps_the_outside_at_full_size(stage: Engine) -> None:
    clip = film(25, size=128)
    source = ss.Source(clip, regenerate=[ss.Span(0.0, 0.1)])
    _, done = run(stage, recipe="fast", size=None, num_frames=None, source=source)
    assert torch.equal(done.video_latents[:, :, 2:], encoded(stage, clip.frames)[:, :, 2:])


def test_previews_show_the_prediction(stage: Engine) -> None:
    events = list(stage.run(ss.Request(prompt="a", **UNGUIDED), preview_every=1))
    previews = [e for e in events if isinstance(e, Preview)]
    assert [p.step for p in previews] == [1, 2]
    rough = stage._parts.preview_video(events[-1].video_latents)
    assert np.array_equal(previews[-1].frames, to_uint8(rough))


def test_negative_prompts_may_differ_by_modality(stage: Engine) -> None:
    guided = {"guidance": 3, "negative_prompt": "rain"}
    both = finished(stage, **guided)
    differing = finished(stage, **guided, audio_negative_prompt="music")
    assert not torch.equal(both.audio_latents, differing.audio_latents)
    nag = finished(stage, audio_scales={"nag": 11.0}, audio_negative_prompt="music")
    assert not torch.equal(nag.audio_latents, finished(stage).audio_latents)


def test_a_clip_made_from_arrays_says_so(stage: Engine) -> None:
    done = finished(stage, guides=[ss.Guide(picture())])
    told = done.clip.provenance["request"]["guides"][0]["image"]
    assert told["array"] == "uint8 (1, 64, 64, 3)"
    with pytest.raises(ss.SoundstageError, match=r"guides\[0\]\.image: this was an array in memory"):
        _ = done.clip.request


# --- lengths that are not 8k + 1 ------------------------------------------------------------------------


def odd_film(num_frames: int, sound_s: float | None = None, rate_hz: int = 48_000) -> ss.Clip:
    """A clip whose sound lasts as long as it says, at a rate of its own."""
    count = round((num_frames / FPS if sound_s is None else sound_s) * rate_hz)
    sound = np.random.default_rng(1).uniform(-0.5, 0.5, (2, count)).astype(np.float32)
    return ss.Clip(film(num_frames, silent=True).frames, sound, FPS, {}, rate_hz)


@pytest.mark.parametrize("count", [1, 9, 12, 24])
def test_a_clip_that_gets_a_sound_keeps_every_frame(stage: Engine, count: int) -> None:
    clip = film(count, silent=True)
    done = finished(stage, source=ss.Source(clip, modalities={"audio"}))
    assert np.array_equal(done.clip.frames, clip.frames)
    assert 0 <= count / FPS - done.clip.waveform.shape[1] / 48_000 < 0.04


@pytest.mark.parametrize("sound_s", [0.51, 0.97, 1.0, 1.04])
def test_a_sound_that_gets_a_picture_keeps_every_sample(stage: Engine, sound_s: float) -> None:
    sound = odd_film(1, sound_s).waveform
    source = finished(stage, source=ss.Source(audio=sound, modalities={"video"}))
    led = finished(stage, audio=ss.Audio(sound))
    for done in (source, led):
        length = done.clip.waveform.shape[1]
        assert np.array_equal(done.clip.waveform[:, : sound.shape[1]], sound)
        assert not done.clip.waveform[:, sound.shape[1] :].any()
        assert 0 <= len(done.clip.frames) / FPS - sound_s < 1 / FPS + 1e-6
        assert length == max(sound.shape[1], round(len(done.clip.frames) / FPS * 48_000))


@pytest.mark.parametrize(("count", "rate_hz", "sound_s"), [(24, 48_000, 1.0), (20, 44_100, 1.3)])
def test_a_retake_changes_what_its_plan_says_and_nothing_else(
    stage: Engine, count: int, rate_hz: int, sound_s: float
) -> None:
    clip = odd_film(count, sound_s, rate_hz)
    request = {"source": ss.Source(clip, regenerate=[ss.Span(0.3, 0.45)])}
    plan = stage.plan(ss.Request(prompt="a red ball", seed=3, **UNGUIDED, **request))
    (seam,) = plan.passes[0].source.video_seams
    assert (seam.start, seam.first, seam.end, seam.stop) == (1, 7, 11, 17)
    assert plan.notices == (
        "frames 1 to 16 of the picture (0.04 to 0.71 s) and 0.27 to 0.48 s of the sound are made or faded "
        "over; everything else stays as it is",
    )
    done = finished(stage, **request)
    assert done.clip.frames.shape == clip.frames.shape
    changed = (done.clip.frames != clip.frames).any(axis=(1, 2, 3))
    assert np.flatnonzero(changed).tolist() == list(range(1, 17))
    assert done.clip.sample_rate_hz == rate_hz
    assert done.clip.waveform.shape == clip.waveform.shape
    (heard,) = plan.passes[0].source.audio_seams
    different = np.flatnonzero((done.clip.waveform != clip.waveform).any(axis=0)) / rate_hz
    assert different.min() >= heard.start / 48_000 - 1e-4
    assert different.max() <= heard.stop / 48_000 + 1e-4


def test_a_retake_to_the_end_keeps_a_sound_that_goes_on(stage: Engine) -> None:
    clip = odd_film(20, 2.0)
    done = finished(stage, source=ss.Source(clip, regenerate=[ss.Span(0.7, 9.0)]))
    assert done.clip.frames.shape[0] == 20
    assert np.array_equal(done.clip.waveform[:, 60_000:], clip.waveform[:, 60_000:])
    assert not np.array_equal(done.clip.waveform[:, 36_000:40_000], clip.waveform[:, 36_000:40_000])


def test_an_extension_keeps_every_frame_of_an_odd_clip(stage: Engine) -> None:
    clip = film(20)
    after = finished(stage, source=ss.Source(clip, extend_after_s=0.3, feather_s=0))
    assert after.clip.frames.shape[0] == 20 + 8
    assert np.array_equal(after.clip.frames[:9], clip.frames[:9])
    assert np.array_equal(after.clip.frames[9:17], clip.frames[9:17])
    before = finished(stage, source=ss.Source(clip, extend_before_s=0.3, feather_s=0))
    assert before.clip.frames.shape[0] == 8 + 20
    assert np.array_equal(before.clip.frames[-17:], clip.frames[-17:])


def test_upscaling_and_restyling_keep_the_count(stage: Engine) -> None:
    clip = film(12)
    source = ss.Source(clip, modalities={"video"})
    _, large = run(stage, recipe="upscale", size=None, num_frames=None, source=source)
    assert large.clip.frames.shape == (12, 128, 128, 3)
    assert np.array_equal(large.clip.waveform, clip.waveform)
    again = finished(stage, source=ss.Source(clip, denoise=0.5))
    assert again.clip.frames.shape[0] == 12


def test_a_length_that_is_all_of_the_source_is_all_of_it(stage: Engine) -> None:
    clip = film(24)
    for asked in ({"num_frames": 24}, {"duration_s": 1.0}):
        done = finished(stage, source=ss.Source(clip, regenerate=[ss.Span(0.0, 0.1)]), **asked)
        assert done.clip.frames.shape[0] == 24


# --- what the streams read and hear -----------------------------------------------------------------------


def test_beside_a_driving_sound_the_negative_pass_reads_the_prompt_in_the_audio_stream(stage: Engine) -> None:
    """The stream has no negative text of its own. Source: docs/model/sampling.md, "Guidance"."""
    asked = {**UNGUIDED, "guidance": 3, "audio": ss.Audio(film(9).waveform), "num_frames": 9}
    plan = stage.plan(ss.Request(prompt="a red ball", **asked))
    assert plan.passes[0].kinds == ("cond", "uncond")

    def made(audio_negative: str | None) -> Tensor:
        *_, done = stage.run(replace(plan, audio_negative=audio_negative))
        return done.video_latents

    assert torch.equal(made(plan.audio_negative), made("a red ball"))
    assert not torch.equal(made(plan.audio_negative), made(plan.video_negative))


def test_a_dub_encodes_the_speaker_to_the_end(stage: Engine) -> None:
    """Twelve seconds that differ in the last two are two voices to a dub, and one to an identity."""
    rng = np.random.default_rng(2)
    long = rng.uniform(-0.5, 0.5, (2, 12 * 48_000)).astype(np.float32)
    other = long.copy()
    other[:, 11 * 48_000 :] *= 0.1
    clip = film(9, size=128)

    def voice(sound: np.ndarray, recipe: str) -> Tensor:
        request = ss.Request(
            prompt="a", recipe=recipe, references=[ss.Reference(clip)], audio=ss.Audio(sound, "identity")
        )
        plan = stage.plan(request)
        return EncodedInputs(plan, stage._parts, EncodingCache()).identity(plan.passes[0])

    assert voice(long, "dub").shape[2] == 300
    assert voice(long, "single").shape[2] == 250
    assert not torch.equal(voice(long, "dub"), voice(other, "dub"))
    assert torch.equal(voice(long, "single"), voice(other, "single"))


def test_a_strided_reference_reads_its_last_frame(stage: Engine) -> None:
    """Of 16 frames by 2: frames 0, 1, 3, ... 15."""
    clip = film(16, silent=True)
    reference = ss.Reference(clip, temporal=2)
    plan = stage.plan(ss.Request(prompt="a", num_frames=17, references=[reference], **UNGUIDED))
    (condition,) = plan.passes[0].conditions
    inputs = EncodedInputs(plan, stage._parts, EncodingCache())
    wanted = encoded(stage, clip.frames[[0, *range(1, 16, 2)]])
    assert torch.equal(inputs.condition(condition, plan.passes[0]), wanted)


def test_a_clip_of_odd_sides_keeps_every_pixel(stage: Engine) -> None:
    """136x50 is none of whole cells: 160x64 are made, and cut back."""
    frames = np.stack([picture(i // 3, 50, 136) for i in range(12)])
    clip = ss.Clip(frames, film(12).waveform, FPS, {})
    voiced = finished(stage, source=ss.Source(clip, modalities={"audio"}))
    assert np.array_equal(voiced.clip.frames, frames)
    again = finished(stage, source=ss.Source(clip, regenerate=[ss.Span(0.42, 0.5)]))
    assert again.video_latents.shape[3:] == (2, 5)
    assert again.clip.frames.shape == frames.shape
    assert np.array_equal(again.clip.frames[:6], frames[:6])
    assert not np.array_equal(again.clip.frames[10:], frames[10:])
    mask = np.zeros((50, 136, 3), np.uint8)
    mask[:, :8] = 255
    painted = finished(stage, source=ss.Source(clip, mask=mask))
    assert np.array_equal(painted.clip.frames[:, :, 112:], frames[:, :, 112:])
    assert not np.array_equal(painted.clip.frames[:, :, :8], frames[:, :, :8])
    large = {"recipe": "upscale", "size": None, "num_frames": None}
    _, done = run(stage, **large, source=ss.Source(clip, modalities={"video"}))
    assert done.clip.frames.shape == (12, 100, 272, 3)
    asked = finished(stage, size=(64, 64), source=ss.Source(clip, modalities={"audio"}))
    assert asked.clip.frames.shape == (12, 64, 64, 3)
