"""Tables of text."""

from collections.abc import Iterator, Sequence


def lines(rows: Sequence[Sequence[str]], *, left: int = 1) -> Iterator[str]:
    """Yields rows as aligned lines: the first `left` columns to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [f"{text:{'<' if n < left else '>'}{width}}" for n, (text, width) in enumerate(zip(row, widths, strict=True))]
        yield "  ".join(cells).rstrip()


def seconds(value: float) -> str:
    """Returns a duration as people read it, such as `0.03 s`, `12 s`, `3 min`, `5 h`."""
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if value >= 2 * size:
            return f"{value / size:.0f} {unit}"
    return f"{value:.0f} s" if value >= 10 else f"{value:.2g} s"


def share(part: float, whole: float) -> str:
    """Returns a percentage; `-` of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"
