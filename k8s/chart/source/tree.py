"""Trees of YAML whose parts depend on a chart's values, and their text as templates of Helm.

Conditions and expressions are written for the scope of the whole template: they begin with `$`.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ruamel.yaml import YAML


class Text(NamedTuple):
    """A scalar that Helm writes."""

    template: str


class Tree(NamedTuple):
    """A mapping or a list that Helm writes as YAML."""

    expression: str


class Items(NamedTuple):
    """As an item of a list: further items, from a list of the values."""

    expression: str


class If(NamedTuple):
    """As a value of a mapping or an item of a list: depends on a condition; None is nothing there."""

    condition: str
    then: Any
    otherwise: Any = None


def write(document: Any) -> str:
    """Returns the template of one object."""
    return "\n".join(_lines(document, "")) + "\n"


def _lines(node: Any, indent: str) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _entry(f"{indent}{_scalar(key, indent)}:", value, indent)
    else:
        for item in node:
            yield from _item(item, indent)


def _entry(key: str, value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, If):
        yield from _choose(value, lambda branch: _entry(key, branch, indent))
    elif isinstance(value, Tree):
        yield f"{key}"
        yield f"{{{{- toYaml {value.expression} | nindent {len(indent) + 2} }}}}"
    elif isinstance(value, dict | list) and value:
        yield key
        yield from _lines(value, indent + "  " * isinstance(value, dict))
    else:
        yield f"{key} {_scalar(value, indent)}"


def _item(item: Any, indent: str) -> Iterator[str]:
    if isinstance(item, If):
        yield from _choose(item, lambda branch: _item(branch, indent))
    elif isinstance(item, Items):
        yield f"{{{{- with {item.expression} }}}}"
        yield f"{{{{- toYaml . | nindent {len(indent)} }}}}"
        yield "{{- end }}"
    elif isinstance(item, dict):
        first, *rest = _lines(item, f"{indent}  ")
        yield f"{indent}- {first.lstrip()}"
        yield from rest
    else:
        yield f"{indent}- {_scalar(item, indent)}"


def _choose(node: If, branch: Any) -> Iterator[str]:
    then, otherwise, condition = node.then, node.otherwise, node.condition
    if then is None:
        then, otherwise, condition = otherwise, None, f"not {_operand(condition)}"
    yield f"{{{{- if {condition} }}}}"
    yield from branch(then)
    if otherwise is not None:
        yield "{{- else }}"
        yield from branch(otherwise)
    yield "{{- end }}"


def _operand(expression: str) -> str:
    return f"({expression})" if " " in expression else expression


def _scalar(value: Any, indent: str) -> str:
    if isinstance(value, Text):
        if "\n" not in value.template:
            return value.template
        return "|\n" + "\n".join(f"{indent}  {line}".rstrip() for line in value.template.rstrip("\n").split("\n"))
    if not isinstance(value, str):
        return json.dumps(value)
    if "\n" in value:
        return _scalar(Text(_escape(value)), indent)
    is_plain = re.fullmatch(r"[\w./][\w./:@-]*", value, re.ASCII) and YAML(typ="safe").load(value) == value
    return value if is_plain else _escape(json.dumps(value, ensure_ascii=False))


def _escape(text: str) -> str:
    """Returns a text in which Helm finds no templates, such as those of Prometheus."""
    return re.sub(r"\{\{|\}\}", lambda found: f"{{{{ `{found[0]}` }}}}", text)
