"""Lay out flat the form of a workflow that the editor saves: nodes, numbered links, subgraphs.

Reroutes, Set and Get nodes and primitive nodes are followed, bypassed nodes hand on what they get, and muted
ones give nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from soundstage.compat.comfy.graph import ComfyNode, Link, check_count
from soundstage.compat.comfy.nodes import NODES, widget_names
from soundstage.errors import RequestError

MAX_DEPTH = 50  # subgraphs within subgraphs, and links followed in a row through nodes that only hand on
MUTED, BYPASSED = 2, 4  # modes of the editor
_SUBGRAPH_INPUTS = -10  # number of the node that stands for a subgraph's own inputs
_CONTROLS = {"fixed", "increment", "decrement", "randomize"}  # what a seed does after a run
_WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def laid_out(data: Mapping[str, Any], where: str) -> dict[str, ComfyNode]:
    """Return the nodes that run, by number, those of subgraphs behind the numbers around them."""
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
        check_count(
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
                check_count(made, self.where)
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
