"""The command line. Errors of the user are reported in one line; the README lists the exit codes."""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
import uvloop

from cache_sidecar import __version__
from cache_sidecar.config import settings
from cache_sidecar.config.settings import Settings
from cache_sidecar.core import masks, telemetry
from cache_sidecar.core.allocator import limit_arenas
from cache_sidecar.core.errors import InputError, ServerUnreachable, SettingsError, SidecarError
from cache_sidecar.core.signals import run_to_end, run_until_signalled
from cache_sidecar.dashboard.commands import dashboard
from cache_sidecar.injector import commands as injector
from cache_sidecar.kubectl import commands as kubectl
from cache_sidecar.replay.commands import replay
from cache_sidecar.server.engines import selection
from cache_sidecar.terminal import commands as terminal
from cache_sidecar.terminal.ranges import Range

if TYPE_CHECKING:
    from cache_sidecar.analytics import Answer
    from cache_sidecar.datasets import DatasetSpec

EXIT_USAGE = 64
EXIT_UNREACHABLE = 69
EXIT_IO = 74
EXIT_INTERRUPTED = 130
# As in recommendation_service.proto.
MAX_BATCH_ID = 64
# Seconds between two progress lines of a long command.
PROGRESS_EVERY = 5.0


class _Cli(click.Group):
    """Reports errors as one line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Runs a command and exits."""
        telemetry.mask_tracebacks()
        try:
            code = super().main(*args, **kwargs | {"standalone_mode": False})
            if sys.stdout is not None:  # it is if it was closed before the start
                sys.stdout.flush()
        except click.ClickException as error:
            _fail(error.format_message(), EXIT_USAGE)
        except click.exceptions.Abort:
            sys.exit(EXIT_INTERRUPTED)
        except (SettingsError, InputError) as error:
            _fail(str(error), EXIT_USAGE)
        except ServerUnreachable as error:
            _fail(str(error), EXIT_UNREACHABLE)
        except SidecarError as error:
            _fail(str(error), 1)
        except OSError as error:
            _discard(sys.stdout)
            _fail(f"cannot write or read: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", EXIT_IO)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


def _discard(stream: TextIO) -> None:
    """Discards what could not be written: Python would try again at the exit, and print that this failed, too."""
    with contextlib.suppress(OSError), Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _fail(message: str, code: int) -> None:
    # PostgreSQL's messages have several lines.
    line = " ".join(map(str.strip, masks.mask(message).splitlines()))
    try:
        click.echo(f"cache-sidecar: {line}", err=True)
    except OSError:
        _discard(sys.stderr)  # the exit code has to suffice
    sys.exit(code)


_config = click.option(
    "--config", "config_file", metavar="FILE", help="TOML file with settings; CACHE_SIDECAR_* variables override it."
)

_ENGINES = click.Choice(["auto", "native", "aio"])


