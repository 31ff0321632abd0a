"""A seed that is left out is drawn once, by the plan, and kept with the clip."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import soundstage as ss
from soundstage.cli.program import app
from soundstage.continuous import Continuous
from soundstage.engine import Engine
from soundstage.library.model_files import find_model
from soundstage.rendering.encoding_cache import EncodingCache
from soundstage.rendering.events import Done
from soundstage.request.take import Take
from tests.tiny_model import QuickSound, TinyParts, write_tiny_model

QUICK: dict[str, Any] = {"prompt": "a red ball", "size": (32, 32), "num_frames": 9, "steps": 1, "guidance": 1}
LONG: dict[str, Any] = {**QUICK, "num_frames": 49, "fps": 50}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def stage(folder: Path) -> Engine:
    model = find_model(folder)
    return Engine(model, parts=QuickSound(model, torch.device("cpu"), torch.float32), cache=EncodingCache())


def take(folder: Path) -> Take:
    return Take(window_frames=25, overlap_frames=16, folder=str(folder))


def made(stage: Engine, request: ss.Plan | ss.Request) -> Done:
    *_, done = stage.run(request)
    assert isinstance(done, Done)
    return done


def test_a_plan_draws_the_seed_and_always_makes_the_same_clip(stage: Engine) -> None:
    request = ss.Request(**QUICK)
    plan, other = stage.plan(request), stage.plan(request)
    assert request.seed is None
    assert plan.request.seed != other.request.seed
    one, again = made(stage, plan), made(stage, plan)
    assert one.clip.provenance["latents_sha256"] == again.clip.provenance["latents_sha256"]
    assert one.clip.request == plan.request
    assert one.clip.request.seed == plan.passes[0].seed
    assert f"seed {plan.request.seed}" in repr(one.clip)


def test_a_clip_made_again_from_its_own_request_is_the_same(stage: Engine) -> None:
    first = stage.generate(ss.Request(**QUICK))
    again = stage.generate(first.request)
    assert again.provenance["latents_sha256"] == first.provenance["latents_sha256"]
    assert stage.generate(**QUICK).request.seed != first.request.seed
    assert stage.submit(ss.Request(**QUICK)).result(60).request.seed is not None


def test_json_without_a_seed_draws_and_a_stored_request_has_its_number(stage: Engine) -> None:
    written = ss.Request(prompt="Rain.").to_json()
    for text in ('{"prompt": "Rain."}', '{"prompt": "Rain.", "seed": null}', written):
        read = ss.Request.from_json(text)
        assert read == ss.Request(prompt="Rain.")
        plan = stage.plan(read)
        assert ss.Request.from_json(plan.request.to_json()) == plan.request
        assert json.loads(plan.to_json())["request"]["seed"] == plan.request.seed


def test_a_take_without_a_seed_goes_on_with_that_of_its_folder(stage: Engine, tmp_path: Path) -> None:
    request = ss.Request(**LONG, take=take(tmp_path / "take"))
    run = stage.run(request)
    for event in run:
        if getattr(event, "name", "") == "window 2 of 3":
            break
    run.close()
    kept = json.loads((tmp_path / "take" / "take.json").read_text())["request"]["seed"]
    plan = stage.plan(request)
    assert (plan.request.seed, plan.clips[0].request.seed) == (kept, kept)
    names = [getattr(event, "name", "") for event in stage.run(request)]
    assert "window 1 of 3" not in names
    assert "window 3 of 3" in names
    with pytest.raises(ss.RequestError, match=f"seed is {kept + 1}, there it is {kept}"):
        made(stage, ss.Request(**LONG, take=take(tmp_path / "take"), seed=kept + 1))


def test_a_film_without_an_end_keeps_the_seed_it_drew(stage: Engine) -> None:
    film = iter(Continuous(stage, ss.Request(**QUICK)))
    assert next(film).seed == next(film).seed


# --- the command line ------------------------------------------------------------------------------------


@pytest.fixture
def call(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("soundstage.rendering.run.ModelParts", TinyParts)
    monkeypatch.chdir(tmp_path)
    sized = ("--model", folder, "--frames", 9, "--size", "32x32")

    def run(command: str, *words: object) -> Any:
        quick = () if command == "plan" else ("--steps", 1, "--guidance", 1)
        return CliRunner().invoke(app, [command, *map(str, (*words, *sized, *quick))])

    return run


def test_commands_say_the_seed_once_and_name_files_by_it(call: Any) -> None:
    told = call("generate", "A red ball.", "Some rain.", "--takes", 2)
    assert told.exit_code == 0, told.stderr
    seeds = [int(name.removesuffix(".mp4").rpartition("-")[2]) for name in told.stdout.split()]
    assert seeds == [seeds[0], seeds[0] + 1] * 2
    assert told.stderr.count("was drawn") == 1
    assert f"seed {seeds[0]} was drawn\n" in told.stderr
    planned = call("plan", "A red ball in a static shot.")
    seed = planned.stderr.removeprefix("seed ").removesuffix(" was drawn\n")
    assert f", seed {seed}\n" in planned.stdout


def test_a_seed_that_is_given_or_quiet_is_not_said(call: Any) -> None:
    assert "was drawn" not in call("plan", "A red ball.", "--seed", 3).stderr
    assert "was drawn" not in call("generate", "A red ball.", "--seeds", "3", "--plan").stderr
    quiet = call("generate", "A red ball.", "-q", "--json")
    assert quiet.stderr == ""
    assert f"-{json.loads(quiet.stdout)['request']['seed']}.mp4" in json.loads(quiet.stdout)["path"]


def test_a_command_that_is_refused_says_no_seed(call: Any) -> None:
    refused = call("generate", "A red ball.", "-o", "a.avi")
    assert (refused.exit_code, "was drawn" in refused.stderr) == (2, False)


def test_the_command_goes_on_with_the_seed_of_a_takes_folder(call: Any, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "take.json").write_text('{"request": {"seed": 77}}')
    planned = call("plan", "A red ball in a static shot.", "--take", "folder=work")
    assert planned.stderr == "seed 77 is that of the take in the folder\n"
    assert ", seed 77\n" in planned.stdout
