"""Reads metrics in Prometheus' text format, which `exposition.py` renders: for those who compare or advise sidecars.

Whoever serves them may be anybody, so that values are left as texts: what is no number, or none that a sidecar has, is for the
caller to refuse.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

# More than any sidecar counts or measures.
MAX_VALUE = 1e18
_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S.*)")
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')
_ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}

Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """One line."""

    name: str
    labels: Labels
    "Names and values, in their order."
    value: str


def samples(text: str) -> Iterator[Sample]:
    """Yields the samples in a text; other lines are skipped."""
    # Not `splitlines`: the values of labels may have any other character that ends lines.
    for line in text.split("\n"):
        if found := _SAMPLE.match(line):
            labels = tuple((name, _unescape(value)) for name, value in _LABEL.findall(found[2] or ""))
            yield Sample(found[1], labels, found[3])


def _unescape(text: str) -> str:
    return re.sub(r"\\.", lambda escape: _ESCAPES.get(escape[0], escape[0]), text)
