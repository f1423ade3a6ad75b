"""The command line. Every error a user can cause is one line; exit codes are those of the README."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import uvloop

from cache_sidecar import __version__
from cache_sidecar.config import settings
from cache_sidecar.config.settings import Settings
from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import InputError, ServerUnreachable, SettingsError, SidecarError
from cache_sidecar.core.signals import run_until_signalled
from cache_sidecar.injector import commands as injector
from cache_sidecar.server.engines import selection

if TYPE_CHECKING:
    from cache_sidecar.importer.report import ImportReport

EXIT_USAGE = 64
EXIT_UNREACHABLE = 69
EXIT_INTERRUPTED = 130
# Seconds between two words of a long command on how far it is.
SAY_EVERY = 5.0


class _Cli(click.Group):
    """Turns errors into one line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Runs a command and exits."""
        try:
            code = super().main(*args, **kwargs | {"standalone_mode": False})
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
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    click.echo(f"cache-sidecar: {message}", err=True)
    sys.exit(code)


_config = click.option(
    "--config", "config_file", metavar="FILE", help="TOML file with settings; variables CACHE_SIDECAR_* win over it."
)

_ENGINES = click.Choice(["auto", "native", "aio"])


@click.group(cls=_Cli, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cache-sidecar", message="%(prog)s %(version)s")
def cli() -> None:
    """A gRPC cache sidecar for e-commerce: memory in front of Redis in front of PostgreSQL."""


for command in (injector.serve, injector.inject, injector.uninject, injector.check):
    cli.add_command(command)


@cli.command()
@click.option("--engine", type=_ENGINES, help="What answers gRPC; wins over the setting `engine`.")
@_config
def serve(engine: str | None, config_file: str | None) -> None:
    """Run a sidecar with the shop's own Redis and PostgreSQL.

    It needs a `cache-sidecar relay` in its region; without one, its replies soon say that they may be stale.
    """
    loaded = settings.load(config_file)
    if engine:
        loaded = loaded.model_copy(update={"engine": engine})
    from cache_sidecar.app import App  # noqa: PLC0415  # other commands don't wait for gRPC
    from cache_sidecar.core.garbage_collection import short_pauses  # noqa: PLC0415
    from cache_sidecar.server import shutdown_endpoint  # noqa: PLC0415

    async def run(stop: asyncio.Event) -> None:
        app = App(loaded)
        try:
            await app.start()
            async with short_pauses(), shutdown_endpoint.listening(loaded.quit_address, stop):
                await stop.wait()
        finally:
            await app.stop()

    _run_until_signalled(loaded, run)


@cli.command()
@_config
def relay(config_file: str | None) -> None:
    """Run the relay of a region: it tells Redis of what writers could not."""
    loaded = settings.load(config_file)
    from cache_sidecar.relay import process  # noqa: PLC0415

    _run_until_signalled(loaded, lambda stop: process.run(loaded, stop))


def _run_until_signalled(loaded: Settings, run: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    telemetry.configure(level=loaded.log_level, format=loaded.log_format)
    run_until_signalled(run)


@cli.command()
@_config
def migrate(config_file: str | None) -> None:
    """Bring the databases to the schema this version needs."""
    loaded = settings.load(config_file, redis=False)
    from cache_sidecar.store.migrate import migrate as apply  # noqa: PLC0415

    migrated: list[str] = []
    for dsn, roles in loaded.databases().items():
        try:
            names = uvloop.run(apply(dsn, *roles))
        except (InputError, ServerUnreachable) as error:
            if migrated:
                raise type(error)(f"{error} (what was migrated before stays so: {', '.join(migrated)})") from None
            raise
        for name in names:
            click.echo(f"{', '.join(roles)}: applied {name}")
        migrated += roles
    click.echo("The databases are up to date.")


@cli.command()
@_config
def config(config_file: str | None) -> None:
    """Print every setting with its value, where that comes from, and what it means."""
    lines = settings.describe(config_file)
    width = max(len(line.name) for line in lines)
    values = {line.name: line.value for line in lines}
    here = {"engine": f" Here: {selection.explain(values['engine'], listen_socket=values['listen_socket'])}."}
    for line in lines:
        click.echo(f"{line.name:<{width}}  {line.value or '(empty)'}  [{line.origin}]")
        click.echo(f"{'':<{width}}  {line.meaning}{here.get(line.name, '')}")


@cli.command()
@click.option("--state", default=".dev", show_default=True, metavar="DIR", help="Folder that keeps everything.")
@click.option("--sidecars", default=1, show_default=True, type=click.IntRange(1, 16), help="Sidecars in each region.")
@click.option("--regions", default=1, show_default=True, type=click.IntRange(1, 8), help="Redis clusters, each with a relay.")
@click.option("--products", default=100_000, show_default=True, type=click.IntRange(1, 10_000_000), help="Demo products.")
@click.option("--listen", default="127.0.0.1:50051", show_default=True, help="Address of the first sidecar.")
@click.option(
    "--engine",
    type=_ENGINES,
    default="auto",
    envvar=f"{settings.PREFIX}ENGINE",
    show_default=True,
    help="The gRPC server: native (Rust), aio (grpc.aio), or auto for native where it is installed.",
)
def dev(state: str, **options: Any) -> int:
    """Run everything on this machine: a Redis cluster, PostgreSQL, demo products, the relay and sidecars."""
    from cache_sidecar.devstack.dev import DevOptions, run  # noqa: PLC0415

    return uvloop.run(run(DevOptions(state=Path(state), **options)))


@cli.command()
@click.option("--dataset", "datasets", multiple=True, metavar="NAME", help="Only this one; may be repeated.")
@_config
def verify(datasets: tuple[str, ...], config_file: str | None) -> int:
    """Compare everything that Redis holds with PostgreSQL; what differs, once more after the staleness bound."""
    loaded = settings.load(config_file)
    telemetry.configure(level=loaded.log_level, format=loaded.log_format)
    from cache_sidecar import verify as module  # noqa: PLC0415

    reports = uvloop.run(module.verify(loaded, datasets, progress=_every_so_often()))
    for line in (line for report in reports for line in report.lines()):
        click.echo(line)
    return 1 if any(report.overdue for report in reports) else 0


def _every_so_often() -> Callable[[str, int], None]:
    """Returns what says on standard error how far a sweep is, at most once in so many seconds."""
    said_at = time.monotonic()

    def say(dataset: str, keys: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= SAY_EVERY:
            said_at = time.monotonic()
            click.echo(f"{dataset}: {keys:,} keys", err=True)

    return say


@cli.group(name="import")
def import_() -> None:
    """Bring a shop's existing data in."""


