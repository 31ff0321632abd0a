"""Long takes through the one engine, on a tiny model: plans, resumption, what windows are asked for."""

import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from soundstage.engine import Engine
from soundstage.errors import RequestError
from soundstage.library.model_files import ModelSet, find_model
from soundstage.planning.long_take import plan_request, window_request
from soundstage.planning.windows import cut_take
from soundstage.prompts.timeline import Relay, parse_timeline
from soundstage.rendering.decode import finished_frames
from soundstage.rendering.encoded_inputs import EncodedInputs
from soundstage.rendering.encoding_cache import EncodingCache
from soundstage.rendering.events import Done, Phase, Step
from soundstage.request.defaults import Defaults
from soundstage.request.inputs import Audio, Guide, Lora, Span
from soundstage.request.request import Request
from soundstage.request.take import Take
from tests.tiny_model import QuickSound, write_tiny_model

FRAMES, FPS = 57, 50.0
TAKE = Take(window_frames=25, overlap_frames=16)
SHORT = {
    "size": (32, 32),
    "num_frames": FRAMES,
    "fps": FPS,
    "steps": 1,
    "guidance": 1,
    "stg": 0,
    "modality_guidance": 1,
    "seed": 5,
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    model = find_model(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))
    return Engine(model, parts=QuickSound(model, torch.device("cpu"), torch.float32))


def finished(stage: Engine, request: Request) -> Done:
    *_, done = stage.run(request)
    assert isinstance(done, Done)
    return done


def request(**fields: object) -> Request:
    return Request(**{"prompt": "a red ball | a blue cube", "take": TAKE, **SHORT, **fields})


@pytest.fixture(scope="module")
def whole(stage: Engine) -> Done:
    return finished(stage, request())


def test_the_plan_shows_the_windows(stage: Engine) -> None:
    plan = stage.plan(request())
    assert [(w.start, w.stop) for w in plan.windows] == [(0, 4), (2, 6), (4, 8)]
    assert plan.num_frames == FRAMES
    assert plan.num_forwards == sum(clip.num_forwards for clip in plan.clips) == 3
    assert "window 2" in str(plan)
    assert len(json.loads(plan.to_json())["windows"]) == 3
    assert [clip.request.prompt for clip in plan.clips][::2] == ["a red ball", "a blue cube"]


def test_a_take_has_every_frame_and_the_sound_of_its_length(whole: Done) -> None:
    clip = whole.clip
    assert clip.frames is not None
    assert clip.waveform is not None
    assert clip.frames.shape == (FRAMES, 32, 32, 3)
    assert whole.video_latents.shape == (1, 128, 8, 1, 1)
    assert whole.audio_latents.shape == (1, 8, 28, 16)
    assert clip.waveform.shape == (2, round(FRAMES / clip.fps * 48_000))
    assert len(clip.provenance["windows"]) == 3


def test_the_first_window_is_the_clip_of_its_own_request(stage: Engine, whole: Done) -> None:
    plan = stage.plan(request())
    first = finished(stage, plan.clips[0].request)
    begins_next = plan.windows[1].start
    assert torch.equal(first.video_latents[:, :, :begins_next], whole.video_latents[:, :, :begins_next])
    sound_next = plan.windows[1].audio_start
    assert torch.equal(first.audio_latents[:, :, :sound_next], whole.audio_latents[:, :, :sound_next])


def test_windows_go_on_from_each_other_without_a_seam(stage: Engine, whole: Done, tmp_path: Path) -> None:
    """At strength 1 both windows hold the same latents where they overlap, so nothing is mixed."""
    folder = tmp_path / "take"
    from safetensors.torch import load_file

    take = Take(window_frames=25, overlap_frames=16, folder=str(folder))
    done = finished(stage, request(take=take))
    assert torch.equal(done.video_latents, whole.video_latents)
    windows = stage.plan(request()).windows
    stored = [load_file(folder / f"window-{w.index:03d}.safetensors") for w in windows]
    for w, before, after in zip(windows[1:], stored, stored[1:], strict=False):
        video, sound = w.overlap, w.audio_overlap
        assert torch.equal(before["denoise.video"][:, :, -video:], after["denoise.video"][:, :, :video])
        assert torch.equal(before["denoise.audio"][:, :, -sound:], after["denoise.audio"][:, :, :sound])


@pytest.mark.parametrize("stop_at", ["load", "window 1 of 3", "window 2 of 3", "window 3 of 3", "decode"])
def test_a_take_stopped_in_any_window_goes_on_to_the_same_bits(
    stage: Engine, whole: Done, tmp_path: Path, stop_at: str
) -> None:
    asked = request(take=Take(window_frames=25, overlap_frames=16, folder=str(tmp_path / "take")))
    events = stage.run(asked)
    for event in events:
        if isinstance(event, Phase) and event.name.startswith(stop_at):
            break
    events.close()
    rest = list(stage.run(asked))
    begun = [event.name for event in rest if isinstance(event, Phase)]
    done = rest[-1]
    assert isinstance(done, Done)
    made = {"load": 3, "window 1 of 3": 3, "window 2 of 3": 2, "window 3 of 3": 1, "decode": 0}[stop_at]
    assert sum(name.startswith("window") for name in begun) == made
    assert sum(isinstance(e, Step) for e in rest) == made
    assert torch.equal(done.video_latents, whole.video_latents)
    assert torch.equal(done.audio_latents, whole.audio_latents)
    assert np.array_equal(done.clip.frames, whole.clip.frames)


