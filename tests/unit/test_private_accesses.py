"""Tests reach the product's private attributes by `tests/support/inside.py` alone: one that is renamed is one line to change."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
INSIDE = TESTS / "support/inside.py"
PUBLIC = {"_replace", "_asdict", "_fields", "__version__"}
"Of named tuples, and what is public in spite of its name."
OTHERS = {
    "_value": "asyncio.Semaphore has no other way to tell how much is left",
}
"Private attributes of libraries."


def accesses(text: str) -> Iterator[tuple[int, str]]:
    """Yields the line and name of each private attribute that a module reads, sets, replaces or imports of other objects."""
    tree = ast.parse(text)
    # An object of a class in this file is its own, whatever the variable is called.
    own = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) in {"self", "cls"}
    } | {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in {"self", "cls", "super()"}:
            yield from ((node.lineno, name) for name in [node.attr] if name not in own)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr"):
            yield from ((node.lineno, str(one.value)) for one in node.args[1:2] if isinstance(one, ast.Constant))
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names)


def is_private(name: str) -> bool:
    """Says whether a name is private: one underscore, not two."""
    return name.startswith("_") and name not in PUBLIC and not name.startswith("__")


def test_private_attributes_are_reached_by_one_module() -> None:
    found = {
        f"{file.relative_to(TESTS)}:{line} {name}"
        for file in TESTS.rglob("*.py")
        if file != INSIDE and "interop/grpc" not in file.as_posix()
        for line, name in accesses(file.read_text())
        if is_private(name) and name not in OTHERS
    }
    assert found == set()


def test_whatever_it_offers_is_used() -> None:
    offered = {
        node.name if isinstance(node, ast.FunctionDef) else ast.unparse(node.targets[0])
        for node in ast.parse(INSIDE.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.Assign)
    }
    text = "".join(file.read_text() for file in TESTS.rglob("*.py") if file != INSIDE)
    assert {name for name in offered if f"inside.{name}" not in text} == set()


def test_whatever_it_reaches_is_there() -> None:
    reached = set(re.findall(r'(?:\bof\.|\bapp\.|= ")(_\w+)', INSIDE.read_text()))
    assert len(reached) > 50
    text = "".join(file.read_text() for file in (TESTS.parent / "cache_sidecar").rglob("*.py"))
    assert {name for name in reached if not re.search(rf"\b{name}\b", text)} == set()


def test_each_kind_of_access_is_found() -> None:
    text = (
        "from product import _hidden\napp._read\napp._set = 1\nmonkeypatch.setattr(app, '_replaced', 1)\nself._own\nother._own"
    )
    assert [name for _, name in accesses(text) if is_private(name)] == ["_hidden", "_read", "_set", "_replaced"]
