"""Keeps apart what a YAML file shares: anchors with their aliases, and merges (`<<:`).

A parsed alias is the very node that its anchor names, so a change would show wherever the node is used: in an immutable
selector, or twice in a list of variables. `separate` gives every place that a patch changes a node of its own, and returns what
stood there; `share_again` restores it once the changes are undone.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ruamel.yaml.comments import CommentedBase, CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import ScalarString

Step = str | int
MERGED = "<<"
"Stands for the name of an anchor where a key came from a merge."
_ANCHOR = re.compile(r"[^\s,\[\]{}]{1,256}")
_UP = ".."


_MAX_NODES = 1_000_000
"Of a document with its aliases written out: a few lines of aliases of aliases can stand for billions."


class _Place(NamedTuple):
    """Where a node is used: as the value of a key or index of its parent, or as something that its parent merges."""

    order: int
    parent: Any
    step: Step
    is_merge: bool = False

    def put(self, node: Any) -> None:
        """Uses another node instead."""
        if not self.is_merge:
            self.parent[self.step] = node
            return
        merge = self.parent.merge
        merge[self.step] = node
        if merge.sequence is not None:
            merge.sequence[self.step] = node


def prepare(document: Any) -> None:
    """Makes a parsed document fit for changes: an anchor without an alias stays, and changes do not spread through merges."""
    for node in _places(document).nodes:
        if node.anchor.value:
            node.anchor.always_dump = True
        if isinstance(node, CommentedMap):
            # ruamel.yaml would update the merged keys of others, and fails at that when a key is deleted.
            node._ref.clear()  # noqa: SLF001


def check_size(document: Any) -> None:
    """Raises ValueError for a document that is too large with its aliases written out, as one is that contains itself."""
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        if not isinstance(node, dict | list):
            return 1
        if id(node) not in sizes:
            # Until its own is known, which it never is of something that contains itself.
            sizes[id(node)] = _MAX_NODES + 1
            sizes[id(node)] = 1 + sum(map(size, node.values() if isinstance(node, dict) else node))
        if sizes[id(node)] > _MAX_NODES:
            raise ValueError(f"with its aliases written out, it has more than {_MAX_NODES:,} values")
        return sizes[id(node)]

    size(document)


def separate(document: Any, path: Iterable[Step], touched: Iterable[tuple[Step, ...]]) -> dict[str, str]:
    """Gives the pod at `path` nodes of its own on the ways to everything that will be touched.

    `touched` has ways from the pod to keys and items that will be set. Returns the names of the anchors of the nodes that were
    replaced, or MERGED, by JSON pointer from the pod; `..` is its parent, `../..` the parent of that.
    """
    shared: dict[str, str] = {}
    above = tuple(path)
    found = _places(document)
    if not found.is_shared:
        return shared
    changed: dict[int, tuple[Any, str, set[Step]]] = {}
    for way in touched:
        whole = above + way
        parent = document
        for depth, step in enumerate(whole[:-1], start=1):
            changed.setdefault(id(parent), (parent, _pointer(above, whole[: depth - 1]), set()))[2].add(step)
            node = _value(parent, step)
            if not isinstance(node, CommentedBase):
                break
            pointer = _pointer(above, whole[:depth])
            if isinstance(parent, CommentedMap) and step not in parent._ok:  # noqa: SLF001
                parent[step] = node = _copy(node)
                shared[pointer] = MERGED
                found = _places(document)
            elif others := [place for place in found.of(node) if place.parent is not parent or place.step != step]:
                here = next(place for place in found.of(node) if place.parent is parent and place.step == step)
                aliases = [place for place in others if not place.is_merge]
                if aliases:
                    shared[pointer] = name = _name(node, found)
                    if here.order < min(place.order for place in aliases):
                        _move_anchor(node, name, others)
                    else:
                        parent[step] = node = _copy(node)
                    found = _places(document)
            parent = node
        else:
            changed.setdefault(id(parent), (parent, _pointer(above, whole[:-1]), set()))[2].add(whole[-1])
    _stop_leaks(changed, found, shared)
    return shared


def _stop_leaks(changed: dict[int, tuple[Any, str, set[Step]]], found: "_Places", shared: dict[str, str]) -> None:
    """Has maps that merge a changed one merge a copy instead, unless they will set every changed key themselves."""
    for node, pointer, keys in changed.values():
        merges = [place for place in found.of(node) if place.is_merge]

        def is_safe(place: _Place, keys: set[Step] = keys) -> bool:
            own = place.parent._ok | (changed[id(place.parent)][2] if id(place.parent) in changed else set())  # noqa: SLF001
            return bool(keys <= own)

        if not all(is_safe(place) for place in merges):
            shared[pointer] = name = _name(node, found)
            _move_anchor(node, name, merges)


def share_again(document: Any, path: Iterable[Step], shared: Mapping[str, str]) -> None:
    """Restores aliases and merges where the nodes still equal each other. `shared` may have been written by anybody."""
    above = tuple(path)
    for pointer, name in reversed(list(shared.items())):
        whole = _resolve(above, pointer)
        if not whole or not isinstance(name, str):
            continue
        try:
            parent = document
            for step in whole[:-1]:
                parent = _value(parent, step)
            node = _value(parent, whole[-1])
        except (KeyError, IndexError, TypeError, ValueError):
            continue
        if name == MERGED:
            _merge_again(parent, whole[-1], node)
        elif isinstance(node, CommentedBase) and _ANCHOR.fullmatch(name):
            _join(document, node, name, parent, whole[-1])


def _merge_again(parent: Any, key: Step, node: Any) -> None:
    """Deletes a key of a map whose value is the same in what the map merges."""
    merged = next((merged[key] for merged in getattr(parent, "_yaml_merge", ()) if key in merged), None)
    if merged is not None and merged == node:
        del parent[key]
        # As the parser does: there to be read, but not a key of the map's own.
        OrderedDict.__setitem__(parent, key, merged)


def _join(document: Any, node: Any, name: str, parent: Any, step: Step) -> None:
    """Gives a node the anchor, or has it be an alias of the one that has it."""
    found = _places(document)
    known = next((each for each in found.nodes if each.anchor.value == name and each is not node), None)
    if known is None:
        node.yaml_set_anchor(name, always_dump=True)
        return
    if known != node:
        return
    here = next((place for place in found.of(node) if place.parent is parent and place.step == step), None)
    if here is None:
        return
    places = found.of(known)
    # The first one has the comments.
    if here.order < min(place.order for place in places):
        node.yaml_set_anchor(name, always_dump=True)
        for place in places:
            place.put(node)
    else:
        parent[step] = known


def _move_anchor(node: Any, name: str, places: list[_Place]) -> None:
    """Leaves a node where it is, without its anchor; the other places share a copy with it."""
    copy = _copy(node)
    copy.yaml_set_anchor(name, always_dump=True)
    node.yaml_set_anchor(None)
    for place in places:
        place.put(copy)


class _Places:
    """Where each map and list of a document is used, in the order of the file."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self._by_node: dict[int, list[_Place]] = {}

    @property
    def is_shared(self) -> bool:
        """Whether any node is used twice."""
        return any(len(places) > 1 for places in self._by_node.values())

    def of(self, node: Any) -> list[_Place]:
        """Returns the places of a node."""
        return self._by_node.get(id(node), [])

    def add(self, node: Any, place: _Place | None) -> bool:
        """Adds a place, and returns whether it is the first."""
        is_first = id(node) not in self._by_node
        if is_first:
            self.nodes.append(node)
        known = self._by_node.setdefault(id(node), [])
        if place:
            known.append(place)
        return is_first


