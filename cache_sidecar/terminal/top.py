"""`cache-sidecar top`: rates from the differences between counters, live."""

import asyncio
import contextlib
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping

import click

from cache_sidecar.core.errors import ServerUnreachable
from cache_sidecar.terminal import status, table
from cache_sidecar.terminal.access import Access
from cache_sidecar.terminal.status import Counts, Status

# Of a terminal: to the upper left, clear the rest of the line, clear the rest of the screen, hide and show the cursor.
_HOME, _REST_OF_LINE, _REST, _HIDE, _SHOW = "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[?25l", "\x1b[?25h"


async def watch(access: Access, *, interval: float, count: int | None) -> None:
    """Shows a sidecar every `interval` seconds, `count` times or until `q`. Raises ServerUnreachable if it never answers."""
    is_live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    before: tuple[float, Mapping[str, Counts]] | None = None
    async with access.open() as channel, _screen(is_live=is_live) as ended:
        while True:
            try:
                found: Status | None = await status.read(access, channel)
            except ServerUnreachable as error:
                if before is None:
                    raise
                found, shown = None, [str(error)]
            if found is not None:
                now, counts = time.monotonic(), found.counts()
                seconds, last = (now - before[0], before[1]) if before else (0.0, {})
                shown = list(lines(found, rates(last, counts), seconds))
                before = now, counts
            _show(shown, is_live=is_live)
            if count is not None:
                count -= 1
            if count == 0:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), interval)
                return


def rates(before: Mapping[str, Counts], now: Mapping[str, Counts]) -> dict[str, Counts]:
    """Returns what was counted between two looks; entries and bytes are those of now. After a restart, all since then."""
    found = {}
    for name, one in now.items():
        last = before.get(name)
        if last is None or one.reads < last.reads or one.errors < last.errors:
            last = Counts(0, 0, 0, 0, 0, 0)
        counted = (one.l1 - last.l1, one.l2 - last.l2, one.store - last.store, one.errors - last.errors)
        found[name] = Counts(*counted, one.entries, one.bytes)
    return found


def lines(found: Status, counted: Mapping[str, Counts], seconds: float) -> Iterator[str]:
    """Yields the lines to show; `counted` is what was counted in so many seconds, 0 for since the start of the sidecar."""
    me, problems = found.stats.sidecar, found.problems()
    seconds = seconds or me.uptime.ToNanoseconds() / 1e9 or 1.0
    total = sum(one.reads for one in counted.values())
    used = sum(one.bytes for one in counted.values())
    state = f"{len(problems)} failing" if problems else "all well"
    yield (
        f"{time.strftime('%H:%M:%S')}  {'serving' if found.is_serving else 'NOT SERVING'}, {state}  "
        f"{total / seconds:,.0f} reads/s  L1 {table.share(used, me.l1_max_bytes)} full  "
        f"{me.partitions_fresh} partitions fresh  policy {found.stats.policy.version}  {me.version} {me.engine}"
    )
    rows = [["dataset", "reads/s", "L1", "L2", "store/s", "errors/s", "entries", "MB"]]
    for name, one in counted.items():
        shares = table.share(one.l1, one.reads), table.share(one.l2, one.reads)
        numbers = f"{one.store / seconds:,.0f}", f"{one.errors / seconds:,.1f}", f"{one.entries:,}", f"{one.bytes / 1e6:,.1f}"
        rows.append([name, f"{one.reads / seconds:,.0f}", *shares, *numbers])
    yield from table.lines(rows)
    for problem in problems:
        yield f"FAILS  {problem}"


def _show(shown: list[str], *, is_live: bool) -> None:
    if not is_live:
        click.echo("\n".join([*shown, ""]))
        return
    width, height = shutil.get_terminal_size()
    # One line is left free: the cursor would scroll the screen.
    fitting = [line[:width] + _REST_OF_LINE for line in shown[: max(1, height - 1)]]
    click.echo(_HOME + "\r\n".join(fitting) + _REST, nl=False, color=True)


@contextlib.asynccontextmanager
async def _screen(*, is_live: bool) -> AsyncIterator[asyncio.Event]:
    """Prepares the terminal, and restores it; yields what is set when `q` is pressed."""
    ended = asyncio.Event()
    if not is_live:
        yield ended
        return
    with _keys(ended):
        click.echo(_HIDE + _HOME + _REST, nl=False, color=True)
        try:
            yield ended
        finally:
            click.echo(f"{_SHOW}\r\n", nl=False, color=True)


@contextlib.contextmanager
def _keys(ended: asyncio.Event) -> Iterator[None]:
    """Sets `ended` when `q` is pressed, where standard input is a terminal."""
    if not sys.stdin.isatty():
        yield
        return
    import termios  # noqa: PLC0415  # where there are terminals
    import tty  # noqa: PLC0415

    file, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(file)

    def on_input() -> None:
        pressed = os.read(file, 64)
        if b"q" in pressed.lower() or not pressed:
            loop.remove_reader(file)
            ended.set()

    tty.setcbreak(file)
    loop.add_reader(file, on_input)
    try:
        yield
    finally:
        loop.remove_reader(file)
        termios.tcsetattr(file, termios.TCSADRAIN, before)
