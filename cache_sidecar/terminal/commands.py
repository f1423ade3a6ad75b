"""The commands for people on call. Modules that need gRPC are imported when a command runs."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import get_completion_class

from cache_sidecar.core.errors import InputError, ServerUnreachable
from cache_sidecar.core.log_level import LEVELS
from cache_sidecar.core.signals import run_to_end
from cache_sidecar.terminal.ranges import Range

if TYPE_CHECKING:
    from cache_sidecar.terminal.access import Access

# What `status` exits with when the sidecar cannot be asked.
EXIT_UNKNOWN = 2
PROGRAM = "cache-sidecar"
_FILE = click.Path(path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def access_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say how to call a sidecar: the arguments of `Access.read` but the address."""
    for option in reversed(
        [
            click.option("--ca", type=_FILE, metavar="FILE", help="Use TLS, and trust this CA."),
            click.option("--server-name", default="", metavar="NAME", help="The name in its certificate, if not the host."),
            click.option("--cert", type=_FILE, metavar="FILE", help="The client certificate, for mutual TLS."),
            click.option("--key", "key_file", type=_FILE, metavar="FILE", help="The key of the client certificate."),
            click.option("--token-file", type=_FILE, metavar="FILE", help="File with a bearer token."),
        ]
    ):
        command = option(command)
    return command


