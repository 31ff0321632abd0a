"""Handles of queued clips: progress, events, cancel, coroutines; nothing is left running."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import threading
import weakref
from concurrent.futures import CancelledError, Future, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import soundstage as ss
from soundstage.engine import Engine
from soundstage.errors import RequestError
from soundstage.rendering.handle import _KEPT
from soundstage.rendering.progress import ProgressCount
from tests.limits import LONG_S, joined, until

PROMPT = "A red ball bounces."
SMALL: dict[str, Any] = {"num_frames": 9, "steps": 2, "size": (64, 64)}


@pytest.fixture(scope="module")
def stage() -> Engine:
    return ss.load("nano")


class Gate:
    """A progress callable that stops at the first step until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, progress: ss.Progress) -> None:
        if isinstance(progress.event, ss.Step):
            self.reached.set()
            assert self.opened.wait(LONG_S)


@pytest.fixture
def at_work(stage: Engine) -> tuple[ss.Handle, Gate]:
    """A handle whose clip is being made, stopped at its first step."""
    gate = Gate()
    handle = stage.submit(PROMPT, progress=gate, **SMALL)
    assert gate.reached.wait(LONG_S)
    return handle, gate


def sha(clip: ss.Clip) -> Any:
    return clip.provenance["latents_sha256"]


# --- progress --------------------------------------------------------------------------------------------