def test_a_folder_serves_one_request_only(stage: Engine, tmp_path: Path) -> None:
    take = Take(window_frames=25, overlap_frames=16, folder=str(tmp_path / "take"))
    events = stage.run(request(take=take))
    assert [next(events).name for _ in range(2)] == ["load", "window 1 of 3"]
    events.close()
    with pytest.raises(RequestError, match="holds the windows of another take"):
        finished(stage, request(take=take, seed=6))


def test_the_reference_adain_and_color_each_change_the_take(stage: Engine, whole: Done) -> None:
    base = {"window_frames": 25, "overlap_frames": 16}
    for fields in ({"reference": 0.0}, {"adain": 0.5}, {"strength": 0.5}):
        done = finished(stage, request(take=Take(**base, **fields)))
        assert torch.equal(done.video_latents[:, :, :2], whole.video_latents[:, :, :2])
        assert not torch.equal(done.video_latents, whole.video_latents)
    colored = finished(stage, request(take=Take(**base, color=1.0)))
    assert torch.equal(colored.video_latents, whole.video_latents)
    assert np.array_equal(colored.clip.frames[:25], whole.clip.frames[:25])
    assert not np.array_equal(colored.clip.frames, whole.clip.frames)


def test_one_modality_alone(stage: Engine, whole: Done) -> None:
    silent = finished(stage, request(modalities={"video"}))
    assert silent.clip.waveform is None
    assert silent.clip.frames is not None
    sound = finished(stage, request(modalities={"audio"}, size=None))
    assert sound.audio_latents.shape == whole.audio_latents.shape


def test_a_driving_sound_is_heard_as_it_came_and_leads_every_window(stage: Engine) -> None:
    tone = (0.1 * np.sin(np.arange(160_000) / 20)).astype(np.float32)
    done = finished(stage, request(audio=Audio(np.stack([tone, tone]), mode="driving")))
    assert np.array_equal(done.clip.waveform[0], tone[: done.clip.waveform.shape[1]])
    assert done.clip.waveform.shape[1] == round(FRAMES / FPS * 48_000)
    plan = stage.plan(request(audio=Audio(np.stack([tone, tone]), mode="driving")))
    starts = [clip.request.audio.start_s for clip in plan.clips]
    assert starts == [w.audio_start / 25 for w in plan.windows]


def planned(**fields: object) -> object:
    return plan_request(Request(**{"prompt": "a", **fields}), ModelSet("test", Path("nowhere"), Defaults()))


def test_a_clip_longer_than_the_model_makes_is_a_take_and_two_minutes_are_the_limit() -> None:
    assert planned(duration_s=20).windows == ()
    assert planned(duration_s=20).num_frames == 481
    plan = planned(duration_s=60)
    assert len(plan.windows) > 10
    assert plan.num_frames == 1441
    assert planned(duration_s=120).windows[-1].end_s == pytest.approx(2881 / 24)
    assert planned(num_frames=241, take=Take()).windows[0].num_frames <= 121
    with pytest.raises(RequestError, match="would last 130 s; the longest take is 120 s"):
        planned(duration_s=130)


def test_what_windows_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="recipe 'smooth' changes the frame rate"):
        planned(duration_s=60, recipe="smooth")
    with pytest.raises(RequestError, match=r"recipe is 'slow'; .* size is '999p'"):
        planned(duration_s=60, recipe="slow", size="999p")
    with pytest.raises(RequestError, match=r"longest take is 120 s, so .*; size is '999p'"):
        planned(duration_s=130, size="999p")
    with pytest.raises(RequestError, match=r"guides\[0\] is at 70 s, but the clip ends at 60\.04 s"):
        planned(duration_s=60, guides=[Guide(np.zeros((64, 64, 3), np.uint8), at=70)])
    with pytest.raises(RequestError, match=r"loras\[0\] begins at 61 s"):
        planned(duration_s=60, loras=[Lora("a.safetensors", span=Span(61, 62))])
    with pytest.raises(RequestError, match="cannot see references"):
        planned(duration_s=60, references=[{"video": np.zeros((9, 64, 64, 3), np.uint8)}])