def _places(document: Any) -> _Places:
    found = _Places()
    pending: list[tuple[Any, _Place | None]] = [(document, None)]
    order = 0
    while pending:
        node, place = pending.pop()
        if not isinstance(node, CommentedBase):
            continue
        order += 1
        if found.add(node, place and place._replace(order=order)):
            pending += reversed([(child, place) for child, place in _children(node)])
    return found


def _children(node: Any) -> Iterator[tuple[Any, _Place]]:
    if isinstance(node, CommentedMap):
        for index, merged in enumerate(getattr(node, "_yaml_merge", ())):
            yield merged, _Place(0, node, index, is_merge=True)
        for key, value in node.non_merged_items():
            yield value, _Place(0, node, key)
    elif isinstance(node, CommentedSeq):
        for index, value in enumerate(node):
            yield value, _Place(0, node, index)


def _copy(node: Any) -> Any:
    """Returns a copy in the same style, without anchors, merges and comments: those stay where they are."""
    if isinstance(node, CommentedMap):
        made: Any = CommentedMap({_copy(key): _copy(value) for key, value in node.items()})
    elif isinstance(node, CommentedSeq):
        made = CommentedSeq(map(_copy, node))
    elif isinstance(node, ScalarString):
        return type(node)(node)
    else:
        return node
    if node.fa.flow_style():
        made.fa.set_flow_style()
    return made


def _name(node: Any, found: _Places) -> str:
    """Returns the name of a node's anchor; of one that lost it, a new name."""
    if node.anchor.value:
        return str(node.anchor.value)
    taken = {each.anchor.value for each in found.nodes}
    return next(name for name in (f"shared{number}" for number in range(1, len(taken) + 2)) if name not in taken)


def _value(parent: Any, step: Step) -> Any:
    return parent[int(step)] if isinstance(parent, list) else parent[step]


def _pointer(above: tuple[Step, ...], whole: tuple[Step, ...]) -> str:
    if len(whole) < len(above):
        return "/".join([_UP] * (len(above) - len(whole)))
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in whole[len(above) :])


def _resolve(above: tuple[Step, ...], pointer: str) -> tuple[Step, ...]:
    if pointer.startswith(_UP):
        return above[: max(0, len(above) - len(pointer.split("/")))]
    return above + tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])
