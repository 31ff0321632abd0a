"""Long takes: where windows lie, what they hand on, how they are joined, kept and resumed."""

import itertools
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from soundstage.conditioning.positions import audio_positions, video_positions
from soundstage.errors import RequestError, WeightsError
from soundstage.planning.windows import Window, cut_take, latent_of, plan_windows, window_seed
from soundstage.rendering.color import ColorMatch, from_lab, to_lab
from soundstage.rendering.seams import (
    adain,
    continued_audio,
    continued_video,
    fade,
    joined,
)
from soundstage.rendering.window_store import WindowStore
from soundstage.rendering.windows import Handover, PassLatents, assembled, made_windows
from soundstage.request.take import Take
from soundstage.sampling.streams import Stream
from soundstage.types import audio_latent_length

FPS = 24.0


def windows_of(latents: int, window: int, overlap: int, fps: float = FPS) -> tuple[Window, ...]:
    return plan_windows(8 * (latents - 1) + 1, fps, window=window, overlap=overlap)


def spans(windows: tuple[Window, ...]) -> list[tuple[int, int]]:
    return [(w.start, w.stop) for w in windows]


def test_windows_cover_the_take_evenly_and_a_short_clip_is_one() -> None:
    assert spans(windows_of(31, 10, 3)) == [(0, 10), (7, 17), (14, 24), (21, 31)]
    assert spans(windows_of(18, 10, 3)) == [(0, 8), (5, 13), (10, 18)]  # no window of one new frame
    assert spans(windows_of(10, 10, 3)) == [(0, 10)]


@pytest.mark.parametrize("fps", [24.0, 25.0, 23.976, 30.0, 48.0])
@pytest.mark.parametrize(("latents", "window", "overlap"), [(361, 16, 4), (100, 7, 2), (61, 31, 8)])
def test_every_latent_of_picture_and_sound_has_one_place(
    fps: float, latents: int, window: int, overlap: int
) -> None:
    windows = windows_of(latents, window, overlap, fps)
    frames = 8 * (latents - 1) + 1
    assert windows[0].start == windows[0].audio_start == windows[0].audio_shift_s == 0
    assert windows[-1].stop == latents
    assert windows[-1].audio_stop == audio_latent_length(frames, fps)
    for before, after in itertools.pairwise(windows):
        assert before.stop - after.start == overlap == after.overlap
        assert before.audio_stop - after.audio_start == after.audio_overlap > 0
        assert after.audio_stop > before.audio_stop
    for w in windows:
        assert w.stop - w.start <= window
        assert w.audio_stop - w.audio_start == audio_latent_length(w.num_frames, fps)
        assert abs(w.audio_shift_s) <= 0.06
        assert np.isclose(w.end_s, (8 * (w.stop - 1) + 1) / fps)
    owners = [[w.index for w in windows if w.owns_frame(f)] for f in range(frames)]
    assert all(len(owner) == 1 for owner in owners)


def test_a_frame_belongs_to_its_latent() -> None:
    assert [latent_of(frame) for frame in (0, 1, 8, 9, 16, 17)] == [0, 1, 1, 2, 2, 3]


