"""Rooms import upward in one order only, and the light ones load nothing heavy."""

import ast
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from soundstage.memory.machine import has_gpu_driver
from tests.house import LEVEL, PACKAGE, PAGE, ROOT, room_of, with_rooms
from tests.limits import LONG_S

# From a request to its plan nothing imports torch, not even within a function; converting weights does.
WITHOUT_TORCH = {"errors", "types", "fields", "files", "prompts", "request", "library", "planning"}
WITH_TORCH = {"library/convert.py"}
HEAVY = ("torch", "transformers", "safetensors.torch", "av", "PIL", "diffusers", "rich")


def imported_rooms(tree: ast.AST) -> set[str]:
    """Rooms of soundstage that a module imports anywhere, by AST."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "soundstage":
            names.update(f"soundstage.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    parts = [name.split(".") for name in names if name.startswith("soundstage.")]
    return {part[1] for part in parts if part[1] != "__version__"}


def test_every_room_has_its_place() -> None:
    rooms = {room_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms == set(LEVEL), (
        f"ORDER in tests/house.py lacks or no longer needs {sorted(rooms ^ set(LEVEL))}"
    )


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_upward_only(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":  # names every public home, but imports it only when asked
        return
    others = imported_rooms(ast.parse(path.read_text())) - {room}
    wrong = {other for other in others if LEVEL[other] >= LEVEL[room]}
    assert not wrong, f"{room} imports {sorted(wrong)}, which are not below it"


def test_the_page_of_the_architecture_prints_the_order() -> None:
    assert PAGE.read_text() == with_rooms(PAGE.read_text()), "run `make docs`"


def test_the_model_knows_nothing_of_adapters() -> None:
    """They are put on from outside; docs/lora.md says so."""
    for path in sorted((PACKAGE / "model").glob("*.py")):
        assert not re.search(r"lora|adapter|_hooks", path.read_text(), re.IGNORECASE), path


def test_rooms_without_torch_have_no_import_of_it() -> None:
    paths = {str(path.relative_to(PACKAGE)): path for path in PACKAGE.rglob("*.py")}
    found = {name for name, path in paths.items() if room_of(path) in WITHOUT_TORCH and imports_torch(path)}
    assert found == WITH_TORCH


def imports_torch(path: Path) -> bool:
    """Return whether a module imports torch anywhere but for type checkers."""
    tree = ast.parse(path.read_text())
    for node in [node for node in tree.body if isinstance(node, ast.If)]:  # of TYPE_CHECKING
        tree.body.remove(node)
    names: list[str] = []
    for found in ast.walk(tree):
        if isinstance(found, ast.Import):
            names += [alias.name for alias in found.names]
        elif isinstance(found, ast.ImportFrom):
            names.append(found.module or "")
    return any(name.split(".")[0] == "torch" for name in names)


@pytest.mark.skipif(has_gpu_driver(), reason="a GPU driver is here, and torch is asked about its devices")
@pytest.mark.parametrize(
    "statements",
    [
        "import soundstage as ss; s = ss.load('nano'); p = s.plan(ss.Request(prompt='A ball.')); s.choose(p)",
        "from soundstage.cli import program, signals; "
        "assert program.call(['plan', 'A ball.'], signals.Interrupts()) == 0",
    ],
)
def test_planning_and_its_command_load_no_torch(statements: str) -> None:
    code = f"import sys; {statements}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=LONG_S
    )
    assert done.stdout.splitlines()[-1] == "False"


def test_the_package_never_imports_its_test_references() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(m.split(".")[0] in {"diffusers", "scipy", "pytest", "tests"} for m in modules), (
                path
            )


@pytest.mark.parametrize(
    "statement",
    [
        "import soundstage",
        "import soundstage.cli.main",
        "import soundstage; soundstage.Request(prompt='a')",
        "import soundstage.planning.planner",
        "import soundstage.engine",
        "import soundstage.clip",
    ],
)
def test_light_modules_load_nothing_heavy(statement: str) -> None:
    code = f"import sys; {statement}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=LONG_S
    )
    assert done.stdout.strip() == "[]"


def test_every_error_is_a_public_name() -> None:
    import soundstage
    from soundstage import errors

    tree = {name for name, item in vars(errors).items() if isinstance(item, type) and name.endswith("Error")}
    assert tree == {name for name in soundstage.__all__ if name.endswith("Error")}


def test_public_names_are_sorted_and_exist() -> None:
    import soundstage

    assert soundstage.__all__ == sorted(soundstage.__all__)
    for name in soundstage.__all__:
        assert getattr(soundstage, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = soundstage.nothing


REFUSED = (
    "lora resize style.safetensors --rank 0 -o a.safetensors",
    "lora resize nothere.safetensors --rank 4 -o a.safetensors",
    "lora merge a.safetensors --energy 0.5 -o a.safetensors",
    "lora extract nano nothere --rank 4 -o a.safetensors",
    "lora strip style.safetensors --group vido -o a.safetensors",
    "lora convert style.safetensors --to kohya -o a.safetensors",
    "lora inspect nothere.safetensors",
    "train style --data nothere --output run",
    "train style --data . --output run --set kind=full --set weights=int8",
    "train style --data . --output run --model nothere",
    "train nothere.json --like fal --output run",
    "dataset encode . --dtype float17",
    "dataset encode . --model nothere",
)


@pytest.mark.skipif(has_gpu_driver(), reason="a GPU driver is here, and torch is asked about its devices")
def test_bad_values_are_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_text("buckets: [64x64x9]\n")
    code = """
        import sys
        from click.testing import CliRunner
        from soundstage.cli.program import app
        for line in sys.stdin.read().splitlines():
            print(CliRunner().invoke(app, line.split()).exit_code, "torch" in sys.modules, line)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    made = subprocess.run(
        command,
        input="\n".join(REFUSED),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=LONG_S,
    )
    assert made.stdout.splitlines() == [f"2 False {line}" for line in REFUSED]
