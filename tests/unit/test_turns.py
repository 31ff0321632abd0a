"""Runs that share an engine: threads and interleaved generators each make the film they make alone."""

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import soundstage as ss
from soundstage.engine import Engine
from soundstage.errors import RequestError
from soundstage.library.model_files import TRANSFORMER, find_model
from soundstage.memory.machine import Machine
from soundstage.planning import placement
from soundstage.rendering import parts as parts_file
from soundstage.rendering.encoding_cache import EncodingCache
from soundstage.rendering.events import Done, Phase, Step
from soundstage.rendering.turns import FairLock
from tests.limits import LONG_S, joined
from tests.tiny_model import HEADS, VIDEO_HEAD, QuickSound, write_text_encoder, write_tiny_model

WIDTH = HEADS * VIDEO_HEAD
BLOCK = "diffusion_model.transformer_blocks.{}.{}"
CONNECTOR = "diffusion_model.video_embeddings_connector.transformer_1d_blocks.0.attn1.to_v"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def write_lora(path: Path, seed: int, *layers: str) -> str:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in layers or (BLOCK.format(0, "attn1.to_q"), BLOCK.format(1, "attn1.to_v")):
        tensors[f"{layer}.lora_A.weight"] = torch.randn(4, WIDTH, generator=generator)
        tensors[f"{layer}.lora_B.weight"] = torch.randn(WIDTH, 4, generator=generator)
    save_file(tensors, path)
    return str(path)


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    place = tmp_path_factory.mktemp("loras")
    return [write_lora(place / f"{seed}.safetensors", seed) for seed in (1, 2)]


class Quick(QuickSound):
    """No vocoder, and a picture that is the latents' mean: decoding takes no time."""

    def decode_pieces(self, latents: Tensor) -> Iterator[Tensor]:
        frames, height, width = latents.shape[2:]
        mean = latents.float().mean(dim=1, keepdim=True).repeat_interleave(8, dim=2)[:, :, 7:]
        yield (
            mean.expand(1, 3, 8 * (frames - 1) + 1, height, width)
            .repeat_interleave(32, 3)
            .repeat_interleave(32, 4)
        )


def stage_of(folder: Path, kind: type[QuickSound] = Quick) -> Engine:
    model = find_model(folder)
    return Engine(model, parts=kind(model, torch.device("cpu"), torch.float32), cache=EncodingCache())


@pytest.fixture(scope="module")
def stage(folder: Path) -> Engine:
    return stage_of(folder)


def requests(loras: list[str]) -> list[ss.Request]:
    """Kinds of run that leave something on the model: LoRAs, for a time, by pass and group; caches; NAG."""
    base: dict[str, Any] = {
        "prompt": "a red ball",
        "steps": 4,
        "guidance": 1,
        "stg": 0,
        "modality_guidance": 1,
    }
    return [
        ss.Request(**base, seed=1),
        ss.Request(**base, seed=2, loras=[ss.Lora(loras[0])]),
        ss.Request(**base, seed=3, loras=[ss.Lora(loras[0], 0.5), ss.Lora(loras[1], groups={"audio": 0.5})]),
        ss.Request(**base, seed=4, num_frames=17, loras=[ss.Lora(loras[1], span=ss.Span(0.1, 0.4))]),
        ss.Request(prompt="a | b", seed=5, steps=4, cache="first-block:0.5"),
        ss.Request(**{**base, "negative_prompt": "blurry"}, seed=6, video_scales={"nag": 5}, sampler="res2s"),
    ]


def same(one: Done, other: Done) -> bool:
    pairs = [(one.video_latents, other.video_latents), (one.audio_latents, other.audio_latents)]
    return all(a is not None and b is not None and torch.equal(a, b) for a, b in pairs)


def finished(events: Iterator[Any]) -> Done:
    *_, done = events
    assert isinstance(done, Done)
    return done


@pytest.fixture(scope="module")
def alone(folder: Path, loras: list[str]) -> list[Done]:
    """What each request makes in an engine of its own."""
    return [finished(stage_of(folder).run(request)) for request in requests(loras)]


def test_interleaved_generators_make_what_each_makes_alone(
    stage: Engine, loras: list[str], alone: list[Done]
) -> None:
    runs = {number: stage.run(request) for number, request in enumerate(requests(loras))}
    made: dict[int, Any] = {}
    while runs:
        for number in list(runs):
            event = next(runs[number], None)
            if event is None:
                del runs[number]
            else:
                made[number] = event
    assert [same(made[number], wanted) for number, wanted in enumerate(alone)] == [True] * len(alone)