def test_guides_and_loras_go_to_the_windows_they_fall_in() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    asked = request(
        guides=[Guide(picture), Guide(picture, at=0.7), Guide(picture, at="last"), Guide(picture, frame=-9)],
        loras=[Lora("a.safetensors"), Lora("b.safetensors", span=Span(0.0, 0.3))],
    )
    windows = cut_take(TAKE, FRAMES, FPS, 121)
    timeline = parse_timeline("a", num_frames=FRAMES, fps=FPS)
    asks = [window_request(asked, w, windows, timeline) for w in windows]
    places = [(w.index, g.at, g.frame) for w, ask in zip(windows, asks, strict=True) for g in ask.guides]
    assert places == [
        (0, None, 0),
        (1, None, 35 - windows[1].offset_frames),
        (2, "last", None),
        (2, None, 48 - windows[2].offset_frames),
    ]
    assert [[lora.path[0] for lora in ask.loras] for ask in asks] == [["a", "b"], ["a"], ["a"]]
    assert [ask.seed for ask in asks] == [5 + w.start for w in windows]


class Pieces(QuickSound):
    """Decodes to pieces of one frame and counts how many of them are alive."""

    def decode_pieces(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        self.most_alive, alive = 0, weakref.WeakSet()
        count = 8 * (latents.shape[2] - 1) + 1
        for i in range(count):
            piece = torch.full((1, 3, 1, 32, 32), i / count)
            alive.add(piece)
            self.most_alive = max(self.most_alive, len(alive))
            yield piece
            del piece


@pytest.mark.parametrize("latent_frames", [4, 40])
def test_decoding_holds_pieces_not_the_take_and_large_films_lie_on_disk(
    stage: Engine, monkeypatch: pytest.MonkeyPatch, latent_frames: int
) -> None:
    parts = Pieces(stage.model, torch.device("cpu"), torch.float32)
    latents = torch.zeros(1, 128, latent_frames, 1, 1)
    plan = stage.plan(request(take=None, num_frames=9))
    frames = finished_frames(plan, parts, EncodedInputs(plan, parts, EncodingCache()), latents).frames
    assert len(frames) == 8 * (latent_frames - 1) + 1
    assert parts.most_alive <= 2
    monkeypatch.setattr("soundstage.rendering.decode.MAX_BYTES_IN_MEMORY", 0)
    on_disk = finished_frames(plan, parts, EncodedInputs(plan, parts, EncodingCache()), latents).frames
    assert isinstance(on_disk.base if on_disk.base is not None else on_disk, np.memmap)
    assert np.array_equal(on_disk, frames)


def test_the_command_line_fills_take_relay_and_lengths() -> None:
    from soundstage.cli.request_fields import request_fields

    words = {
        "take": ["adain=0.2", "window-frames=97", "folder=a=b"],
        "relay": ["epsilon=0.5"],
        "lengths": "2,1",
    }
    asked = Request(prompt="a | b", **request_fields(words))
    assert asked.take == Take(adain=0.2, window_frames=97, folder="a=b")
    assert asked.relay == Relay(epsilon=0.5)
    assert asked.lengths == (2, 1)
    assert Request.from_json(asked.to_json()) == asked
    with pytest.raises(RequestError, match=r"take\.adin"):
        Request(prompt="a", **request_fields({"take": ["adin=0.2"]}))


RECIPE = """
name: two
summary: two passes at the final size, the sound of the first kept
passes:
  - {name: draft, sigmas: [1, 0]}
  - {name: refine, start: previous, sigmas: [0.5, 0], freeze: [audio]}
audio_from: draft
"""


def test_every_pass_of_a_recipe_goes_on_from_its_own(stage: Engine, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    recipe = tmp_path / "two.yaml"
    recipe.write_text(RECIPE)
    take = Take(window_frames=25, overlap_frames=16, folder=str(tmp_path / "take"))
    done = finished(stage, request(recipe=str(recipe), steps=None, take=take))
    windows = stage.plan(request()).windows
    stored = [load_file(tmp_path / "take" / f"window-{w.index:03d}.safetensors") for w in windows]
    assert set(stored[0]) == {"draft.video", "draft.audio", "refine.video", "refine.audio"}
    for w, before, after in zip(windows[1:], stored, stored[1:], strict=False):
        for name in ("draft.video", "refine.video"):
            assert torch.equal(before[name][:, :, -w.overlap :], after[name][:, :, : w.overlap])
        assert torch.equal(after["refine.audio"], after["draft.audio"])
    assert not torch.equal(stored[0]["draft.video"], stored[0]["refine.video"])
    assert torch.equal(done.video_latents[:, :, :4], stored[0]["refine.video"])
    assert done.audio_latents.shape == (1, 8, 28, 16)


def test_a_thinned_take_counts_guides_in_the_frames_it_shows(stage: Engine) -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    asked = request(
        num_frames=29, fps=25.0, thin=2, modalities={"video"}, guides=[Guide(picture, frame=20, crf=0)]
    )
    plan = stage.plan(asked)
    (home,) = [w for w, clip in zip(plan.windows, plan.clips, strict=True) if clip.request.guides]
    assert home.offset_frames + plan.clips[home.index].request.guides[0].frame == 40
    done = finished(stage, asked)
    assert done.clip.frames.shape[0] == 29
    assert done.clip.fps == 25
