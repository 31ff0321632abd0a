"""A ComfyUI graph as plain nodes whose inputs are values or links.

Both forms of a workflow become the same `Graph`: the one that the editor saves (nodes, links, subgraphs)
and the one that is sent to be run (an object by node number). Of the first, subgraphs are laid out flat,
reroutes, Set and Get nodes and primitive nodes are followed, bypassed nodes hand on what they get, and muted
ones give nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from soundstage.compat.comfy.nodes import NODES, widget_names
from soundstage.errors import RequestError

MAX_NODES = 20_000
MAX_DEPTH = 50  # subgraphs within subgraphs, and links followed in a row through nodes that only hand on
MUTED, BYPASSED = 2, 4  # modes of the editor
_SUBGRAPH_INPUTS = -10  # number of the node that stands for a subgraph's own inputs
_CONTROLS = {"fixed", "increment", "decrement", "randomize"}  # what a seed does after a run
_WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


@dataclass(frozen=True)
class Link:
    """An output of a node. slot: which of its outputs, counted from 0."""

    node: str
    slot: int


@dataclass(frozen=True)
class ComfyNode:
    """A node that runs. id: its number, behind those of the subgraphs that it is in: "267:216"."""

    id: str
    type: str
    title: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        title = f" '{self.title}'" if self.title and self.title != self.type else ""
        return f"{self.type}{title} (node {self.id})"


@dataclass(frozen=True)
class Graph:
    """Nodes by number. A link leads to a node that is there."""

    nodes: Mapping[str, ComfyNode]

    def upstream(
        self, node: ComfyNode, used: Callable[[ComfyNode], Iterable[Any]] = lambda one: one.inputs.values()
    ) -> dict[str, ComfyNode]:
        """Return the nodes that a node needs, itself first. used: returns the inputs of a node that count."""
        found: dict[str, ComfyNode] = {}
        waiting = [node]
        while waiting:
            one = waiting.pop()
            if one.id not in found:
                found[one.id] = one
                waiting += [self.nodes[value.node] for value in used(one) if isinstance(value, Link)]
        return found


def read_graph(data: Any, where: str) -> Graph:
    """Return the graph of a workflow's JSON, in either form.

    Raises RequestError for what is neither, for too many nodes, and for links that go in a circle.
    """
    if isinstance(data, Mapping) and isinstance(data.get("nodes"), list):
        nodes = _flat(data, where)
    elif isinstance(data, Mapping) and isinstance(data.get("prompt"), Mapping):  # as it is sent to the server
        return read_graph(data["prompt"], where)
    else:
        nodes = _of_prompt(data, where)
    _check_count(len(nodes), where)
    graph = Graph(nodes)
    _check_order(graph, where)
    return graph


def _check_count(count: int, where: str) -> None:
    if count > MAX_NODES:
        raise RequestError(f"{where} has more than {MAX_NODES} nodes; give the workflow of one clip")


def _check_order(graph: Graph, where: str) -> None:
    """Raise RequestError where a node needs itself."""
    state: dict[str, bool] = {}  # False: being looked at, True: done
    for start in graph.nodes.values():
        waiting: list[tuple[ComfyNode, Iterator[Any]]] = [(start, iter(start.inputs.values()))]
        if start.id in state:
            continue
        state[start.id] = False
        while waiting:
            node, rest = waiting[-1]
            link = next((value for value in rest if isinstance(value, Link)), None)
            if link is None:
                state[node.id] = True
                waiting.pop()
            elif link.node not in state:
                state[link.node] = False
                waiting.append((graph.nodes[link.node], iter(graph.nodes[link.node].inputs.values())))
            elif not state[link.node]:
                raise RequestError(f"{where} has links that go in a circle, at {node}; no clip comes of it")


# --- The form that is run -------------------------------------------------------------------------------


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


# --- The form of the editor -----------------------------------------------------------------------------


def _flat(data: Mapping[str, Any], where: str) -> dict[str, ComfyNode]:
    held = data.get("definitions")
    found = held.get("subgraphs") if isinstance(held, Mapping) else None
    kinds = {
        str(d.get("id")): d for d in (found if isinstance(found, list) else ()) if isinstance(d, Mapping)
    }
    top = _Scope(data, kinds, where)
    top.check_size()
    return {node.id: node for node in top.laid_out()}


class _Scope:
    """One graph or subgraph of the editor: its nodes by number, its links by number."""

    def __init__(
        self,
        data: Mapping[str, Any],
        kinds: Mapping[str, Any],
        where: str,
        parent: _Scope | None = None,
        instance: Mapping[str, Any] | None = None,
    ) -> None:
        self.data, self.kinds, self.where = data, kinds, where
        self.parent, self.instance = parent, instance
        self.depth: int = 0 if parent is None else parent.depth + 1
        if self.depth > MAX_DEPTH:
            raise RequestError(f"{where} has subgraphs in each other without an end; no clip comes of it")
        self.prefix: str = "" if parent is None or instance is None else f"{parent.prefix}{instance['id']}:"
        self.nodes = {str(n["id"]): n for n in _list(data, "nodes") if isinstance(n, Mapping) and "id" in n}
        self.links = dict(_links(_list(data, "links")))
        for key, node in self.nodes.items():  # the outputs know links that the list has lost
            for slot, output in enumerate(_list(node, "outputs")):
                for number in _list(output, "links"):
                    self.links.setdefault(_key(number), (key, slot))
        self.children: dict[str, _Scope] = {}
        for link in _list(data.get("extra"), "ue_links"):  # of the nodes that send to all inputs of a type
            self._send(link)

    def check_size(self) -> None:
        _check_count(
            sum(len(_list(kind, "nodes")) for kind in self.kinds.values()) + len(self.nodes), self.where
        )

    def laid_out(self) -> Iterator[ComfyNode]:
        """Yield the nodes that run, with those of subgraphs in place of the nodes that stand for them."""
        made = 0
        for node in self.nodes.values():
            if node.get("mode") in (MUTED, BYPASSED) or _is_helper(node):
                continue
            kind = str(node.get("type"))
            if kind in self.kinds:
                inner = self.child(node).laid_out()
            else:
                inner = iter((self._node(node),))
            for one in inner:
                made += 1
                _check_count(made, self.where)
                yield one

    def child(self, node: Mapping[str, Any]) -> _Scope:
        key = str(node["id"])
        if key not in self.children:
            kind = self.kinds[str(node["type"])]
            self.children[key] = _Scope(kind, self.kinds, self.where, self, node)
        return self.children[key]

    def _node(self, node: Mapping[str, Any]) -> ComfyNode:
        inputs = self.widgets(node)
        shown = self._shown_outside() if self.instance else {}
        inputs |= {
            name: value for (key, name), value in shown.items() if key == str(node["id"]) and name in inputs
        }
        for slot in _list(node, "inputs"):
            if not isinstance(slot, Mapping) or slot.get("link") is None:
                continue
            name = str(slot.get("name"))
            value = self.origin(slot["link"])
            if value is not None or not slot.get("widget"):
                inputs[name] = value
        kind, title = str(node.get("type")), str(node.get("title") or "")
        return ComfyNode(f"{self.prefix}{node['id']}", kind, title, inputs)

    def widgets(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values that are set on a node, by name."""
        values = node.get("widgets_values")
        if isinstance(values, Mapping):
            return {str(k): v for k, v in values.items() if k != "videopreview"}
        if not isinstance(values, list):
            return {}
        kind = str(node.get("type"))
        slots = [
            s
            for s in _list(node, "inputs")
            if isinstance(s, Mapping) and isinstance(s.get("widget"), Mapping)
        ]
        named = [str(slot["widget"].get("name")) for slot in slots]
        names = widget_names(kind, values) if kind in NODES else named
        if (names and ("seed" in names[0] or kind.startswith("Primitive"))) or any(
            "seed" in n for n in names
        ):
            values = _without_controls(values, len(names))
        return dict(zip(names, values, strict=False))

    def origin(self, number: Any, left: int = MAX_DEPTH * 4) -> Any:
        """Return what a link brings: a Link to a node that runs, a value, or None where nothing comes."""
        found = self.links.get(_key(number))
        if found is None:
            return None
        if left == 0:
            raise RequestError(f"{self.where} has links that go in a circle; no clip comes of it")
        start, slot = found
        if start == str(_SUBGRAPH_INPUTS):
            return self._from_outside(slot, left - 1)
        return self.output(start, slot, left - 1)

    def output(self, key: str, slot: int, left: int) -> Any:
        """Return what an output of a node gives."""
        node = self.nodes.get(key)
        if node is None or left <= 0:
            return None
        kind, mode = str(node.get("type")), node.get("mode")
        if mode == MUTED:
            return None
        if mode == BYPASSED:
            return self._bypassed(node, slot, left)
        if kind.startswith("Reroute"):
            return self._first_input(node, left)
        if kind == "PrimitiveNode":
            return next(iter(_list(node, "widgets_values")), None)
        if kind == "GetNode":
            return self._sent(next(iter(_list(node, "widgets_values")), None), left)
        if kind in self.kinds:
            return self.child(node).inner_output(slot, left)
        return Link(f"{self.prefix}{key}", slot)

    def inner_output(self, slot: int, left: int) -> Any:
        """Return what an output of this subgraph gives."""
        outputs = _list(self.data, "outputs")
        if not 0 <= slot < len(outputs) or not isinstance(outputs[slot], Mapping):
            return None
        ends = _list(outputs[slot], "linkIds")
        if ends and _key(ends[0]) in self.links:
            return self.origin(ends[0], left)
        # Some files have lost that link: the one output of its type that leads nowhere is meant.
        loose = [
            (key, i)
            for key, node in self.nodes.items()
            for i, out in enumerate(_list(node, "outputs"))
            if isinstance(out, Mapping)
            and out.get("type") == outputs[slot].get("type")
            and not out.get("links")
        ]
        return self.output(*loose[0], left) if len(loose) == 1 else None

    def _from_outside(self, slot: int, left: int) -> Any:
        """Return what comes in at an input of this subgraph: a link from outside, or the value set there."""
        asked = _list(self.data, "inputs")
        if self.parent is None or self.instance is None or not 0 <= slot < len(asked):
            return None
        name = str(asked[slot].get("name")) if isinstance(asked[slot], Mapping) else ""
        for outer in _list(self.instance, "inputs"):
            if isinstance(outer, Mapping) and outer.get("name") == name and outer.get("link") is not None:
                return self.parent.origin(outer["link"], left)
        return self._set_outside().get(name)

    def _shown_outside(self) -> dict[tuple[str, str], Any]:
        """Return the values of widgets that the node for this subgraph shows, by (inner node, name).

        Its own inputs have the node "-1".
        """
        about = self.instance.get("properties") if self.instance else None
        shown = [pair for pair in _list(about, "proxyWidgets") if isinstance(pair, list) and len(pair) >= 2]
        values = _list(self.instance, "widgets_values")
        named = zip(shown, values, strict=False)
        return {(str(pair[0]), str(pair[1])): value for pair, value in named if value is not None}

    def _set_outside(self) -> dict[str, Any]:
        """Return the values that are set on the node that stands for this subgraph, by input."""
        shown = self._shown_outside()
        if shown:
            return {name: value for (key, name), value in shown.items() if key == "-1"}
        values = self.instance.get("widgets_values") if self.instance else None
        asked = [i for i in _list(self.data, "inputs") if isinstance(i, Mapping) and self._is_widget(i)]
        names = [str(i.get("name")) for i in asked]
        if isinstance(values, Mapping):
            return {name: values[name] for name in names if name in values}
        values = values if isinstance(values, list) else []
        if len(values) > len(names):
            values = _without_controls(values, len(names))
        return dict(zip(names, values, strict=False)) if len(values) >= len(names) else {}

    def _is_widget(self, asked: Mapping[str, Any]) -> bool:
        """Return whether an input of a subgraph is set by hand: it leads to a widget inside."""
        ends = {_key(number) for number in _list(asked, "linkIds")}
        for node in self.nodes.values():
            for slot in _list(node, "inputs"):
                if isinstance(slot, Mapping) and _key(slot.get("link")) in ends:
                    return bool(slot.get("widget")) or str(node.get("type")) == "PrimitiveNode"
        return str(asked.get("type")) in _WIDGET_TYPES and bool(ends)

    def _bypassed(self, node: Mapping[str, Any], slot: int, left: int) -> Any:
        """Return what a bypassed node hands on: its input of the output's type, the one beside it first."""
        outputs, inputs = _list(node, "outputs"), _list(node, "inputs")
        wanted = (
            outputs[slot].get("type") if slot < len(outputs) and isinstance(outputs[slot], Mapping) else None
        )
        order = sorted(range(len(inputs)), key=lambda i: i != slot)
        for i in order:
            if (
                isinstance(inputs[i], Mapping)
                and inputs[i].get("type") == wanted
                and inputs[i].get("link") is not None
            ):
                return self.origin(inputs[i]["link"], left)
        return None

    def _first_input(self, node: Mapping[str, Any], left: int) -> Any:
        numbers = [s.get("link") for s in _list(node, "inputs") if isinstance(s, Mapping)]
        return self.origin(numbers[0], left) if numbers and numbers[0] is not None else None

    def _sent(self, name: Any, left: int) -> Any:
        """Return what a SetNode of that name gets, here or in a graph around."""
        for node in self.nodes.values():
            if str(node.get("type")) == "SetNode" and next(iter(_list(node, "widgets_values")), None) == name:
                return self._first_input(node, left)
        return None if self.parent is None else self.parent._sent(name, left)

    def _send(self, link: Any) -> None:
        if not isinstance(link, Mapping):
            return
        node = self.nodes.get(str(link.get("downstream")))
        slots = _list(node, "inputs")
        slot = link.get("downstream_slot")
        if not isinstance(slot, int) or not 0 <= slot < len(slots) or slots[slot].get("link") is not None:
            return
        number = f"sent {len(self.links)}"
        self.links[number] = (str(link.get("upstream")), int(link.get("upstream_slot") or 0))
        slots[slot]["link"] = number


