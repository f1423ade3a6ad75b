"""`cache-sidecar dashboard`. What needs gRPC or aiohttp is imported when it runs."""

import asyncio
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cache_sidecar.config.settings import is_loopback, split_address
from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import InputError, SettingsError
from cache_sidecar.core.signals import run_until_signalled

if TYPE_CHECKING:
    from cache_sidecar.dashboard.targets import Found

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("addresses", nargs=-1)
@click.option("--kubernetes", is_flag=True, help="Find the sidecars of pods, through the API server, with a service account.")
@click.option(
    "--selector",
    default="cache-sidecar.io/injected=true",
    show_default=True,
    metavar="LABELS",
    help="Which pods have sidecars.",
)
@click.option("--namespace", "namespaces", multiple=True, metavar="NAME", help="Only pods of this namespace; may be repeated.")
@click.option(
    "--port", default=9464, show_default=True, type=click.IntRange(1, 65535), help="The port of `web_address` in the pods."
)
@click.option(
    "--api-config",
    "api_configs",
    multiple=True,
    metavar="FILE",
    help="TOML file with the API server, in `[api]` as the injector's.",
)
@click.option(
    "--listen", default="127.0.0.1:9470", show_default=True, metavar="HOST:PORT", help="Where the page is; on loopback."
)
@click.option("--ca", type=_FILE, metavar="FILE", help="Use TLS for gRPC, and trust this CA.")
@click.option("--server-name", default="", metavar="NAME", help="The name in the sidecars' certificates, if not the host.")
@click.option("--cert", type=_FILE, metavar="FILE", help="The client certificate, for mutual TLS.")
@click.option("--key", "key_file", type=_FILE, metavar="FILE", help="The key of the client certificate.")
@click.option("--token-file", type=_FILE, metavar="FILE", help="File with a bearer token for gRPC; needs the role read.")
def dashboard(
    addresses: tuple[str, ...],
    *,
    kubernetes: bool,
    selector: str,
    namespaces: tuple[str, ...],
    port: int,
    api_configs: tuple[str, ...],
    listen: str,
    ca: Path | None,
    server_name: str,
    cert: Path | None,
    key_file: Path | None,
    token_file: Path | None,
) -> None:
    """Serve a page that compares many sidecars: rates, hit ratios, versions, what fails, and which differ from the others.

    ADDRESSES are HOST:PORT or unix:/path of gRPC, or http://HOST:PORT of the metrics. With --kubernetes, they are found.
    """
    if kubernetes == bool(addresses):
        raise click.UsageError("name the ADDRESSES of sidecars, or --kubernetes to find them")
    try:
        is_local = is_loopback(split_address(listen)[0])
    except ValueError as error:
        raise InputError(f"--listen: {error}") from None
    if not is_local:
        raise InputError(
            f"--listen: {listen} is not a loopback address, and the page asks nobody who they are: use 127.0.0.1 and a tunnel, "
            "such as `kubectl port-forward`"
        )
    try:
        import_module("aiohttp")
    except ModuleNotFoundError:
        raise SettingsError("aiohttp is not installed: run `pip install 'cache-sidecar[injector]'`") from None
    from cache_sidecar.dashboard import server  # noqa: PLC0415
    from cache_sidecar.dashboard.targets import Listed, Pods  # noqa: PLC0415
    from cache_sidecar.injector import config  # noqa: PLC0415
    from cache_sidecar.terminal.access import Access  # noqa: PLC0415

    access = Access.read("", ca=ca, cert=cert, key_file=key_file, server_name=server_name, token_file=token_file, role="read")
    found: Found = Listed(list(addresses))
    if kubernetes:
        found = Pods(config.load(*api_configs).api, selector, list(namespaces), port=port)
    telemetry.configure(level="info", format="auto")

    async def run(stop: asyncio.Event) -> None:
        async with server.serving(listen, found, access) as address:
            telemetry.log.info("serving", page=f"http://{address}/")
            await stop.wait()

    run_until_signalled(run)
