"""Read both forms of a workflow as one `Graph`: that of the editor, and that which is sent to be run."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from soundstage.compat.comfy.editor import laid_out
from soundstage.compat.comfy.graph import ComfyNode, Graph, Link, check_count
from soundstage.errors import RequestError


def read_graph(data: Any, where: str) -> Graph:
    """Return the graph of a workflow's JSON, in either form.

    Raises RequestError for what is neither, for too many nodes, and for links that go in a circle.
    """
    if isinstance(data, Mapping) and isinstance(data.get("nodes"), list):
        nodes = laid_out(data, where)
    elif isinstance(data, Mapping) and isinstance(data.get("prompt"), Mapping):  # as it is sent to the server
        return read_graph(data["prompt"], where)
    else:
        nodes = _of_prompt(data, where)
    check_count(len(nodes), where)
    graph = Graph(nodes)
    _check_order(graph, where)
    return graph


def _check_order(graph: Graph, where: str) -> None:
    """Raise RequestError where a node needs itself."""
    needs = {
        node.id: [value.node for value in node.inputs.values() if isinstance(value, Link)]
        for node in graph.nodes.values()
    }
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        node = graph.nodes[error.args[1][0]]
        raise RequestError(
            f"{where} has links that go in a circle, at {node}; no clip comes of it"
        ) from error


def _of_prompt(data: Any, where: str) -> dict[str, ComfyNode]:
    entries = data.items() if isinstance(data, Mapping) else ()
    known = {
        str(key): entry for key, entry in entries if isinstance(entry, Mapping) and "class_type" in entry
    }
    if not known and isinstance(data, Mapping) and isinstance(data.get("prompt"), str):
        raise RequestError(f"{where} is a request already; make its clip by `soundstage rerun`")
    if not known:
        raise RequestError(f"{where} holds no ComfyUI workflow; save one by Export, or by Export (API)")
    return {key: _prompt_node(key, entry, known) for key, entry in known.items()}


def _prompt_node(key: str, entry: Mapping[str, Any], known: Mapping[str, Any]) -> ComfyNode:
    given, about = entry.get("inputs"), entry.get("_meta")
    inputs = {
        str(name): _prompt_value(value, known)
        for name, value in (given.items() if isinstance(given, Mapping) else ())
    }
    title = about.get("title") if isinstance(about, Mapping) else ""
    return ComfyNode(key, str(entry["class_type"]), str(title or ""), inputs)


def _prompt_value(value: Any, known: Mapping[str, Any]) -> Any:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], int):
        return Link(str(value[0]), value[1]) if str(value[0]) in known else None
    return value