@click.group(cls=_Cli, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cache-sidecar", message="%(prog)s %(version)s")
def cli() -> None:
    """A gRPC cache sidecar for e-commerce: memory in front of Redis in front of PostgreSQL."""


for command in (injector.serve, injector.inject, injector.uninject, injector.check, dashboard, replay, *terminal.ALL):
    cli.add_command(command)


@click.group(cls=_Cli, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kubectl cache-sidecar", message="%(prog)s %(version)s")
def plugin() -> None:
    """The cache sidecars of a Kubernetes cluster, as kubectl reaches them."""


for command in kubectl.ALL:
    plugin.add_command(command)


@cli.command()
@click.option("--engine", type=_ENGINES, help="The gRPC server; overrides the setting `engine`.")
@_config
def serve(engine: str | None, config_file: str | None) -> None:
    """Run a sidecar with existing Redis and PostgreSQL servers.

    Its region needs a running `cache-sidecar relay`; without one, replies are soon marked as possibly stale.
    """
    loaded = settings.load(config_file)
    if engine:
        loaded = loaded.model_copy(update={"engine": engine})
    limit_arenas()
    from cache_sidecar.app import App  # noqa: PLC0415  # other commands don't wait for gRPC to load
    from cache_sidecar.core.garbage_collection import short_pauses  # noqa: PLC0415
    from cache_sidecar.server import descriptors, shutdown_endpoint  # noqa: PLC0415

    descriptors.raise_limit(loaded)

    async def run(stop: asyncio.Event) -> None:
        app = App(loaded)
        # Before the sidecar serves: an application starts then, and reads the token.
        async with shutdown_endpoint.listening(loaded.quit_address, loaded.quit_token_file, stop):
            try:
                await app.start()
                async with short_pauses():
                    await stop.wait()
            finally:
                await app.stop()

    _run_until_signalled(loaded, run)


@cli.command()
@_config
def relay(config_file: str | None) -> None:
    """Run the relay of a region, which publishes the changes that writers could not."""
    loaded = settings.load(config_file)
    from cache_sidecar.relay import process  # noqa: PLC0415

    _run_until_signalled(loaded, lambda stop: process.run(loaded, stop))


def _run_until_signalled(loaded: Settings, run: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    telemetry.configure(level=loaded.log_level, format=loaded.log_format)
    run_until_signalled(run)


@cli.command()
@_config
def migrate(config_file: str | None) -> None:
    """Migrate the databases to the schema of this version, and grant sidecars and relays what they need."""
    loaded = settings.load(config_file, redis=False)
    from cache_sidecar.store.migrate import migrate as apply  # noqa: PLC0415
    from cache_sidecar.store.rights import grants  # noqa: PLC0415

    migrated: list[str] = []
    granted = grants(sidecar=loaded.postgres_sidecar_role, relay=loaded.postgres_relay_role)
    for dsn, roles in loaded.databases().items():
        try:
            names = uvloop.run(apply(dsn, *roles, grants=granted, language=loaded.search_language))
        except (InputError, ServerUnreachable) as error:
            if migrated:
                raise type(error)(f"{error} (already migrated: {', '.join(migrated)})") from None
            raise
        for name in names:
            click.echo(f"{', '.join(roles)}: applied {name}")
        for role in granted:
            click.echo(f"{', '.join(roles)}: granted {role} what it needs")
        migrated += roles
    click.echo("The databases are up to date.")


@cli.command()
@_config
def config(config_file: str | None) -> None:
    """Print every setting with its value, the origin of the value, and its meaning."""
    lines = settings.describe(config_file)
    width = max(len(line.name) for line in lines)
    values = {line.name: line.value for line in lines}
    selected = selection.explain(values["engine"], listen_socket=values["listen_socket"] or values["probe_socket"])
    here = {"engine": f" Here: {selected}."}
    for line in lines:
        click.echo(f"{line.name:<{width}}  {line.value or '(empty)'}  [{line.origin}]")
        click.echo(f"{'':<{width}}  {line.meaning}{here.get(line.name, '')}")


@cli.command()
@click.option("--state", default=".dev", show_default=True, metavar="DIR", help="Folder for all data.")
@click.option("--sidecars", default=1, show_default=True, type=click.IntRange(1, 16), help="Sidecars in each region.")
@click.option(
    "--regions", default=1, show_default=True, type=click.IntRange(1, 8), help="Regions, each with a Redis cluster and a relay."
)
@click.option(
    "--products",
    type=click.IntRange(0, 10_000_000),
    help="Number of demo products.  [default: 100000, or 0 with --data]",
)
@click.option("--data", type=click.Path(path_type=Path), metavar="FILE", help="Products to import, as `import products` does.")
@click.option(
    "--currency", default="", metavar="CODE", help="Currency of the products in --data, if the file does not have it."
)
@click.option("--restart", is_flag=True, help="Have the stack that runs in --state start again what has exited.")
@click.option("--listen", default="127.0.0.1:50051", show_default=True, help="Address of the first sidecar.")
@click.option(
    "--engine",
    type=_ENGINES,
    default="auto",
    envvar=f"{settings.PREFIX}ENGINE",
    show_default=True,
    help="The gRPC server: native (Rust), aio (grpc.aio), or auto for native where it is installed.",
)
def dev(state: str, *, restart: bool, **options: Any) -> int:
    """Run everything on this machine: Redis cluster, PostgreSQL, demo products, relay and sidecars."""
    from cache_sidecar.devstack import dev  # noqa: PLC0415
    from cache_sidecar.devstack.dev import DevOptions, run  # noqa: PLC0415

    if restart:
        click.echo(uvloop.run(dev.restart(Path(state))))
        return 0
    return uvloop.run(run(DevOptions(state=Path(state), **options)))


@cli.command()
@click.option("--dataset", "datasets", multiple=True, metavar="NAME", help="Compare only this dataset; may be repeated.")
@_config
def verify(datasets: tuple[str, ...], config_file: str | None) -> int:
    """Compare all entries in Redis with PostgreSQL; differing ones again after the staleness bound."""
    loaded = settings.load(config_file)
    telemetry.configure(level=loaded.log_level, format=loaded.log_format)
    from cache_sidecar import verify as module  # noqa: PLC0415

    reports = uvloop.run(
        module.verify(loaded, datasets, progress=_report_progress(lambda dataset, keys: f"{dataset}: {keys:,} keys"))
    )
    for line in (line for report in reports for line in report.lines()):
        click.echo(line)
    return 1 if any(report.overdue for report in reports) else 0


def _report_progress(line: Callable[..., str]) -> Callable[..., None]:
    """Returns a function that prints the line of its arguments to standard error, at most every few seconds."""
    printed_at = time.monotonic()

    def report(*progress: Any) -> None:
        nonlocal printed_at
        if time.monotonic() - printed_at >= PROGRESS_EVERY:
            printed_at = time.monotonic()
            click.echo(line(*progress), err=True)

    return report


@cli.command()
@click.argument("file")
@click.option(
    "--until",
    type=click.DateTime(["%Y-%m-%d"]),
    help="First day that nothing is learned from; by default after 80 % of the days.",
)
@click.option(
    "--lists", type=click.Path(path_type=Path), metavar="FILE", help="File for the lists of each known customer, as JSON Lines."
)
def evaluate(file: str, until: datetime | None, lists: Path | None) -> None:
    """Measure recommendations by the orders in FILE, in the UCI Online Retail format; `-` is standard input.

    Learns from the first days, and counts how often a list of 10 has what customers then bought. Starts servers of its own.
    """
    from cache_sidecar import evaluate as module  # noqa: PLC0415

    day = until.date() if until else None
    work = module.evaluate(file, until=day, lists=lists)
    for line in run_to_end(work).lines():
        click.echo(line)


@cli.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--example", is_flag=True, help="Print an example of FILE instead.")
def estimate(file: Path | None, example: bool) -> None:
    """Compute memory, statements, cost and saving from the figures of a shop in FILE (TOML)."""
    from cache_sidecar.estimate import inputs, report  # noqa: PLC0415

    if example:
        click.echo(inputs.EXAMPLE.read_text(encoding="utf-8"), nl=False)
        return
    if file is None:
        raise click.UsageError("name a FILE: `cache-sidecar estimate --example > shop.toml` prints one to start from")
    for line in report.estimate(inputs.read(file)).lines():
        click.echo(line)


@cli.command()
@click.argument("urls", nargs=-1, metavar="[URL]...")
@click.option("--seconds", type=Range(1, 86_400), help="Count for so long from now on, not since the sidecars' start.")
@click.option("--prometheus", metavar="URL", help="Ask this Prometheus instead of the sidecars.")
@click.option("--period", default="1d", show_default=True, help="Of the Prometheus: such as 90m, 12h, 7d.")
@click.option("--match", default="", metavar="LABELS", help="Of the Prometheus: which sidecars, such as 'namespace=\"shop\"'.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def advise(  # noqa: PLR0917  # click names them
    urls: tuple[str, ...], seconds: float | None, prometheus: str | None, period: str, match: str, as_json: bool
) -> None:
    """Print what other TTLs, sizes of memory and rollouts would do to hits, staleness and PostgreSQL, with figures.

    Reads the metrics of sidecars at URL, http://127.0.0.1:9464/metrics by default, or those in a Prometheus. Changes nothing:
    it prints the lines of the policy that a person may apply.
    """
    from cache_sidecar.advise import period as module  # noqa: PLC0415
    from cache_sidecar.advise import report  # noqa: PLC0415

    if prometheus is None:
        found = module.from_sidecars(urls or ("http://127.0.0.1:9464/metrics",), seconds=seconds)
    elif urls or seconds is not None:
        raise click.UsageError("--prometheus goes with --period and --match, not with URLs and --seconds")
    else:
        found = module.from_prometheus(prometheus, period=period, match=match)
    made = report.report(found)
    for line in [json.dumps(made.as_json(), indent=2)] if as_json else made.lines():
        click.echo(line)


@cli.group()
def recommendations() -> None:
    """Maintain what recommendations are computed from."""


@recommendations.command()
@_config
def rebuild(config_file: str | None) -> None:
    """Forget what was learned, and have the relay learn it anew from the events that are kept.

    Older purchases than these, which have been dropped after `event_retention` days, are forgotten. Meanwhile users get the
    most popular products. Needs the rights of a relay.
    """
    loaded = _load_settings(config_file)
    from cache_sidecar.recommendations import rebuild as module  # noqa: PLC0415

    report = _report_progress(lambda done, of: f"{done:,} of {of:,} events")
    work = module.rebuild(loaded.database("analytics"), progress=report)
    click.echo(run_to_end(work).line())


@cli.group()
def user() -> None:
    """Export or erase what is kept about one user."""


@user.command(name="export")
@click.argument("user_id")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="File to write, readable by its owner only.")
@_config
def export_user(user_id: str, output: Path | None, config_file: str | None) -> None:
    """Print everything that is kept about USER_ID, as JSON."""
    from cache_sidecar import user_data  # noqa: PLC0415
    from cache_sidecar.devstack.state import write_private  # noqa: PLC0415

    if output is not None and (output.is_symlink() or (output.exists() and not output.is_file())):
        # It would be replaced: /dev/stdout and /dev/null, too.
        raise InputError(f"cannot write {output}: it exists and is not a regular file")

    def write(found: dict[str, Any]) -> None:
        text = json.dumps(found, indent=2, ensure_ascii=False, default=str)
        if output is None:
            click.echo(text)
            return
        try:
            write_private(output, f"{text}\n")
        except OSError as error:
            raise InputError(f"cannot write {output}: {error.strerror}") from None

    run_to_end(user_data.export(_load_settings(config_file), user_id, write=write))


@user.command(name="erase")
@click.argument("user_id")
@_config
def erase_user(user_id: str, config_file: str | None) -> int:
    """Erase everything that is kept about USER_ID, in PostgreSQL and in every region's Redis; may be repeated."""
    from cache_sidecar import user_data  # noqa: PLC0415

    report = run_to_end(user_data.erase(_load_settings(config_file), user_id))
    for line in report.lines():
        click.echo(line)
    if report.unpublished:
        raise ServerUnreachable(
            f"erased in PostgreSQL, but not yet in Redis ({'; '.join(report.unpublished)}): "
            "the relays do that once they and Redis run; run the command again to see whether they have"
        )
    return 0 if report.is_complete else 1


@cli.group()
def analytics() -> None:
    """Answer questions about what users did, from the events in PostgreSQL or their copy in MongoDB."""


_days = click.option("--days", default=7, show_default=True, type=click.IntRange(1, 3650), help="Events of the last N days.")
_store = click.option(
    "--store",
    default="postgresql",
    show_default=True,
    type=click.Choice(["postgresql", "mongodb"]),
    help="Where to ask: PostgreSQL, or the copy in MongoDB.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


@analytics.command()
@_days
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 100_000), help="Number of products.")
@_store
@_json
@_config
def top(days: int, limit: int, store: str, as_json: bool, config_file: str | None) -> None:
    """Print the best sellers: pieces, orders and revenue."""
    from cache_sidecar import analytics as module  # noqa: PLC0415

    _print_answer(uvloop.run(module.top(_load_settings(config_file), store, days=days, limit=limit)), as_json=as_json)


@analytics.command()
@_days
@_store
@_json
@_config
def funnel(days: int, store: str, as_json: bool, config_file: str | None) -> None:
    """Print how many products were viewed, then added to the cart, and then bought by the same user."""
    from cache_sidecar import analytics as module  # noqa: PLC0415

    _print_answer(uvloop.run(module.funnel(_load_settings(config_file), store, days=days)), as_json=as_json)


@analytics.command(name="abandoned")
@_days
@click.option("--idle", default=1.0, show_default=True, type=Range(0, 24 * 365), help="Hours without a change.")
@_store
@_json
@_config
def idle_carts(days: int, idle: float, store: str, as_json: bool, config_file: str | None) -> None:
    """Print what is left in carts that were neither changed nor bought for a while."""
    from cache_sidecar import analytics as module  # noqa: PLC0415

    answer = uvloop.run(module.idle_carts(_load_settings(config_file), store, days=days, idle=idle))
    _print_answer(answer, as_json=as_json)


def _print_answer(answer: "Answer", *, as_json: bool) -> None:
    if as_json:
        click.echo(answer.as_json())
        return
    for line in answer.lines():
        click.echo(line)


def _load_settings(config_file: str | None) -> Settings:
    loaded = settings.load(config_file, redis=False)
    telemetry.configure(level=loaded.log_level, format=loaded.log_format)
    return loaded


class _ImportCommands(click.Group):
    """The commands `import NAME`, one for each dataset that has an import. Other commands don't wait for the list to load."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click passes it
        """Returns the names."""
        return list(_imports())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click passes it
        """Returns a command."""
        spec = _imports().get(cmd_name)
        return None if spec is None else _import_command(spec)


def _imports() -> "dict[str, DatasetSpec]":
    from cache_sidecar import datasets  # noqa: PLC0415

    return {spec.imports.name: spec for spec in datasets.ALL if spec.imports is not None}


@cli.group(name="import", cls=_ImportCommands)
def import_() -> None:
    """Import existing data."""


def _import_command(spec: "DatasetSpec") -> click.Command:
    imports = spec.imports
    assert imports is not None
    kept = "the line numbers and reasons of" if imports.is_secret else "the lines, with the reasons, of"
    rejects_help = (
        f"CSV file for {kept} rows that are not imported, so that they can be corrected; FILE.rejected.csv by default."
    )

    @click.command(name=imports.name, help=f"Import {imports.description or imports.name} from FILE; `-` is standard input.")
    @click.argument("file")
    @click.option("--format", "format_", help=f"One of {', '.join(imports.formats)}; detected by default.")
    @click.option("--rejects", type=click.Path(path_type=Path), help=rejects_help)
    @click.option("--map", "map_", metavar="THEIRS=OURS,...", help="Columns of FILE with ours; its other columns are ignored.")
    @click.option("--dry-run", is_flag=True, help="Check every row, and write nothing but the rejected ones to --rejects.")
    @_config
    def command(
        file: str,
        *,
        format_: str | None,
        rejects: Path | None,
        map_: str | None,
        dry_run: bool,
        config_file: str | None,
        batch_id: str = "",
        currency: str = "",
        delete_missing: bool = False,
        max_deleted: float = 10.0,
    ) -> int:
        if len(batch_id) > MAX_BATCH_ID or not batch_id.isprintable():
            raise InputError(f"--batch-id must have at most {MAX_BATCH_ID} printable characters")
        loaded = settings.load(config_file, redis=False, postgres=not dry_run or delete_missing)
        from cache_sidecar.config import policy  # noqa: PLC0415
        from cache_sidecar.importer import progress, run  # noqa: PLC0415
        from cache_sidecar.importer.spec import Parts  # noqa: PLC0415

        parts = Parts(settings=lambda: loaded, policy=lambda: policy.load(loaded.policy_file)[spec.name])
        report = uvloop.run(
            run.import_rows(
                imports,
                parts,
                source=file,
                dsn=loaded.database(spec.role),
                format=format_,
                rejects=rejects,
                progress=progress.progress_on(),
                batch_id=batch_id,
                options=run.ImportOptions(
                    names=run.parse_names(map_ or "", imports),
                    currency=currency,
                    is_dry_run=dry_run,
                    deletes_missing=delete_missing,
                    max_deleted=max_deleted / 100,
                ),
            )
        )
        for line in report.lines():
            click.echo(line)
        return report.exit_code

    if imports.bulk.is_whole:
        meaning = "Name of the batch, to go on with it after an interruption; by default the file's."
        command.params.append(click.Option(["--batch-id"], metavar="ID", default="", help=meaning))
    if imports.has_currency:
        meaning = "Currency of all rows, such as EUR, if FILE does not have it."
        command.params.append(click.Option(["--currency"], metavar="CODE", default="", help=meaning))
    if imports.can_delete:
        meaning = f"Delete the {imports.name} that are not in FILE, unless rows were rejected or --max-deleted is exceeded."
        command.params.append(click.Option(["--delete-missing"], is_flag=True, help=meaning))
        meaning = "Percentage of all that --delete-missing may delete; of more, none."
        limit = Range(0, 100)
        command.params.append(
            click.Option(["--max-deleted"], type=limit, default=10.0, show_default=True, metavar="PERCENT", help=meaning)
        )
    return command
