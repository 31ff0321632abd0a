"""Film without an end: chunks of their own and chunks that go on, prompts changed on the way, pacing."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from soundstage.continuous import Chunk, Continuous, Pacer
from soundstage.engine import Engine
from soundstage.errors import RequestError
from soundstage.library.model_files import find_model
from soundstage.planning.windows import endless_windows
from soundstage.rendering.events import Done
from soundstage.rendering.seams import first_sample
from soundstage.rendering.windows import WINDOW_SEAM_SAMPLES, Joint
from soundstage.request.inputs import Audio
from soundstage.request.request import Request
from soundstage.request.take import Take
from tests.tiny_model import QuickSound, write_tiny_model

PLAIN = {"size": (32, 32), "steps": 1, "guidance": 1, "stg": 0, "modality_guidance": 1, "seed": 5}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    model = find_model(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))
    return Engine(model, parts=QuickSound(model, torch.device("cpu"), torch.float32))


def request(num_frames: int = 25, **fields: object) -> Request:
    return Request(**{"prompt": "a red ball", "num_frames": num_frames, "fps": 50.0, **PLAIN, **fields})


def take(film: Continuous, count: int) -> list[Chunk]:
    return list(itertools.islice(film, count))


def test_chunks_of_their_own_are_the_clips_of_their_seeds(stage: Engine) -> None:
    film = Continuous(stage, request(9), randomize_seed=True, rng=random.Random(0))
    chunks = take(film, 2)
    assert chunks[0].seed != chunks[1].seed
    assert [c.start_s for c in chunks] == [0.0, 9 / 50]
    for chunk in chunks:
        alone = stage.generate(request(9, seed=chunk.seed))
        assert np.array_equal(chunk.clip.frames, alone.frames)
        assert chunk.clip.waveform.shape == (2, round(9 / 50 * 48_000))
    fixed = take(Continuous(stage, request(9)), 2)
    assert np.array_equal(fixed[0].clip.frames, fixed[1].clip.frames)


def test_chunks_that_go_on_are_the_windows_of_the_take(stage: Engine) -> None:
    options = Take(window_frames=25, overlap_frames=16)
    chunks = take(Continuous(stage, request(take=options), continues=True), 3)
    *_, whole = stage.run(request(57, take=options))
    assert isinstance(whole, Done)
    assert [c.seed for c in chunks] == [5, 7, 9]
    assert [len(c.clip.frames) for c in chunks] == [25, 16, 16]
    assert [round(c.start_s * 50) for c in chunks] == [0, 25, 41]
    assert np.array_equal(chunks[0].clip.frames, stage.generate(request()).frames)
    sound = np.concatenate([c.clip.waveform for c in chunks], axis=1)
    assert np.allclose(sound, whole.clip.waveform[:, : sound.shape[1]], atol=1e-6)
    assert sound.shape[1] == 480 * (4 * whole.audio_latents.shape[2] - 3) - WINDOW_SEAM_SAMPLES


def test_sound_follows_sound_sample_by_sample() -> None:
    """Windows whose samples are their own number in the film: none is lost, doubled or moved."""
    options = Take(window_frames=25, overlap_frames=16)
    joint, pieces, at = Joint(options), [], []
    for window in itertools.islice(endless_windows(25, 24.0, options), 50):
        stop = first_sample(window.audio_stop)
        count = first_sample(window.audio_stop - window.audio_start)
        numbers = np.arange(stop - count, stop, dtype=np.float32)
        _, sound, begin = joint.new_part(window, {}, None, np.stack([numbers, numbers]))
        pieces.append(sound[0])
        at.append(begin)
    film = np.concatenate(pieces)
    assert np.allclose(film, np.arange(len(film)), atol=0.5)
    assert at == np.cumsum([0] + [len(piece) for piece in pieces[:-1]]).tolist()


def test_a_new_prompt_holds_from_the_next_chunk_on(stage: Engine) -> None:
    film = Continuous(stage, request(9))
    chunks = iter(film)
    first = next(chunks)
    film.prompt = "a blue cube"
    second = next(chunks)
    assert (first.clip.request.prompt, second.clip.request.prompt) == ("a red ball", "a blue cube")
    with pytest.raises(RequestError, match="prompt is empty"):
        film.prompt = " "
    assert film.prompt == "a blue cube"


def test_what_makes_no_chunk_is_refused(stage: Engine) -> None:
    with pytest.raises(RequestError, match="makes at most 20 s at once"):
        Continuous(stage, request(2001))
    tone = np.zeros((2, 48_000), np.float32)
    with pytest.raises(RequestError, match="leave out the driving sound"):
        Continuous(stage, request(audio=Audio(tone)), continues=True)


class Wall:
    """A clock that a test turns, and that sleeping turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_pacing_lets_it_run_ahead_by_the_slack_and_no_further() -> None:
    wall = Wall()
    pacer = Pacer(0.5, clock=lambda: wall.now, sleep=wall.sleep)
    assert pacer.wait(2.0) == 0  # sets the anchor
    wall.now += 2.0
    assert pacer.wait(5.0) == 0  # 3 s of film in 2 s: just within the slack
    wall.now += 1.0
    assert pacer.wait(8.0) == pytest.approx(3.0)  # 6 s of film in 3 s
    wall.now += 2.0
    assert pacer.wait(10.0) == 0  # counted anew
    pacer.forget()
    assert pacer.wait(100.0) == 0
    assert Pacer(0).wait(1e9) == 0
    with pytest.raises(RequestError, match="slack is -1"):
        Pacer(-1)


def test_a_film_waits_between_its_chunks_and_not_after_a_new_prompt(stage: Engine, tmp_path: Path) -> None:
    wall = Wall()
    film = Continuous(stage, request(9), pacer=Pacer(0.5, clock=lambda: wall.now, sleep=wall.sleep))
    chunks = iter(film)
    for _ in range(3):
        next(chunks)
    assert wall.now == pytest.approx(100 + 9 / 50)  # the first sets the anchor, the second waits
    film.prompt = "a blue cube"
    next(chunks)
    assert wall.now == pytest.approx(100 + 9 / 50)
