"""What the package declares is used: dependencies by an import, functions by something that a user reaches.

Names are matched by the syntax tree alone: a function by its module and name, a method by its name, whatever
object it is called on. So a method that shares its name with a used one passes unseen, and a function that
shares its name with an attribute used by a file which imports the function's module.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import soundstage
from soundstage.compat import diffusers
from tests.examples import blocks

ROOT = Path(__file__).parents[2]
OWN_NAMES = {home.partition(":")[2] for home in soundstage._HOMES.values()}  # of what is public under another
PUBLIC = {*soundstage.__all__, *OWN_NAMES, *diffusers.__all__}
Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef

IMPORT_NAMES = {
    "pillow": "PIL",
    "pyyaml": "yaml",
    "opencv-python-headless": "cv2",
    "scenedetect-headless": "scenedetect",
    "opencolorio": "PyOpenColorIO",
}  # of distributions that are imported under another name
UNDECLARED = {
    "triton": "comes with PyTorch for CUDA, and the fast paths do without it",
    "starlette": "comes with FastAPI, which is made of it",
    "h11": "comes with uvicorn, whose protocol it is",
}

# Methods that other libraries call, with who does.
HOOKS = {
    "forward": "nn.Module, at a call",
    "backward": "autograd.Function",
    "emit": "logging.Logger",
    "isatty": "io.TextIOWrapper",
    "writable": "io.BufferedWriter",
    "send": "generators' protocol",
    "throw": "generators' protocol",
    "parse_args": "click.Command",
    "format_options": "click.Command",
    "get_renderables": "rich.Progress",
    "list_commands": "click.Group",
    "get_command": "click.Group",
    "get_help_record": "click.Option",
    "resolve_command": "click.Group",
    "shell_complete": "click.Parameter",
    "_repr_html_": "Jupyter",
    "main": "click.Group, at a call",
    "connection_made": "asyncio.Protocol",
    "connection_lost": "asyncio.Protocol",
    "data_received": "asyncio.Protocol",
    "json": "fastapi, of a request",
    "get_route_handler": "fastapi.APIRoute",
    "capture_signals": "uvicorn.Server",
    "handle_exit": "signal handlers of uvicorn.Server",
    "_interrupt": "callbacks written for diffusers",
}
HOOKS_OF_FOLDERS = {"soundstage.jobs.migrations.versions": "upgrade"}  # Alembic
HOOK_DECORATORS = re.compile(
    r"command|callback|validator|serializer|(router|watched)\."
)  # of click, pydantic, fastapi

# Definitions that nothing reaches and that stay, with the reason.
ALLOWED: dict[str, str] = {}


# --- dependencies ------------------------------------------------------------------------------------


def declared_imports() -> set[str]:
    """Return the import names of the package's dependencies: core and all extras but dev."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = (names for extra, names in project["optional-dependencies"].items() if extra != "dev")
    wanted = [*project["dependencies"], *(name for names in extras for name in names)]
    names = (re.match(r"[\w.-]+", requirement) for requirement in wanted)
    return {IMPORT_NAMES.get(name[0], name[0].replace("-", "_")) for name in names if name}


@functools.cache
def imported() -> set[str]:
    """Return the first names of all modules that the package imports and that are not Python's own."""
    found = set()
    for path in (ROOT / "soundstage").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
            elif isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
    return {name.split(".")[0] for name in found} - sys.stdlib_module_names - {"soundstage"}


def test_every_declared_dependency_is_imported() -> None:
    assert declared_imports() - imported() == set()


def test_every_imported_dependency_is_declared() -> None:
    assert imported() - declared_imports() == set(UNDECLARED)


# --- functions, classes, methods ---------------------------------------------------------------------

Name = tuple[str, str]  # a module, and what it calls something


@dataclass
class Uses:
    """What some code uses: functions and classes by their names, attributes of whatever object."""

    names: set[Name] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)


@dataclass(eq=False)
class Defined:
    """A function, class or method, and what it uses; of a class without its methods."""

    module: str
    node: Definition
    owner: Defined | None
    uses: Uses

    @property
    def name(self) -> str:
        return self.node.name

    def __str__(self) -> str:
        return f"{self.owner or self.module}.{self.name}"

    @property
    def folder(self) -> str:
        return self.module.rpartition(".")[0]

    def is_root(self) -> bool:
        """Return whether users or other libraries call it: public API, commands, validators, hooks."""
        if self.owner is None and (self.name in PUBLIC or self.name == HOOKS_OF_FOLDERS.get(self.folder)):
            return True
        if self.owner is not None and self.owner.name in PUBLIC and self.name[0] != "_":
            return True
        return any(re.search(HOOK_DECORATORS, ast.unparse(word)) for word in self.node.decorator_list)

    def is_used(self, uses: Uses) -> bool:
        if self.owner is None and not self.name.startswith("__"):
            return (self.module, self.name) in uses.names
        return self.name in uses.attributes or self.name in HOOKS or self.name.startswith("__")