def test_seeds_differ_and_the_first_is_the_requests() -> None:
    seeds = [window_seed(7, w) for w in windows_of(31, 10, 3)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 4
    assert window_seed(2**63 - 1, windows_of(31, 10, 3)[1]) == 6


def test_bad_takes_are_refused() -> None:
    for fields, message in (
        ({"strength": 2.0}, "strength is 2; give a number from 0 to 1"),
        ({"window_frames": 20}, "window_frames is 20; give 8k"),
        ({"overlap_frames": 12}, "overlap_frames is 12; give a whole number of frames"),
    ):
        with pytest.raises(RequestError, match=message):
            Take(**fields)
    with pytest.raises(RequestError, match="windows of 25 frames cannot overlap by 24"):
        cut_take(Take(window_frames=25, overlap_frames=24), 241, FPS, 121)
    with pytest.raises(RequestError, match="16 frames at 240 fps is too short for sound"):
        windows_of(100, 7, 2, fps=240.0)
    assert spans(cut_take(Take(), 241, FPS, 121)) == [(0, 13), (9, 22), (18, 31)]


def test_a_window_stands_in_time_where_it_stands_in_the_take() -> None:
    take_video, take_audio = video_positions(31, 1, 2, FPS), audio_positions(251)
    for w in windows_of(31, 10, 3)[1:]:
        before = torch.zeros(1, 128, 10, 1, 2)
        stream = Stream.fresh(video_positions(w.stop - w.start, 1, 2, FPS), width=128, dtype=torch.float32)
        video = continued_video(stream, w, before, None, strength=1, reference=0)
        moved = video.positions.clone()
        moved[:, 0] += w.offset_s
        assert torch.allclose(moved, take_video[:, :, 2 * w.start : 2 * w.stop], atol=1e-5)
        sound = Stream.fresh(audio_positions(w.audio_stop - w.audio_start), width=128, dtype=torch.float32)
        before = torch.zeros(1, 8, w.audio_overlap, 16)
        audio = continued_audio(sound, w, before, strength=1)
        in_take = take_audio[:, :, w.audio_start : w.audio_stop]
        assert torch.allclose(audio.positions[:, :, 1:] + w.offset_s, in_take[:, :, 1:], atol=1e-5)


def test_what_the_window_before_made_is_given_and_kept() -> None:
    w = windows_of(31, 10, 3)[1]
    before, first = torch.randn(1, 128, 10, 1, 2), torch.randn(1, 128, 1, 1, 2)
    fresh = Stream.fresh(video_positions(10, 1, 2, FPS), width=128, dtype=torch.float32)
    video = continued_video(fresh, w, before, first, strength=1, reference=0.75)
    noised = video.noised(torch.randn_like(video.clean), 1.0)
    assert torch.equal(noised[:, :6].transpose(1, 2).reshape(1, 128, 3, 1, 2), before[:, :, 7:])
    assert video.mask[0, :, 0].tolist() == [0.0] * 6 + [1.0] * 14 + [0.25] * 2
    assert torch.equal(video.clean[:, 20:], first.flatten(2).transpose(1, 2))
    assert torch.allclose(video.positions[0, 0, 20], torch.tensor([-8 / FPS, -7 / FPS]))
    sound = Stream.fresh(audio_positions(w.audio_stop - w.audio_start), width=128, dtype=torch.float32)
    before = torch.randn(1, 8, 90, 16)
    audio = continued_audio(sound, w, before, strength=0.5)
    given = before[:, :, -w.audio_overlap :].permute(0, 2, 1, 3).reshape(1, -1, 128)
    assert torch.equal(audio.clean[:, : w.audio_overlap], given)
    assert audio.mask[0, :, 0].unique(return_counts=True)[1].tolist()[0] == w.audio_overlap
    frozen = replace(sound, frozen=True)
    assert torch.equal(continued_audio(frozen, w, before, strength=1).clean, frozen.clean)


def test_joined_windows_are_the_take_they_were_cut_from() -> None:
    """Synthetic latents that count: none is lost, doubled or moved, in either stream."""
    windows = windows_of(100, 7, 2)
    take = {"video": torch.arange(100.0), "audio": torch.arange(float(windows[-1].audio_stop))}
    for name, start, stop, overlap in (
        ("video", "start", "stop", "overlap"),
        ("audio", "audio_start", "audio_stop", "audio_overlap"),
    ):
        whole = take[name].view(1, 1, -1, 1)
        parts = ((getattr(w, overlap), whole[:, :, getattr(w, start) : getattr(w, stop)]) for w in windows)
        assert torch.equal(torch.cat(list(joined(parts)), dim=2), whole)


def test_an_overlap_that_differs_is_crossfaded() -> None:
    old, new = torch.zeros(1, 1, 5, 1), torch.ones(1, 1, 6, 1)
    made = torch.cat(list(joined(iter([(0, old), (3, new)]))), dim=2)
    assert made.flatten().tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert fade(1).tolist() == [0.5]


def test_adain_moves_mean_and_deviation_part_of_the_way() -> None:
    torch.manual_seed(0)
    x, like = torch.randn(1, 4, 3, 2, 2) * 2 + 1, torch.randn(1, 4, 5, 2, 2)
    assert adain(x, like, 0.0) is x
    whole = adain(x, like, 1.0)
    assert torch.allclose(whole.flatten(2).mean(2), like.flatten(2).mean(2), atol=1e-5)
    assert torch.allclose(whole.flatten(2).std(2), like.flatten(2).std(2), atol=1e-5)
    assert torch.allclose(adain(x, like, 0.5), (x + whole) / 2, atol=1e-5)


def counting(made: list[int]) -> object:
    """A maker whose windows depend on their seeds and on what they were given."""

    def make(window: Window, handover: Handover | None) -> Generator[str, None, PassLatents]:
        made.append(window.index)
        generator = torch.Generator().manual_seed(window_seed(3, window))
        video = torch.randn(1, 4, window.stop - window.start, 1, 1, generator=generator)
        audio = torch.randn(1, 2, window.audio_stop - window.audio_start, 2, generator=generator)
        yield f"begin {window.index}"
        if handover is not None:
            video[:, :, : window.overlap] = handover.before["p.video"][:, :, -window.overlap :]
            video += handover.before["p.video"].mean()
            audio += handover.before["p.audio"].mean()
        yield f"end {window.index}"
        return {"p.video": video.bfloat16(), "p.audio": audio}

    return make


@pytest.mark.parametrize("stop_after", range(8))
def test_a_take_stopped_anywhere_goes_on_to_the_same_bits(tmp_path: Path, stop_after: int) -> None:
    windows, take, facts = windows_of(31, 10, 3), Take(adain=0.2), {"request": "a"}
    whole = WindowStore(None, facts)
    assert len(list(made_windows(windows, take, whole, counting([])))) == 8
    store = WindowStore(tmp_path / "take", facts)
    events = made_windows(windows, take, store, counting([]))
    for _ in range(stop_after):
        next(events)
    events.close()
    made: list[int] = []
    again = WindowStore(tmp_path / "take", facts)
    list(made_windows(windows, take, again, counting(made)))
    # A window is kept when its last event has been taken and the next one asked for.
    assert made == list(range(max(0, stop_after - 1) // 2, 4))
    for name in ("p.video", "p.audio"):
        assert torch.equal(assembled(windows, again, name), assembled(windows, whole, name))
    assert not list((tmp_path / "take").glob(".*"))


def test_a_folder_of_another_take_is_refused(tmp_path: Path) -> None:
    WindowStore(tmp_path / "take", {"request": "a"})
    WindowStore(tmp_path / "take", {"request": "a"})
    with pytest.raises(RequestError, match="holds the windows of another take"):
        WindowStore(tmp_path / "take", {"request": "b"})
    (tmp_path / "take" / "take.json").write_text("[]")
    with pytest.raises(RequestError, match=r"take\.json is not the description of a take"):
        WindowStore(tmp_path / "take", {"request": "a"})


def test_a_damaged_window_is_named(tmp_path: Path) -> None:
    store = WindowStore(tmp_path, {})
    store.save(0, {"p.video": torch.zeros(1)})
    path = tmp_path / "window-000.safetensors"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(WeightsError, match=r"window-000\.safetensors cannot be read .*make the clip again"):
        store.load(0)


def test_lab_is_the_published_one_and_comes_back() -> None:
    rgb = np.array([[255, 255, 255], [255, 0, 0], [0, 0, 255], [10, 10, 10]], dtype=np.uint8)
    expected = [[100, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86], [2.74, 0, 0]]
    assert np.allclose(to_lab(rgb), expected, atol=0.02)
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(from_lab(to_lab(np.stack([every, every[::-1], every], -1)))[:, 0], every)


def test_drift_is_taken_out_and_the_first_window_is_left_as_it_is() -> None:
    generator = np.random.default_rng(0)
    still = generator.integers(60, 160, (16, 16, 3))
    frames = np.stack([np.clip(still + np.array([i // 2, 0, -(i // 3)]), 0, 255) for i in range(60)]).astype(
        np.uint8
    )
    match = ColorMatch(1.0, horizon=10)
    made = np.concatenate([match(frames[i : i + 7]) for i in range(0, 60, 7)])
    assert np.array_equal(made[:10], frames[:10])

    def drift(x: np.ndarray) -> float:
        return float(np.abs(to_lab(x[-1]).mean((0, 1)) - to_lab(x[:10]).mean((0, 1, 2))).max())

    assert drift(made) < 0.35 * drift(frames)
    assert ColorMatch(0.0, 10)(frames) is frames
