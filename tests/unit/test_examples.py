"""The code of README, docs and --help runs on nano, made small; what does not is in a list with reasons."""

from __future__ import annotations

import ast
import asyncio
import itertools
import json
import logging
import re
import runpy
import shutil
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import click
import pytest
import yaml

import soundstage as ss
from soundstage import engine
from soundstage.cli.parameters import SETTINGS
from soundstage.cli.program import app
from soundstage.clip import read_provenance
from soundstage.engine import Engine
from tests.examples import (
    ROOT,
    Example,
    examples,
    let_names_mean_nano,
    named_commands,
    write_inputs,
    write_models,
)
from tests.shell import check_names, run_line, words_of

# How a command or its page begins: why no test runs it. Options, names and files are checked all the same.
NOT_RUN = {
    "docs/diffusers.md": "runs in test_diffusers_snippets.py, with nano in the hub's cache",
    "docs/official.md": "names files of the published model; test_official.py plans such a command with nano",
    "docs/full-size.md": "tells of one run with 41 GB of random weights",
    "docs/client.md": "runs in test_client.py, against one server",
    "docs/mcp.md": "is an assistant's configuration; test_mcp.py runs its command",
    "docs/dialects.md": "runs in test_dialects.py, against one server",
    "docs/server.md": "runs in test_server_command.py, against one server",
    "soundstage serve": "runs until it is stopped; test_server_command.py starts one",
    "soundstage studio": "opens a browser and runs until it is stopped; test_studio.py has one",
    "soundstage worker": "runs until it is stopped; test_worker.py has one",
    "docs/deploy.md": "is for machines of servers; test_deploy.py checks its options and paths",
    "soundstage mcp": "runs until its input ends; test_mcp.py speaks to one",
    "soundstage remote": "calls a server; test_remote.py runs the commands against one",
    "soundstage keys revoke": "names a key by its id; test_server_command.py revokes one",
    "soundstage generate --recipe pro --checkpoint-path": "names a 22B checkpoint, its LoRA and upsampler",
    "soundstage control prepare depth ball.mp4 --model": "names a model; test_control_models.py has its form",
    "soundstage control prepare pose dance.mp4 --model": "names a model; test_control_models.py has its form",
    'soundstage generate "A robot dances."': "names a model; test_control_models.py has its form",
    "soundstage bench": "builds blocks of the 22B model and times them for minutes",
    "soundstage models pull": "fetches gigabytes from the hub",
    "docs/training.md": "needs encoded data; test_tuning.py trains on some",
    "soundstage train": "needs encoded data; test_tuning.py trains on some",
    "soundstage dataset": "reads a folder of clips; test_dataset.py runs the commands",
    "soundstage loras pull": "fetches gigabytes from the hub",
    "soundstage loras show": "reads no file; test_loras.py runs it",
    "soundstage lora merge runs": "joins the files of three trainings; test_lora_tools.py joins two",
    "soundstage lora extract": "reads two whole models; test_lora_tools.py runs it",
    "soundstage prompt lint --help": "has exit code 1 where there are warnings; docs/prompts.md shows them",
    "soundstage review": "has exit code 1 where a clip has faults; test_review.py runs it",
    "soundstage nano": "trains or measures nano for minutes to hours",
}
RUN_AFTER_ALL = ("soundstage nano sample",)
# What is run before the example of a command's help: the work that it goes on with.
_SCRIPT = "soundstage script new film.yaml --from 'A red ball bounces.'"
_SHOTS = r"printf 'title: Balls\nshots: [A ball rests., A ball grows., A ball falls.]\n' > film.yaml"
BEFORE = {
    "soundstage script check --help": (_SCRIPT,),
    "soundstage produce --help": (_SCRIPT,),
    "soundstage verify --help": (_SCRIPT, "soundstage produce film.yaml"),
    "soundstage pick --help": (_SHOTS, "soundstage produce film.yaml --only 3 --takes 2"),
}
EXAMPLES = examples()


log = logging.getLogger("soundstage")


def reason_not_to_run(example: Example) -> str | None:
    if example.text.startswith(RUN_AFTER_ALL):
        return None
    return next((why for start, why in NOT_RUN.items() if begins(example, start)), None)


def begins(example: Example, start: str) -> bool:
    return example.page == start or example.text.startswith(start)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples' files, made once."""
    folder = tmp_path_factory.mktemp("examples")
    write_inputs(folder)
    write_models(folder)
    return folder