def _calls(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say which sidecar to call, and how: the arguments of `_access`."""
    return click.option(
        "--address",
        default="127.0.0.1:50051",
        show_default=True,
        metavar="ADDRESS",
        help="The sidecar to ask: HOST:PORT, or unix:/path/of/the/socket.",
    )(access_options(command))


def watch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of `top`."""
    interval = click.option(
        "--interval", default=1.0, show_default=True, type=Range(0.1, 3600), help="Seconds between two looks."
    )
    return interval(click.option("--count", type=click.IntRange(1), metavar="N", help="End after N looks.")(command))


def _access(options: dict[str, Any], *, role: str = "admin") -> "Access":
    from cache_sidecar.terminal.access import Access  # noqa: PLC0415

    return Access.read(**options, role=role)


def _read_key(key: str) -> str:
    """Returns a key; `-` is read from standard input, so that neither the shell's history nor `ps` shows it."""
    if key != "-":
        return key
    found = sys.stdin.readline().rstrip("\r\n")
    if not found:
        raise InputError("standard input has no key")
    return found


@click.command()
@_calls
@json_option
def status(*, as_json: bool, **options: Any) -> int:
    """Print whether a sidecar is well: what fails and why, hit ratios, invalidations, relay lag, memory.

    Exits with 1 if anything fails, and with 2 if the sidecar does not answer.
    """
    return run_to_end(show_status(_access(options), as_json=as_json))


async def show_status(access: "Access", *, as_json: bool) -> int:
    """Prints what a sidecar says of itself; returns the exit code."""
    from cache_sidecar.terminal import status as module  # noqa: PLC0415

    try:
        async with access.open() as channel:
            found = await module.read(access, channel)
    except ServerUnreachable as error:
        click.echo(f"cache-sidecar: {error}", err=True)
        return EXIT_UNKNOWN
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
    else:
        for line in found.lines():
            click.echo(line)
    return 1 if found.problems() else 0


@click.command()
@click.argument("dataset")
@click.argument("key")
@_calls
@json_option
def explain(dataset: str, key: str, *, as_json: bool, **options: Any) -> None:
    """Print what each tier holds of KEY, with versions and ages; `-` reads KEY from standard input.

    Changes nothing: neither fills a cache, nor counts as a use. For `session`, KEY is the SHA-256 of the session's ID in
    hexadecimal digits.
    """
    from cache_sidecar.terminal import keys  # noqa: PLC0415

    reply = run_to_end(keys.explain(_access(options), dataset, _read_key(key)))
    for line in [keys.as_json(reply)] if as_json else keys.lines(reply):
        click.echo(line)


@click.command()
@click.argument("key")
@click.option("--dataset", default="product", show_default=True, help="One of product, cart, inventory.")
@click.option("--max-age", type=Range(0), metavar="SECONDS", help="Accept no older content from a cache.")
@click.option("--bypass", is_flag=True, help="Read PostgreSQL, and fill the caches with the result.")
@_calls
def get(key: str, *, dataset: str, max_age: float | None, bypass: bool, **options: Any) -> None:
    """Print what a caller gets who reads KEY, as JSON; `-` reads KEY from standard input. Fills the caches as any read does."""
    from cache_sidecar.terminal import keys  # noqa: PLC0415

    access = _access(options, role="app")
    click.echo(run_to_end(keys.get(access, dataset, _read_key(key), max_age=max_age, bypass=bypass)))


@click.command()
@click.argument("user_id")
@click.option("--placement", default="home", show_default=True, type=click.Choice(["home", "product", "cart", "checkout"]))
@click.option("--model", metavar="MODEL", help="Such as buy-it-again or others-you-may-like; by default the placement's.")
@click.option("--product", "products", multiple=True, metavar="ID", help="A product of the page or the cart; may be repeated.")
@click.option("--size", default=10, show_default=True, type=click.IntRange(1, 100), help="Number of products.")
@click.option("--explain", "is_explained", is_flag=True, help="Also print what each score is made of.")
@_calls
def recommend(
    user_id: str,
    *,
    placement: str,
    model: str | None,
    products: tuple[str, ...],
    size: int,
    is_explained: bool,
    **options: Any,
) -> None:
    """Print what a sidecar recommends to a user, and why; `-` reads USER_ID from standard input."""
    from cache_sidecar.terminal import recommend as module  # noqa: PLC0415

    wanted = module.request_of(
        _read_key(user_id), placement=placement, model=model, products=products, size=size, explain=is_explained
    )
    reply = run_to_end(module.ask(_access(options, role="app"), wanted))
    for line in module.lines(reply, explain=is_explained):
        click.echo(line)


@click.command()
@click.argument("dataset")
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Drop the whole dataset, instead of some IDs.")
@_calls
def invalidate(dataset: str, ids: tuple[str, ...], *, everything: bool, **options: Any) -> None:
    """Drop IDS of a dataset from Redis and from the memory of every sidecar; `-` reads an ID from standard input."""
    from cache_sidecar.terminal import policies  # noqa: PLC0415

    if everything == bool(ids):
        raise click.UsageError("name IDs to drop, or --all for the whole dataset")
    dropped = run_to_end(policies.invalidate(_access(options), dataset, [_read_key(id) for id in ids]))
    click.echo(f"{dataset}: dropped {dropped:,} {'keys' if everything else 'IDs'}")


@click.command()
@click.argument("changes", nargs=-1, metavar="[DATASET.KEY=VALUE]...")
@click.option("--dataset", metavar="NAME", help="Show only this dataset.")
@click.option("--reset", "resets", multiple=True, metavar="DATASET.KEY", help="Back to the policy file; may be repeated.")
@_calls
def policy(changes: tuple[str, ...], *, dataset: str | None, resets: tuple[str, ...], **options: Any) -> None:
    """Print the policy in effect, or change it in one sidecar until that stops, such as product.rollout=50."""
    from cache_sidecar.terminal import policies  # noqa: PLC0415

    access = _access(options)
    if changes or resets:
        changed = run_to_end(policies.update(access, policies.parse(changes, resets)))
        shown, file = [changed.policy], changed.status
    else:
        found = run_to_end(policies.read(access))
        shown, file = [one for one in found.datasets if dataset in {None, one.dataset}], found.status
        if not shown:
            raise InputError(f"there is no dataset {dataset!r}; there are: {', '.join(one.dataset for one in found.datasets)}")
    for line in policies.lines(shown, file):
        click.echo(line)


@click.command("log-level")
@click.argument("level", required=False, type=click.Choice([*LEVELS, "reset"]))
@click.option(
    "--for",
    "seconds",
    type=Range(1, 86400),
    metavar="SECONDS",
    help="How long it stays.  [default: 900]",
)
@_calls
def log_level(level: str | None, *, seconds: float | None, **options: Any) -> None:
    """Print the level of a sidecar's log, or change it for a while; `reset` goes back to the setting `log_level` at once."""
    from cache_sidecar.terminal import log_levels  # noqa: PLC0415

    if seconds is not None and level in {None, "reset"}:
        raise click.UsageError("--for needs a level to change to, such as `log-level debug --for 600`")
    access = _access(options)
    found = run_to_end(log_levels.read(access) if level is None else log_levels.update(access, level, seconds or 900.0))
    click.echo(log_levels.line(found))


@click.command()
@watch_options
@_calls
def top(*, interval: float, count: int | None, **options: Any) -> None:
    """Show rates, hit ratios and what fails, live; `q` ends it. Prints lines where the output is no terminal."""
    from cache_sidecar.terminal import top as module  # noqa: PLC0415

    run_to_end(module.watch(_access(options), interval=interval, count=count))


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete these commands, such as for `eval "$(cache-sidecar completion bash)"`."""
    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(context.find_root().command, {}, PROGRAM, f"_{PROGRAM}_COMPLETE".replace("-", "_").upper()).source())


ALL = (status, top, explain, get, recommend, invalidate, policy, log_level, completion)