def _list(data: Any, name: str) -> list[Any]:
    found = data.get(name) if isinstance(data, Mapping) else None
    return found if isinstance(found, list) else []


def _key(number: Any) -> str:
    return str(number)


def _links(entries: list[Any]) -> Iterator[tuple[str, tuple[str, int]]]:
    """Yield (number, (node, output)) of links, which are lists, or objects within subgraphs."""
    for entry in entries:
        if isinstance(entry, Mapping):
            number, start, slot = (entry.get(name) for name in ("id", "origin_id", "origin_slot"))
        elif isinstance(entry, list) and len(entry) >= 3:
            number, start, slot = entry[:3]
        else:
            continue
        if isinstance(slot, int):
            yield _key(number), (str(start), slot)


def _is_helper(node: Mapping[str, Any]) -> bool:
    """Return whether a node of the editor runs nothing by itself."""
    kind = str(node.get("type"))
    return kind.startswith("Reroute") or kind in (
        "PrimitiveNode",
        "GetNode",
        "SetNode",
        "Note",
        "MarkdownNote",
    )


def _without_controls(values: list[Any], count: int) -> list[Any]:
    """Leave out what a seed does after a run, where more values than names are there."""
    if len(values) <= count:
        return values
    return [value for value in values if not (isinstance(value, str) and value in _CONTROLS)]