@pytest.fixture
def inputs(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples' files, in the working folder; published names of models mean nano."""
    work = tmp_path / "work"
    shutil.copytree(originals, work, symlinks=True, ignore=shutil.ignore_patterns("models"))
    (work / "models").symlink_to(originals / "models")
    monkeypatch.chdir(work)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("SOUNDSTAGE_CONFIG", raising=False)
    let_names_mean_nano(tmp_path / "home")


@pytest.fixture(scope="module")
def loaded() -> dict[str, Engine]:
    return {}


@pytest.fixture
def quick(loaded: dict[str, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """Load each model once, and make every clip small: few pixels, frames and, of a single pass, steps."""
    load, plan = engine.load, Engine.plan

    def load_once(*model: Any, **options: Any) -> Engine:
        key = repr((model, options))
        if key not in loaded or log.isEnabledFor(logging.INFO):  # -v shows what is loaded
            loaded[key] = load(*model, **options)
        return loaded[key]

    def plan_small(self: Engine, request: ss.Request) -> Any:
        plan(self, request.model_copy(update={"allow_unfit": True}))  # nano stands in for any model
        context = click.get_current_context(silent=True)
        only_planned = context is not None and (
            context.command.name in ("plan", "check") or context.params.get("plan")
        )
        return plan(self, request) if only_planned else plan(self, smaller(request))

    monkeypatch.setattr(engine, "load", load_once)
    monkeypatch.setattr(Engine, "plan", plan_small)


def smaller(request: ss.Request) -> ss.Request:
    """The request with the least work that shows that it runs; its parts and times have their place."""
    change: dict[str, Any] = {}
    if request.source is None:
        frames = 8 * request.prompt.count("|") + 9  # a latent frame for each part
        if "[" in request.prompt or any(isinstance(guide.at, float) for guide in request.guides):
            frames = round(24 * min(request.duration_s or 2, 4)) // 8 * 8 + 1
        if request.num_frames is not None:
            frames = min(request.num_frames, 49)
        change = {"duration_s": None, "num_frames": frames}
        if "video" in request.modalities:
            change["size"] = (64, 64)
    if request.recipe == "single" and request.cache is None and request.sigmas is None:
        change["steps"] = 2
    return request.model_copy(update=change)


@pytest.mark.parametrize("page", list(dict.fromkeys(example.page for example in EXAMPLES)))
@pytest.mark.usefixtures("quick", "inputs")
@pytest.mark.filterwarnings("ignore::UserWarning")  # a notice of `generate`, for the reader of a page
def test_the_examples_of_a_page_run(page: str) -> None:
    """In order: Python with common names, commands and files in a common folder."""
    names: dict[str, Any] = {"ss": ss, "stage": ss.load("nano")}
    for line in BEFORE.get(page, ()):
        run_line(line)
    for example in EXAMPLES:
        if example.page == page and reason_not_to_run(example) is None:
            try:
                RUN[example.kind](example, names)
            except BaseException as error:
                error.add_note(f"{example.where}: {example.text}")
                raise


def run_python(example: Example, names: dict[str, Any]) -> None:
    """Run a block as a cell of a notebook: with `display`, and `await` outside of functions."""
    names["display"] = Display
    text, flag = "\n" * (example.line - 1) + example.text, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    waited = eval(compile(text, ROOT / example.page, "exec", flag), names)
    if waited is not None:
        asyncio.run(waited)


class Display:
    """Stand in for a notebook's `display`: what is shown must be a player or a picture."""

    def __init__(self, shown: Any, display_id: bool = False) -> None:
        self.update(shown)

    def update(self, shown: Any) -> None:
        page = shown._repr_html_() if hasattr(shown, "_repr_html_") else shown._repr_png_()
        assert page


def run_command(example: Example, names: dict[str, Any]) -> None:
    words = words_of(example.text)
    for before, target in itertools.pairwise(words):
        if before in ("--output", "-o") and words[0] != "show":
            Path(target).unlink(missing_ok=True)
    printed = run_line(example.text, may_fail=example.shown is not None)
    if "--model" not in words and words[:1] != ["dub"] and not example.shown:  # nano shows no speakers
        assert "hint:" not in printed, printed
    if example.shown:
        assert_shown(example.shown, printed)


def assert_shown(shown: str, printed: str) -> None:
    """The lines that a page shows are among those printed, in order; numbers and spaces may differ."""

    def pattern(line: str) -> str:
        parts = (re.escape(" ".join(part.split())) for part in re.sub(r"\d+(\.\d+)?", "0", line).split("..."))
        return ".*".join(parts)

    lines = iter([" ".join(re.sub(r"\d+(\.\d+)?", "0", line).split()) for line in printed.splitlines()])
    for line in shown.splitlines():
        wanted = re.compile(pattern(line))
        assert any(wanted.fullmatch(found) for found in lines), f"{line!r} is not in:\n{printed}"


def read_data(example: Example, names: dict[str, Any]) -> None:
    """The block is in its language; the file that its first line names is written."""
    if example.kind == "json":
        for text in example.text.splitlines() if example.text.startswith("{") else [example.text]:
            json.loads(text)
    elif example.kind == "yaml":
        yaml.safe_load(example.text)
    else:
        tomllib.loads(example.text)
    if name := re.match(r"# ([\w./-]+\.\w+)\n", example.text):
        Path(name[1]).parent.mkdir(parents=True, exist_ok=True)
        Path(name[1]).write_text(example.text)


def check_text(example: Example, names: dict[str, Any]) -> None:
    assert not re.search(r"^(\$ |>>> |soundstage [a-z])", example.text, re.M), "mark it as bash or console"


RUN: dict[str, Callable[[Example, dict[str, Any]], None]] = {
    "python": run_python,
    "command": run_command,
    "json": read_data,
    "yaml": read_data,
    "toml": read_data,
    "text": check_text,
}


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.kind == "command"], ids=lambda e: e.where)
def test_a_command_is_understood(example: Example) -> None:
    """Its options exist and take such values, whatever it would need to run."""
    words = words_of(example.text)
    if not words:
        check_names(example.text)
        return
    command: Any = app
    while words and hasattr(command, "get_command"):
        command, words = command.get_command(None, words[0]), words[1:]
        assert command is not None, example.text
    if example.shown is None:  # what a page shows may be an error
        command.make_context(command.name, list(words), parent=click.Context(app, **SETTINGS))


def test_the_list_of_what_is_not_run_is_current() -> None:
    for start in (*NOT_RUN, *RUN_AFTER_ALL, *BEFORE):
        assert any(begins(example, start) for example in EXAMPLES), f"nothing begins with {start!r}"


def test_commands_named_within_a_line_exist_with_their_options() -> None:
    for example in named_commands():
        command: Any = app
        words = example.text.split()[1:]
        while words[:1] and words[0][0] != "-" and hasattr(command, "get_command"):
            command, words = command.get_command(None, words[0]), words[1:]
            assert command is not None, f"{example.where}: {example.text}"
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        named = {word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)}
        assert named <= known | {"--help", "-v", "-vv"}, f"{example.where}: {named - known}"