def test_a_function_is_told_the_progress_of_generate(stage: Engine) -> None:
    seen: list[ss.Progress] = []
    clip = stage.generate(PROMPT, progress=seen.append, **SMALL)
    assert clip.frames is not None
    fractions = [one.fraction for one in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    phases = list(dict.fromkeys(one.phase for one in seen))
    assert phases == ["load", "encode", "denoise", "decode video", "decode audio", "done"]
    assert [(p.step, p.num_steps) for p in seen if isinstance(p.event, ss.Step)] == [(1, 2), (2, 2)]


def test_true_prints_a_line_for_each_phase_where_there_is_no_terminal(
    stage: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.generate(PROMPT, progress=True, **SMALL)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "denoise" in line] == ["denoise ...", "denoise 2/2"]
    stage.generate(PROMPT, progress=False, **SMALL)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("way", ["generate", "submit"])
def test_progress_that_reports_nothing_is_refused(stage: Engine, way: str) -> None:
    with pytest.raises(RequestError, match="progress is 'yes'; give True for bars, or a function"):
        getattr(stage, way)(PROMPT, progress="yes", **SMALL)


def test_a_function_that_raises_ends_the_run_and_frees_the_engine(stage: Engine) -> None:
    def stop(progress: ss.Progress) -> None:
        if progress.step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.generate(PROMPT, progress=stop, **SMALL)
    other = stage.submit(PROMPT, **SMALL)
    assert other.result(LONG_S).frames is not None


def test_passes_count_by_their_tokens_and_windows_by_their_place(stage: Engine) -> None:
    take = ss.Take(window_frames=25, overlap_frames=16)
    plan = stage.plan(ss.Request(prompt=PROMPT, num_frames=57, steps=4, size=(64, 64), take=take))
    count = ProgressCount(plan)
    name = plan.passes[0].name
    second = count.see(ss.Phase(f"window 2 of {len(plan.windows)}"))
    assert (second.window, second.num_windows) == (2, len(plan.windows))
    half = count.see(ss.Step(name, 2, 4, 0.5)).fraction
    assert second.fraction < half
    assert count.see(ss.Phase(f"window 1 of {len(plan.windows)}")).fraction == half  # made again: never falls


# --- results and events ----------------------------------------------------------------------------------


def test_handles_make_in_their_order_what_generate_makes(stage: Engine) -> None:
    order: list[int] = []
    handles = [stage.submit(PROMPT, seed=seed, **SMALL) for seed in range(3)]
    for seed, handle in enumerate(handles):
        handle.add_done_callback(lambda _, seed=seed: order.append(seed))  # type: ignore[misc]
    made = [sha(handle.result(LONG_S)) for handle in handles]
    assert made == [sha(stage.generate(PROMPT, seed=seed, **SMALL)) for seed in range(3)]
    until(lambda: len(order) == 3)
    assert order == [0, 1, 2]
    assert all(handle.done() and not handle.cancelled() for handle in handles)
    assert handles[0].cancel() is False  # it is made
    assert handles[0].result(LONG_S).frames is not None


def test_a_handle_is_one_of_concurrent_futures(stage: Engine) -> None:
    handles = [stage.submit(PROMPT, seed=seed, **SMALL) for seed in range(2)]
    assert {future.result().request.seed for future in as_completed(handles, LONG_S)} == {0, 1}


def test_events_come_from_the_first_on_whenever_they_are_asked(stage: Engine) -> None:
    handle = stage.submit(PROMPT, **SMALL)
    as_made = list(handle)
    assert isinstance(as_made[0], ss.Phase)
    assert isinstance(as_made[-1], ss.Done)
    assert as_made == list(handle)
    assert (handle.progress.fraction, handle.progress.phase) == (1.0, "done")


def test_previews_come_as_they_are_made_and_the_last_stays(stage: Engine) -> None:
    handle = stage.submit(PROMPT, preview_every=1, **SMALL)
    steps = [preview.step for preview in handle.previews]
    assert steps[-1] == 2
    assert handle.preview is not None
    assert handle.preview.frames.dtype == np.uint8
    assert [event.step for event in handle if isinstance(event, ss.Preview)] == [2]  # memory of one only


def test_a_request_that_cannot_be_made_is_refused_at_once(stage: Engine) -> None:
    with pytest.raises(RequestError, match="999p"):
        stage.submit(PROMPT, size="999p")
    with pytest.raises(RequestError, match="preview_every is -1"):
        stage.submit(PROMPT, preview_every=-1)


def test_the_error_of_a_run_is_raised_by_its_result(
    stage: Engine, tmp_path: Path, at_work: tuple[ss.Handle, Gate]
) -> None:
    """The picture is there when the clip is queued, and gone when it is made."""
    _, gate = at_work
    path = tmp_path / "ball.png"
    Image.new("RGB", (64, 64)).save(path)
    handle = stage.submit(PROMPT, guides=[ss.Guide(str(path))], **SMALL)
    path.unlink()
    gate.opened.set()
    with pytest.raises(ss.SoundstageError, match=r"ball\.png"):
        handle.result(LONG_S)
    with pytest.raises(ss.SoundstageError):
        list(handle)
    assert not handle.cancelled()
    assert stage.submit(PROMPT, **SMALL).result(LONG_S).frames is not None


# --- cancel ----------------------------------------------------------------------------------------------


def test_a_result_that_takes_too_long_is_waited_for_again(at_work: tuple[ss.Handle, Gate]) -> None:
    handle, gate = at_work
    with pytest.raises(TimeoutError):
        handle.result(timeout=0.01)
    assert handle.running()
    gate.opened.set()
    assert handle.result(LONG_S).frames is not None


def test_any_thread_cancels_a_clip_that_is_made(stage: Engine, at_work: tuple[ss.Handle, Gate]) -> None:
    handle, gate = at_work
    answers: list[bool] = []
    caller = threading.Thread(target=lambda: answers.append(handle.cancel()))
    caller.start()
    joined(caller)
    assert answers == [True]
    assert not handle.done()  # it stops at its next event
    gate.opened.set()
    with pytest.raises(CancelledError):
        handle.result(LONG_S)
    assert handle.cancelled()
    assert handle.cancel() is True
    assert 0 < handle.progress.fraction < 1
    with pytest.raises(CancelledError):
        list(handle)
    assert stage.generate(PROMPT, **SMALL).frames is not None


def test_a_cancelled_run_is_closed_and_its_memory_given_back(
    stage: Engine, at_work: tuple[ss.Handle, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = at_work[1]
    runs: list[weakref.ref[Any]] = []
    run = Engine.run

    def watched(self: Engine, *args: Any, **options: Any) -> Any:
        made = run(self, *args, **options)
        runs.append(weakref.ref(made))
        return made

    monkeypatch.setattr(Engine, "run", watched)
    second = Gate()
    handle = stage.submit(PROMPT, progress=second, **SMALL)
    gate.opened.set()
    assert second.reached.wait(LONG_S)
    handle.cancel()
    second.opened.set()
    with pytest.raises(CancelledError):
        handle.result(LONG_S)
    gc.collect()
    until(lambda: runs[0]() is None)  # with the generator that held latents and tables


def test_a_queued_clip_is_cancelled_at_once(stage: Engine, at_work: tuple[ss.Handle, Gate]) -> None:
    first, gate = at_work
    queued = stage.submit(PROMPT, **SMALL)
    assert queued.progress.phase == "queued"
    assert queued.cancel() is True
    with pytest.raises(CancelledError):
        queued.result(0)
    with pytest.raises(CancelledError):
        list(queued)
    gate.opened.set()
    assert first.result(LONG_S).frames is not None


def test_finished_windows_of_a_cancelled_take_are_kept(stage: Engine, tmp_path: Path) -> None:
    take = ss.Take(window_frames=25, overlap_frames=16, folder=str(tmp_path / "take"))
    fields: dict[str, Any] = {**SMALL, "num_frames": 41, "modalities": {"video"}, "take": take}
    made: list[ss.Handle] = []

    def stop(progress: ss.Progress) -> None:
        if progress.window == 2 and progress.step == 1:
            made[0].cancel()

    gate = Gate()
    before = stage.submit(PROMPT, progress=gate, **SMALL)
    made.append(stage.submit(PROMPT, progress=stop, **fields))
    gate.opened.set()
    assert before.result(LONG_S)
    with pytest.raises(CancelledError):
        made[0].result(LONG_S)
    windows = [event.name for event in stage.submit(PROMPT, **fields) if isinstance(event, ss.Phase)]
    assert "window 1 of" not in " ".join(windows)
    assert any(name.startswith("window 2 of") for name in windows)


# --- nothing is left running -----------------------------------------------------------------------------


def test_a_handle_that_nobody_holds_is_cancelled(stage: Engine, at_work: tuple[ss.Handle, Gate]) -> None:
    _, gate = at_work
    dropped = weakref.ref(stage.submit(PROMPT, **SMALL))
    gc.collect()
    assert dropped() is None
    gate.opened.set()
    assert stage.submit(PROMPT, **SMALL).result(LONG_S).frames is not None


def test_a_handle_that_calls_somebody_back_needs_no_holder(stage: Engine) -> None:
    called: list[Future[ss.Clip]] = []
    stage.submit(PROMPT, **SMALL).add_done_callback(called.append)
    gc.collect()
    until(lambda: called)
    assert called[0].result(LONG_S).frames is not None
    until(lambda: not _KEPT)


def test_the_thread_ends_with_the_engine() -> None:
    own = ss.load("nano")
    assert own._queue.thread is None  # until the first handle
    handle = own.submit(PROMPT, **SMALL)
    thread, kept = own._queue.thread, weakref.ref(own)
    assert thread is not None
    del own
    assert handle.result(LONG_S).frames is not None  # a handle keeps the engine until it is done
    until(lambda: gc.collect() >= 0 and kept() is None)
    joined(thread)


def test_an_interrupt_while_waiting_cancels_the_clip(stage: Engine) -> None:
    handles: list[ss.Handle] = []
    interrupted = threading.Event()

    def interrupt(progress: ss.Progress) -> None:
        if progress.step == 1:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # as Ctrl-C does
            assert interrupted.wait(LONG_S)

    def wait() -> None:
        handles.append(stage.submit(PROMPT, progress=interrupt, **SMALL))
        handles[0].result(LONG_S)

    # A shell's background job, which the tests may be, ignores interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            wait()
    finally:
        signal.signal(signal.SIGINT, before)
    interrupted.set()
    until(handles[0].cancelled)


def test_a_program_that_ends_takes_its_queued_clips_with_it() -> None:
    code = (
        "import soundstage as ss; stage = ss.load('nano')\n"
        "h = [stage.submit('A red ball.', num_frames=9, size=(64, 64), steps=1000) for _ in range(3)]\n"
        "next(e for e in h[0] if isinstance(e, ss.Step))\n"
        "raise KeyboardInterrupt\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONG_S)
    assert done.returncode != 0
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")


# --- coroutines ------------------------------------------------------------------------------------------


def test_await_gives_the_clip_and_leaves_the_loop_free(
    stage: Engine, at_work: tuple[ss.Handle, Gate]
) -> None:
    handle, gate = at_work
    behind = stage.submit(PROMPT, seed=1, **SMALL)

    async def open_gate() -> None:  # runs only if the loop is free while both handles are awaited
        await asyncio.sleep(0.01)
        gate.opened.set()

    async def main() -> tuple[ss.Clip, ss.Clip, None]:
        return await asyncio.gather(handle, behind, open_gate())

    first, second, _ = asyncio.run(main())
    assert (first.request.prompt, second.request.seed) == (PROMPT, 1)


def test_events_are_iterated_by_coroutines(stage: Engine) -> None:
    async def names() -> list[str]:
        return [type(event).__name__ async for event in stage.submit(PROMPT, **SMALL)]

    async def both() -> tuple[list[str], list[str]]:
        return await asyncio.gather(names(), names())

    one, other = asyncio.run(both())
    assert one == other
    assert (one[0], one[-1]) == ("Phase", "Done")


@pytest.mark.parametrize("way", ["await", "async for"])
def test_a_coroutine_that_is_cancelled_cancels_its_clip(
    stage: Engine, at_work: tuple[ss.Handle, Gate], way: str
) -> None:
    handle, gate = at_work

    async def follow() -> None:
        if way == "await":
            await handle
        else:
            async for _ in handle:
                pass

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(follow(), 0.05)

    asyncio.run(main())
    gate.opened.set()
    with pytest.raises(CancelledError):
        handle.result(LONG_S)
    assert handle.cancelled()