def test_interleaving_would_show_without_turns(
    stage: Engine, loras: list[str], alone: list[Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The requests above do leave something behind that changes another's film."""
    monkeypatch.setattr("soundstage.rendering.turns.RunState.restore", lambda _: None)
    plain, adapted = (stage.run(request) for request in requests(loras)[:2])
    last: list[Any] = [None, None]
    for pair in zip(plain, adapted, strict=True):
        last = list(pair) if isinstance(pair[0], Done) else last
        if len([e for e in pair if isinstance(e, Done)]) == 2:
            break
    assert not (same(last[0], alone[0]) and same(last[1], alone[1]))


def test_threads_make_what_each_makes_alone(stage: Engine, loras: list[str], alone: list[Done]) -> None:
    with ThreadPoolExecutor(len(alone)) as pool:
        for _ in range(2):
            made = list(pool.map(lambda request: finished(stage.run(request)), requests(loras)))
            assert [same(done, wanted) for done, wanted in zip(made, alone, strict=True)] == [True] * len(
                made
            )


def test_a_run_that_is_left_half_way_stops_nobody(stage: Engine, loras: list[str], alone: list[Done]) -> None:
    """Closed, forgotten, or kept and never asked again."""
    closed, forgotten, kept = (stage.run(requests(loras)[2]) for _ in range(3))
    for events in (closed, forgotten, kept):
        while not isinstance(next(events), Step):
            pass
    closed.close()
    del forgotten, events
    gc.collect()
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda request: finished(stage.run(request)), requests(loras)[:2], timeout=120))
    assert [same(done, wanted) for done, wanted in zip(made, alone, strict=False)] == [True, True]
    assert same(finished(kept), alone[2])


def test_loras_of_earlier_requests_change_no_bit(
    folder: Path, loras: list[str], tmp_path: Path, alone: list[Done]
) -> None:
    """Also not by having been read first, where two of them come together."""
    request = requests(loras)[2]
    used = stage_of(folder)
    for path in reversed(loras):
        finished(used.run(request.model_copy(update={"loras": (ss.Lora(path),)})))
    assert same(finished(used.run(request)), alone[2])


def test_a_run_is_closed_by_another_thread_while_it_works(folder: Path) -> None:
    """As a server does whose client has gone."""
    at_work, go_on = threading.Event(), threading.Event()

    class Waiting(Quick):
        def encode(self, prompts: Any) -> Any:
            at_work.set()
            assert go_on.wait(LONG_S)
            return super().encode(prompts)

    stage = stage_of(folder, Waiting)
    run = stage.run(ss.Request(prompt="a red ball", steps=2))
    seen: list[Any] = []
    worker = threading.Thread(target=lambda: seen.extend(run))
    worker.start()
    assert at_work.wait(LONG_S)
    closer = threading.Thread(target=run.close)
    closer.start()
    deadline = time.monotonic() + LONG_S
    while not run._lock._waiting and time.monotonic() < deadline:  # type: ignore[attr-defined]
        time.sleep(0.001)
    go_on.set()
    joined(closer)
    joined(worker)
    assert not any(isinstance(event, Done) for event in seen)
    assert list(run) == []
    stage.generate("a red ball", steps=1)


