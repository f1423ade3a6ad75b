"""Applies to a text what has changed between two other texts, line by line, so that its lines stay as they are."""

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

_NONE = -1
_LONG = 2_000
"Lines from which on frequent ones are not compared, which would take the square of the time."


class _Line(NamedTuple):
    """A line of YAML or JSON."""

    text: str

    @property
    def content(self) -> str:
        """What it says, however it is spaced."""
        return " ".join(self.text.split())

    @property
    def is_code(self) -> bool:
        """Whether it is neither empty nor a comment."""
        return bool(self.content) and not self.content.startswith("#")

    @property
    def indent(self) -> int:
        """Where it begins."""
        return len(self.text) - len(self.text.lstrip(" "))

    @property
    def is_item(self) -> bool:
        """Whether it begins an item of a YAML list."""
        return self.content.startswith("- ") or self.content == "-"

    @property
    def key_column(self) -> int:
        """Where its key begins, behind the dash of an item."""
        return len(self.text) - len(self.text.lstrip(" -")) if self.is_item else self.indent

    def begins_as(self, other: "_Line") -> bool:
        """Whether both have the same key at the same column."""
        return self.indent == other.indent and self.content.partition(":")[0] == other.content.partition(":")[0]

    def shift(self, columns: int) -> str:
        """Returns it with so many spaces more, or less, before it."""
        return " " * max(0, self.indent + columns) + self.text.lstrip(" ")


def apply_change(text: str, before: str, after: str) -> str:
    """Returns a text, of which `before` is another form, with what `after` changes in that one.

    Lines are the same however they are spaced; those of `after` get that of the text around them. Where text and `after` both
    differ from `before` in the same lines, and the change is not only above or below, those of `after` are taken.
    """
    base, ours, theirs = (list(map(_Line, each.splitlines(keepends=True))) for each in (before, text, after))
    common = _common(base, ours, theirs)
    columns = _columns(ours, theirs, common)
    made: list[str] = []
    at = (0, 0, 0)
    for point in [*common, (len(base), len(ours), len(theirs))]:
        parts = (base[at[0] : point[0]], ours[at[1] : point[1]], range(at[2], point[2]))
        made += _resolve(*parts, theirs, columns)
        made += [line.text for line in ours[point[1] : point[1] + 1]]
        at = (point[0] + 1, point[1] + 1, point[2] + 1)
    if text.endswith("\n"):
        return "".join(made)
    return "".join(line if line.endswith("\n") else line + "\n" for line in made).removesuffix("\n")


def _common(base: list[_Line], ours: list[_Line], theirs: list[_Line]) -> list[tuple[int, int, int]]:
    """Returns the lines that all three have, by their numbers in each."""
    first, second = _same(base, ours), _same(base, theirs)
    return [(number, first[number], second[number]) for number in sorted(first.keys() & second.keys())]


def _same(base: list[_Line], other: list[_Line]) -> dict[int, int]:
    is_long = len(base) > _LONG
    matcher = SequenceMatcher(None, [line.content for line in base], [line.content for line in other], autojunk=is_long)
    return {block.a + index: block.b + index for block in matcher.get_matching_blocks() for index in range(block.size)}


def _columns(ours: list[_Line], theirs: list[_Line], common: list[tuple[int, int, int]]) -> list[int]:
    """Returns how many columns to move each line of `theirs`: if not all have it, as its siblings, else as its parent."""
    known = {there: ours[here].indent - theirs[there].indent for _, here, there in common}
    for number in range(len(theirs)):
        if number not in known:
            parent, sibling = _relatives(theirs, number, known)
            known[number] = known.get(sibling, known.get(parent, 0))
    return [known[number] for number in range(len(theirs))]


def _relatives(lines: list[_Line], number: int, known: Mapping[int, int]) -> tuple[int, int]:
    """Returns the line above to which a line belongs, and one beside it that is known; _NONE if there is none."""
    line = lines[number]
    parent = sibling = _NONE
    for above in reversed(range(number)):
        if lines[above].is_code and lines[above].indent <= line.indent:
            parent = above
            sibling = above if _is_sibling(line, lines[above]) else _NONE
            break
    for below in range(number + 1, len(lines)) if sibling == _NONE else ():
        if lines[below].is_code and (lines[below].indent < line.indent or _is_sibling(line, lines[below])):
            sibling = below if lines[below].indent == line.indent and below in known else sibling
            if lines[below].indent < line.indent or sibling != _NONE:
                break
    return parent, sibling


def _is_sibling(line: _Line, other: _Line) -> bool:
    return line.indent == (other.indent if line.is_item == other.is_item else other.key_column) and (
        not line.is_item or other.is_item
    )


def _resolve(base: list[_Line], ours: list[_Line], numbers: range, theirs: list[_Line], columns: list[int]) -> list[str]:
    """Returns the lines between two that all have."""
    old, mine, new = ([line.content for line in lines] for lines in (base, ours, [theirs[number] for number in numbers]))
    moved = [theirs[number].shift(columns[number]) for number in numbers]
    above = _length_of_common(old, new)
    below = _length_of_common(old[above:][::-1], new[above:][::-1])
    end = len(old) - below
    if not old[above:end] and len(new) == len(old):
        return [line.text for line in ours]
    found = _find(mine, old[:above], old[above:end], old[end:])
    if found is None:
        return moved
    gone, come = ours[found.start : found.stop], moved[above : len(new) - below]
    if gone and come and above < end and base[above].begins_as(theirs[numbers[above]]):
        # What it replaces shows where it begins.
        off = gone[0].indent - _Line(come[0]).indent
        come = [_Line(line).shift(off) for line in come]
    if len(gone) == len(come) == 1:
        come = [_edit(gone[0], old[above], new[above]) or come[0]]
    # A sidecar has no comments: those that would go with it are of the file.
    comments = [line.text for line in gone if not line.is_code and line.content not in new]
    return [line.text for line in ours[: found.start]] + come + comments + [line.text for line in ours[found.stop :]]


def _find(lines: list[str], above: list[str], middle: list[str], below: list[str]) -> range | None:
    """Returns where lines have the middle, though what is above or below may have other line breaks, or comments."""
    if not above and lines[: len(middle)] == middle:
        return range(len(middle))
    if not below and lines[len(lines) - len(middle) :] == middle:
        return range(len(lines) - len(middle), len(lines))
    begin = next((at for at in range(len(lines) + 1) if _reads(lines[:at], above)), None)
    end = next((at for at in reversed(range(len(lines) + 1)) if _reads(lines[at:], below)), None)
    return None if begin is None or end is None or begin > end else range(begin, end)


def _reads(lines: list[str], others: list[str]) -> bool:
    """Whether lines are the same but for their breaks."""
    return "".join(lines).replace(" ", "") == "".join(others).replace(" ", "")


def _edit(line: _Line, old: str, new: str) -> str:
    """Returns a line with what `new` changes in `old`; an empty one if it differs there."""
    head = _length_of_common(old, new)
    tail = _length_of_common(old[head:][::-1], new[head:][::-1])
    begin, end = old[:head], old[len(old) - tail :]
    text = line.text.strip()
    if len(text) < head + tail or not text.startswith(begin) or not text.endswith(end):
        return ""
    return line.text.replace(text, begin + new[head : len(new) - tail] + end)


def _length_of_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Returns with how many elements both begin."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
