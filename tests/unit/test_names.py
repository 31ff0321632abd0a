"""A public class or type alias of the package has its name to itself: a name means one thing."""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "soundstage"

# Names that several files define, with the reason.
SHARED = {
    "ResBlock": "published name; the upsampler's and the two VAEs' are different modules",
    "Downsample": "published name; the two VAEs' are different modules",
    "Upsample": "published name; the two VAEs' are different modules",
}
# Calls and subscripts of these make a type alias.
TYPES = {"Literal", "Annotated", "Callable", "Generator", "Iterator", "NDArray"}
TYPES |= {"Mapping", "dict", "list", "tuple"}


def is_alias(value: ast.expr | None) -> bool:
    """Return whether an assigned value is a type: a union, or a generic type with its arguments."""
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr):
        return all(
            isinstance(side, ast.Name | ast.Subscript | ast.BinOp) for side in (value.left, value.right)
        )
    return isinstance(value, ast.Subscript) and isinstance(value.value, ast.Name) and value.value.id in TYPES


def types_of(tree: ast.Module) -> Iterator[str]:
    """Yield the names of a module's public classes and type aliases."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign) and is_alias(node.value):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


@functools.cache
def shared_names() -> dict[str, list[str]]:
    """Return the names that more than one file defines, with the files."""
    files = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in types_of(ast.parse(path.read_text())):
            if not name.startswith("_"):
                files[name].append(str(path.relative_to(PACKAGE)))
    return {name: where for name, where in files.items() if len(where) > 1}


def test_classes_and_aliases_are_defined_once() -> None:
    found = {name: where for name, where in shared_names().items() if name not in SHARED}
    assert not found, f"rename all but one, or give them one home: {found}"


def test_every_exception_is_needed() -> None:
    assert set(SHARED) <= set(shared_names())