def test_an_error_thrown_into_a_run_comes_out_of_it(
    stage: Engine, loras: list[str], alone: list[Done]
) -> None:
    run = stage.run(requests(loras)[1])
    while not isinstance(next(run), Step):
        pass
    with pytest.raises(KeyError, match="mine"):
        run.throw(KeyError("mine"))
    assert list(run) == []
    assert same(finished(stage.run(requests(loras)[0])), alone[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_an_engine_that_was_used_before_a_fork_is_refused_in_the_child(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stage_of(folder)
    request = ss.Request(prompt="a red ball", steps=1)
    run = stage.run(request)
    next(run)
    monkeypatch.setattr("os.getpid", lambda: -1)
    for use in (lambda: stage.generate(request), lambda: next(run), lambda: next(stage.run(request))):
        with pytest.raises(RequestError, match=r"before the process was forked.*ss\.load in each process"):
            use()
    finished(stage_of(folder).run(request))  # one that was only loaded before goes on


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_an_engine_is_not_copied(stage: Engine, copied: Callable[[Any], Any]) -> None:
    with pytest.raises(RequestError, match=r"neither copied nor sent to another process; call ss\.load"):
        copied(stage)


def test_an_error_in_one_run_leaves_the_engine_to_the_others(
    stage: Engine, loras: list[str], alone: list[Done]
) -> None:
    other = stage.run(requests(loras)[1])
    next(other)
    with pytest.raises(RequestError):
        finished(stage.run(ss.Request(prompt="a", size="999p")))
    assert same(finished(other), alone[1])


def test_a_small_web_server_answers_every_request_with_its_own_film(
    stage: Engine, loras: list[str], alone: list[Done]
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            number = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            clip = stage.generate(requests(loras)[number])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(clip.provenance["latents_sha256"]).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"

    def asked(number: int) -> Any:
        with urlopen(HttpRequest(url, json.dumps(number).encode()), timeout=300) as answer:
            return json.loads(answer.read())

    try:
        numbers = [0, 1, 2, 0, 1]
        with ThreadPoolExecutor(len(numbers)) as pool:
            answers = list(pool.map(asked, numbers))
    finally:
        server.shutdown()
        server.server_close()
    assert answers == [alone[number].clip.provenance["latents_sha256"] for number in numbers]


def test_the_prompt_of_a_run_is_read_with_its_own_loras(tmp_path: Path, folder: Path) -> None:
    """Also where another run had its turn between a run's LoRAs and its prompt."""
    path = write_lora(tmp_path / "words.safetensors", 3, CONNECTOR)
    tiny = write_tiny_model(tmp_path / "tiny")
    write_text_encoder(tiny / "text")

    class Read(parts_file.ModelParts):
        def decode_pieces(self, latents: Tensor) -> Iterator[Tensor]:
            yield torch.zeros(1, 3, 9, 64, 64)

    def engine() -> Engine:
        model = find_model(tiny)
        parts: Any = Read(model, torch.device("cpu"), torch.float32)
        return Engine(model, parts=parts, cache=EncodingCache())

    asked = [
        ss.Request(prompt="a red ball", seed=3, modalities={"video"}, steps=1, loras=found)
        for found in ([], [ss.Lora(path)])
    ]
    wanted = [finished(engine().run(request)) for request in asked]
    shared = engine()
    runs = [shared.run(request) for request in asked]
    last: list[Any] = [None, None]
    for events in zip(*runs, strict=False):
        last = list(events)
    ends = [
        event if isinstance(event, Done) else finished(run) for event, run in zip(last, runs, strict=True)
    ]
    for end, alone in zip(ends, wanted, strict=True):
        assert end.video_latents is not None
        assert alone.video_latents is not None
        assert torch.equal(end.video_latents, alone.video_latents)
    assert wanted[0].video_latents is not None
    assert not torch.equal(wanted[0].video_latents, wanted[1].video_latents)


# --- residency -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["offload", "stream", "disk"])
def test_every_residency_serves_interleaved_runs(
    folder: Path, loras: list[str], alone: list[Done], policy: str
) -> None:
    from soundstage.memory.policy import Residency

    model = find_model(folder)
    parts = Quick(model, torch.device("cpu"), torch.float32, Residency(policy))  # type: ignore[arg-type]
    shared = Engine(model, parts=parts, cache=EncodingCache())
    runs = [shared.run(request) for request in requests(loras)[:2]]
    ends = [event for pair in zip(*runs, strict=False) for event in pair if isinstance(event, Done)]
    ends += [event for run in runs for event in run if isinstance(event, Done)]
    parts.close()
    seeds = {end.clip.request.seed: end for end in ends}
    assert same(seeds[1], alone[0])
    assert same(seeds[2], alone[1])


def test_a_run_whose_parts_another_has_closed_goes_on_with_its_own(
    folder: Path, loras: list[str], alone: list[Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run does not fit beside what the first one has loaded, so the memory plan changes."""
    monkeypatch.setattr("soundstage.rendering.run.ModelParts", Quick)
    room = [10e9]
    monkeypatch.setattr(placement, "this_machine", lambda _: Machine("the CPU", "cpu", room[0]))
    shared = Engine(find_model(folder), device="cpu", cache=EncodingCache())
    first = shared.run(requests(loras)[1])
    while not isinstance(next(first), Step):
        pass
    assert shared._renderer is not None
    before = shared._renderer.built
    assert before is not None
    assert before.residency.policy == "resident"
    second_plan = shared.plan(requests(loras)[0])
    room[0] = shared.choose(second_plan).price.host_bytes * 0.985
    second = shared.run(second_plan)
    while not isinstance(next(second), Step):
        pass
    assert shared._renderer.built is not before
    assert shared._renderer.built is not None
    assert shared._renderer.built.residency.policy == "disk"
    assert not vars(before).get("transformer")  # its memory was given up
    assert same(finished(first), alone[1])
    assert shared._renderer.built is before
    assert same(finished(second), alone[0])
    shared._renderer.built.close()


def test_a_lora_that_is_gone_when_its_run_goes_on_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lora(tmp_path / "a.safetensors", 5)
    shared = stage_of(folder)
    first = shared.run(ss.Request(prompt="a", loras=[ss.Lora(path)]))
    while not isinstance(next(first), Step):
        pass
    assert shared._parts is not None
    shared._parts.close()
    write_lora(tmp_path / "a.safetensors", 6)
    finished(shared.run(ss.Request(prompt="b")))
    with pytest.raises(RequestError, match=r"a\.safetensors was written again while this clip was made"):
        finished(first)


# --- content -------------------------------------------------------------------------------------------


def test_a_lora_written_again_is_read_again_and_a_run_under_way_keeps_the_old_one(
    folder: Path, tmp_path: Path
) -> None:
    """The new file has the same size, and is given the old one's times."""
    path = tmp_path / "style.safetensors"

    def ask(stage: Engine) -> Iterator[Any]:
        return stage.run(ss.Request(prompt="a", seed=1, loras=[ss.Lora(str(path))]))

    write_lora(path, 1)
    times = path.stat()
    old = finished(ask(stage_of(folder)))
    shared = stage_of(folder)
    begun = ask(shared)
    while not isinstance(next(begun), Step):
        pass
    write_lora(path, 2)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    new = finished(ask(shared))
    assert same(new, finished(ask(stage_of(folder))))
    assert not same(new, old)
    assert same(finished(begun), old)
    assert new.clip.provenance["loras"][0]["sha256"] != old.clip.provenance["loras"][0]["sha256"]
    del begun
    finished(ask(shared))
    assert shared._parts is not None
    assert len(shared._parts._loras._adapters.weights) == 1  # the old one is in no memory any more


def test_a_model_file_replaced_under_an_engine_is_read_again(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from soundstage.weights.header import read_header

    place = write_tiny_model(tmp_path / "tiny")
    shared = stage_of(place)
    asked = ss.Request(prompt="a", seed=1, modalities={"video"})
    old = finished(shared.run(asked))
    begun = shared.run(asked)
    while not isinstance(next(begun), Step):
        pass
    path = place / TRANSFORMER
    tensors, told = load_file(path), read_header(path).metadata
    save_file({key: value * 1.01 for key, value in tensors.items()}, path, told)
    new = finished(shared.run(asked))
    fresh = finished(stage_of(place).run(asked))
    assert new.video_latents is not None
    assert old.video_latents is not None
    assert torch.equal(new.video_latents, fresh.video_latents)
    assert not torch.equal(new.video_latents, old.video_latents)
    assert new.clip.provenance["files"] != old.clip.provenance["files"]
    with pytest.raises(RequestError, match="the model's files were replaced while this clip was made"):
        finished(begun)


def test_an_array_that_was_changed_is_another_input(folder: Path) -> None:
    import numpy as np

    picture = np.zeros((64, 64, 3), np.uint8)
    asked = ss.Request(prompt="a", guides=[ss.Guide(picture, crf=0)], modalities={"video"})
    shared = stage_of(folder)
    black = finished(shared.run(asked))
    picture[:] = 255
    white = finished(shared.run(asked))
    assert black.video_latents is not None
    assert not torch.equal(black.video_latents, white.video_latents)


# --- the lock ------------------------------------------------------------------------------------------


def test_the_lock_goes_to_those_who_wait_in_their_order() -> None:
    lock, order, threads = FairLock(), [], []

    def take(number: int) -> None:
        with lock, lock:
            order.append(number)
            time.sleep(0.001)

    with lock:
        for number in range(5):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while len(lock._waiting) <= number:
                time.sleep(0.001)
    for thread in threads:
        joined(thread)
    assert order == list(range(5))
    with lock:
        pass


def test_an_interrupt_while_waiting_leaves_the_lock_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = FairLock()

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    def wait() -> None:
        with pytest.raises(KeyboardInterrupt), lock:
            pass

    with lock:
        own = SimpleNamespace(Event=Interrupted, Lock=threading.Lock, get_ident=threading.get_ident)
        monkeypatch.setattr("soundstage.rendering.turns.threading", own)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(wait).result(10)
        assert not lock._waiting
    monkeypatch.undo()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: lock.__enter__() or lock.__exit__(None, None, None)).result(10) is None


def test_runs_of_two_threads_take_turns_event_by_event(stage: Engine) -> None:
    """Neither thread works twice while the other waits."""
    order: list[int] = []
    both = threading.Barrier(2)

    def follow(number: int) -> None:
        events = stage.run(ss.Request(prompt="a", steps=10, guidance=1, stg=0, modality_guidance=1))
        while not isinstance(next(events), Phase):
            pass
        both.wait(60)
        for event in events:
            if isinstance(event, Step):
                order.append(number)

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        joined(thread)
    assert order.count(0) == order.count(1) == 10
    assert 0 in order[:10]
    assert 1 in order[:10]