def own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function, or those of a class or module outside its definitions."""
    if isinstance(node, Function):
        yield from ast.walk(node)
        return
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Definition):
            yield child
            yield from own_nodes(child)


def uses_of(module: str, node: ast.AST) -> Uses:
    found = Uses()
    for part in own_nodes(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
            found.names.add((module, part.id))
        elif isinstance(part, ast.Attribute):
            found.attributes.add(part.attr)
        elif isinstance(part, ast.Call) and ast.unparse(part.func) in ("getattr", "hasattr"):
            words = [w.value for w in part.args[1:2] if isinstance(w, ast.Constant)]
            found.attributes.update(word for word in words if isinstance(word, str))
    return found


def definitions(module: str, node: ast.AST, owner: Defined | None = None) -> Iterator[Defined]:
    """Yield functions and classes and their methods, without functions within functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            found = Defined(module, child, owner, uses_of(module, child))
            yield found
            if isinstance(child, ast.ClassDef):
                yield from definitions(module, child, found)
        else:
            yield from definitions(module, child, owner)


def imports(tree: ast.AST) -> dict[str, Name]:
    """Return where the names come from that a module imports."""
    return {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def imported_modules(tree: ast.AST) -> set[str]:
    """Return the modules that a module imports as such, and whatever it imports that might be one."""
    whole = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    return whole | {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def parsed(*folders: str) -> dict[str, ast.Module]:
    """Return the syntax trees of all modules in folders, by the modules' names."""
    paths = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
            path.read_text()
        )
        for path in paths
    }


class Reached(Uses):
    """All that is used so far, by the names it is defined under. trees: modules by name."""

    def __init__(self, trees: dict[str, ast.Module]) -> None:
        super().__init__()
        origins = {(m, name): home for m, tree in trees.items() for name, home in imports(tree).items()}
        # A package that imports its own modules names them as it is called itself.
        self._origin = {name: home for name, home in origins.items() if home != name}
        self._modules = {m: imported_modules(tree) for m, tree in trees.items()}

    def add(self, module: str, uses: Uses) -> None:
        """Add what some code of a module uses."""
        for name in uses.names:
            while name in self._origin:
                name = self._origin[name]
            self.names.add(name)
        self.names.update((other, name) for other in self._modules[module] for name in uses.attributes)
        self.attributes.update(uses.attributes)


def named_outside() -> Iterator[Name]:
    """Yield what is named outside of Python: the program's entry, and makers of the docs' tables."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].values()
    pages = (page.read_text() for page in (ROOT / "docs").glob("*.md"))
    tables = (name for page in pages for name in re.findall(r"<!-- table of ([\w.]+)[ :]", page))
    for path in (*scripts, *tables):
        module, _, name = path.replace(":", ".").rpartition(".")
        yield module, name


def unreached() -> list[Defined]:
    """Return what no user reaches: from modules' own code, benchmarks, examples and blocks of the docs."""
    package, around = parsed("soundstage"), parsed("benchmarks", "examples")
    around |= {block.where: ast.parse(block.text) for block in blocks()}
    reached, waiting = Reached(package | around), []
    reached.names.update(named_outside())
    for module, tree in (package | around).items():
        reached.add(module, uses_of(module, tree))
        waiting += [one for one in definitions(module, tree) if module in package]
    for module, tree in around.items():
        for one in definitions(module, tree):
            reached.add(module, one.uses)
    while True:
        dead = set(waiting)
        new = [x for x in waiting if x.is_root() or (x.is_used(reached) and x.owner not in dead)]
        if not new:
            return waiting
        for one in new:
            reached.add(one.module, one.uses)
        waiting = [x for x in waiting if x not in set(new)]


def test_every_function_is_reached_by_something_else_than_tests() -> None:
    found = {str(one) for one in unreached()}
    unmet = "\n".join(sorted(found - ALLOWED.keys()))
    assert not unmet, f"give these a way for users to reach them, or delete them:\n{unmet}"
    assert ALLOWED.keys() <= found, "what is reached needs no place in ALLOWED"