# What every importer takes.
_Source = dict[str, Any]
_Importer = Callable[[Settings, _Source], Coroutine[Any, Any, "ImportReport"]]


def _imports(
    name: str, formats: str = "csv or jsonl", rejects: str = "FILE.rejected.csv if not given"
) -> Callable[[_Importer], Any]:
    """Makes the command `import NAME` of a function that starts the import."""

    def command_of(importer: _Importer) -> Any:
        @import_.command(name=name, help=importer.__doc__)
        @click.argument("file")
        @click.option("--format", "format_", help=f"{formats}; found out if not given.")
        @click.option("--rejects", type=click.Path(path_type=Path), help=f"Where {rejects} go; FILE.rejected.csv if not given.")
        @_config
        def command(file: str, format_: str | None, rejects: Path | None, config_file: str | None) -> int:
            loaded = settings.load(config_file, redis=False)
            from cache_sidecar.importer import progress  # noqa: PLC0415

            source = {"source": file, "format": format_, "rejects": rejects, "progress": progress.progress_on()}
            report = uvloop.run(importer(loaded, source))
            for line in report.lines():
                click.echo(line)
            return report.exit_code

        return command

    return command_of


@_imports("products", formats="csv, jsonl or online-retail")
async def import_products(loaded: Settings, source: _Source) -> "ImportReport":
    """Import products from FILE, or from standard input for `-`."""
    from cache_sidecar.importer import run  # noqa: PLC0415

    return await run.import_products(dsn=loaded.database("catalog"), **source)


@_imports("inventory")
async def import_inventory(loaded: Settings, source: _Source) -> "ImportReport":
    """Import how many pieces of products are available from FILE, or from standard input for `-`."""
    from cache_sidecar.importer import inventory  # noqa: PLC0415

    return await inventory.import_inventory(dsn=loaded.database("catalog"), **source)


@_imports("carts")
async def import_carts(loaded: Settings, source: _Source) -> "ImportReport":
    """Import carts from FILE, or from standard input for `-`."""
    from cache_sidecar.importer import carts  # noqa: PLC0415
    from cache_sidecar.services.cart_items import Limits  # noqa: PLC0415

    limits = Limits(items=loaded.cart_max_items, quantity=loaded.cart_max_quantity)
    return await carts.import_carts(dsn=loaded.database("user"), limits=limits, **source)


@_imports("sessions", rejects="the line numbers of rejected rows")
async def import_sessions(loaded: Settings, source: _Source) -> "ImportReport":
    """Import sessions from FILE, or from standard input for `-`."""
    from cache_sidecar.config import policy  # noqa: PLC0415
    from cache_sidecar.importer import sessions  # noqa: PLC0415

    limits = policy.load(loaded.policy_file)["session"]
    return await sessions.import_sessions(dsn=loaded.database("user"), policy=limits, **source)