def test_there_are_examples() -> None:
    ran = [example for example in EXAMPLES if reason_not_to_run(example) is None]
    assert len([example for example in ran if example.kind == "command"]) > 40
    assert len([example for example in ran if example.kind == "python"]) > 20


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))


@pytest.mark.usefixtures("quick", "inputs")
def test_the_script_that_watches_a_clip_saves_a_preview_or_gives_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    watch = script("watch")["watch"]
    assert watch(ss.load("nano"), "A red ball bounces.", 600).frames is not None
    assert Path("preview.png").is_file()
    assert "100%" in capsys.readouterr().out
    assert watch(ss.load("nano"), "A red ball bounces.", 0) is None


@pytest.mark.usefixtures("quick", "inputs")
def test_the_script_for_tables_makes_each_row_and_counts_those_that_fail(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = (
        "prompt,seed,guides,duration_s",
        "A red ball.,3,ball.png,",
        "A cube.,,,-1",
        '"Rain, wind.",,,0.4',
    )
    Path("clips.csv").write_text("\n".join(rows))
    assert script("batch")["make_all"](ss.load("nano"), Path("clips.csv"), Path("out")) == 1
    assert sorted(path.name for path in Path("out").iterdir()) == ["1.mp4", "3.mp4"]
    assert "row 2: duration_s is '-1'; give" in capsys.readouterr().err
    assert read_provenance("out/1.mp4")["request"]["seed"] == 3


@pytest.mark.usefixtures("quick", "inputs")
def test_the_server_makes_cancels_and_refuses_clips() -> None:
    with script("server")["server"](ss.load("nano"), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def ask(method: str, path: str, asked: Any = None) -> Any:
            body = None if asked is None else json.dumps(asked).encode()
            url = f"http://127.0.0.1:{server.server_port}{path}"
            try:
                with urlopen(HttpRequest(url, body, method=method), timeout=600) as answer:
                    return answer.read()
            except HTTPError as error:
                return error.code, json.loads(error.read())

        assert json.loads(ask("POST", "/clips", {"prompt": "A red ball bounces.", "seed": 7})) == {"id": 0}
        assert json.loads(ask("POST", "/clips", {"prompt": "A blue cube bounces."})) == {"id": 1}
        assert json.loads(ask("DELETE", "/clips/1")) == {"cancelled": True}
        Path("got.mp4").write_bytes(ask("GET", "/clips/0.mp4"))
        assert read_provenance("got.mp4")["request"]["seed"] == 7
        assert json.loads(ask("GET", "/clips/0"))["done"]
        assert ask("GET", "/clips/1.mp4")[0] == 410
        assert ask("GET", "/clips/2")[0] == 404
        code, told = ask("POST", "/clips", {"prompt": "A ball.", "duration_s": -1})
        assert code == 400
        assert "duration_s is -1" in told["error"]
        assert ask("POST", "/clips", ["no fields"])[0] == 400
        server.shutdown()
