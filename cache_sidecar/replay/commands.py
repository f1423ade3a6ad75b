"""`cache-sidecar replay`. What needs gRPC or servers is imported when it runs."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import click

from cache_sidecar.core.errors import InputError
from cache_sidecar.core.signals import run_to_end
from cache_sidecar.terminal.ranges import Range

if TYPE_CHECKING:
    from cache_sidecar.replay.run import Options

# Seconds between two lines where there is no terminal.
_LINE_EVERY = 10.0
# Rounds of a comparison: enough for a confidence.
_ROUNDS = 5
_FILE = click.Path(path_type=Path, dir_okay=False)
FAULT_NAMES = ("primary killed", "redis killed", "postgresql stopped", "postgresql paused", "sidecar killed")


class Tell(Protocol):
    """Shows how far a replay is."""

    def __call__(self, what: str, done: int, total: int, /) -> None:
        """Called when a visit has ended, or something else begins."""
        ...


@click.command()
@click.argument("file")
@click.option(
    "--invoices", type=click.IntRange(1, 10_000_000), metavar="N", help="Replay only N invoices, spread over the file."
)
@click.option("--views", default=20, show_default=True, type=click.IntRange(1, 1000), help="Pages for each line of an invoice.")
@click.option("--concurrency", default=4, show_default=True, type=click.IntRange(1, 150), help="Shoppers at once.")
@click.option(
    "--speed-up", type=Range(0.001, 1e9), metavar="N", help="Visits begin N times as fast as in the file; without it, at once."
)
@click.option("--sidecars", default=1, show_default=True, type=click.IntRange(1, 16), help="Pods with a sidecar each.")
@click.option(
    "--logged-in", type=Range(0, 1), metavar="SHARE", help="Share of visitors who log in; as the file says if not given."
)
@click.option(
    "--abandoned", default=0.1, show_default=True, type=Range(0, 1), metavar="SHARE", help="Share of carts that are left."
)
@click.option(
    "--change-every",
    default=10,
    show_default=True,
    type=click.IntRange(0),
    help="Visits between changes of a price and a stock; 0 for none.",
)
@click.option(
    "--round-trip",
    default=0.5,
    show_default=True,
    type=Range(0, 1000),
    metavar="MS",
    help="Network between a pod and its servers.",
)
@click.option("--redis", type=click.Choice(["single", "cluster"]), help="Redis: one server, or three primaries with replicas.")
@click.option(
    "--baseline", type=click.Choice(["direct", "redis"]), help="Replay without a sidecar: PostgreSQL alone, or with Redis."
)
@click.option("--compare", is_flag=True, help="Replay in all arms in turn, and print ratios.")
@click.option(
    "--rounds", type=click.IntRange(1, 100), help="Parts of the visits between which arms take turns; 5 with --compare, else 1."
)
@click.option("--fault", type=click.Choice(FAULT_NAMES), help="What breaks after a third of the visits.")
@click.option("--fault-seconds", default=30.0, show_default=True, type=Range(0.1, 3600), help="For how long.")
@click.option("--seed", default=1, show_default=True, type=int, help="Decides what shoppers look at.")
@click.option(
    "--engine", default="auto", show_default=True, type=click.Choice(["auto", "native", "aio"]), help="Engine of the sidecars."
)
@click.option("--json", "json_file", type=_FILE, metavar="FILE", help="File for the report as JSON.")
@click.option("--html", "html_file", type=_FILE, metavar="FILE", help="File for the report as a page with charts.")
@click.option("--estimate", "estimate_file", type=_FILE, metavar="FILE", help="File for the measured figures, for `estimate`.")
def replay(file: str, **given: Any) -> int:
    """Replay the invoices of FILE as shoppers, and report what they saw and what it cost.

    FILE is in the UCI Online Retail format. Each invoice becomes a shopper who logs in, looks at pages, fills a cart and checks
    out. Starts servers of its own. Exits with 1 if an invariant is broken.
    """
    try:
        from cache_sidecar.replay import servers  # noqa: PLC0415  # may not be installed
    except ImportError:
        raise InputError("needs servers of its own: install them with `pip install 'cache-sidecar[dev]'`") from None
    from cache_sidecar.replay import html, order_file, report, run, sheet  # noqa: PLC0415

    servers.require_servers()
    options = _options(given)
    outputs = [given[name] for name in ("json_file", "html_file", "estimate_file") if given[name]]
    for output in outputs:
        # Found out before the replay, which may take an hour.
        if not output.absolute().parent.is_dir():
            raise InputError(f"cannot write {output}: there is no such directory")

    async def work(tell: Tell) -> dict[str, Any]:
        opened = await order_file.read_shop(file)
        visits = order_file.spread(opened.visits, given["invoices"])
        results = await run.replay(opened, visits, options, tell=tell)
        found = report.report(opened, visits, options, results)
        if given["estimate_file"]:
            _write(given["estimate_file"], sheet.text(opened, visits, options, found))
        return found

    with progress_on(sys.stderr) as tell:
        found = run_to_end(work(tell))
    if given["json_file"]:
        _write(given["json_file"], json.dumps(found, indent=2) + "\n")
    if given["html_file"]:
        _write(given["html_file"], html.page(found))
    for line in report.lines(found):
        click.echo(line)
    return 0 if report.is_sound(found) else 1


def _options(given: dict[str, Any]) -> "Options":
    from cache_sidecar.replay.faults import FAULTS  # noqa: PLC0415
    from cache_sidecar.replay.run import Options  # noqa: PLC0415
    from cache_sidecar.replay.servers import ARMS, CLUSTER, SINGLE, Plan  # noqa: PLC0415
    from cache_sidecar.replay.shopper import Habits  # noqa: PLC0415

    if given["compare"] and given["baseline"]:
        raise click.UsageError("--compare replays in all arms, the baselines among them: leave --baseline out")
    fault = given["fault"] or ""
    needs_cluster = bool(fault) and FAULTS[fault].needs_cluster
    if needs_cluster and given["redis"] == SINGLE:
        raise click.UsageError(f"--fault '{fault}' needs --redis cluster")
    rounds = given["rounds"] or (_ROUNDS if given["compare"] and not fault else 1)
    if fault and rounds > 1:
        raise click.UsageError("--fault needs --rounds 1: it breaks something once")
    arms = ARMS if given["compare"] else (given["baseline"] or ARMS[0],)
    plan = Plan(
        sidecars=given["sidecars"],
        redis=given["redis"] or (CLUSTER if needs_cluster else SINGLE),
        round_trip=given["round_trip"] / 1000,
        concurrency=given["concurrency"],
        engine=given["engine"],
    )
    habits = Habits(
        views=given["views"],
        abandoned=given["abandoned"],
        known=given["logged_in"],
        change_every=given["change_every"],
        concurrency=given["concurrency"],
        speed_up=given["speed_up"] or 0.0,
        seed=given["seed"],
    )
    return Options(arms, plan, habits, rounds, fault, given["fault_seconds"])


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}") from None


@contextmanager
def progress_on(stream: TextIO) -> Iterator[Tell]:
    """Shows progress on a stream: a bar in a terminal, otherwise a line from time to time."""
    if not stream.isatty():
        yield _lines(stream)
        return
    from rich.console import Console  # noqa: PLC0415  # other commands don't wait for it to load
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("visits"), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _lines(stream: TextIO) -> Tell:
    due = 0.0
    last = ""

    def tell(what: str, done: int, total: int) -> None:
        nonlocal due, last
        if what != last or time.monotonic() >= due:
            due, last = time.monotonic() + _LINE_EVERY, what
            print(f"{what}: {done:,} of {total:,} visits", file=stream, flush=True)

    return tell
