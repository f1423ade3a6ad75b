"""The commands `injector`, `inject`, `uninject` and `check`; what they need is imported when they run."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

import click

from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import InputError, SettingsError
from cache_sidecar.core.signals import run_until_signalled

if TYPE_CHECKING:
    from cache_sidecar.injector.files import File, Result

_files = click.option(
    "-f", "--filename", "names", multiple=True, required=True, metavar="FILE", help="YAML file, or - for standard input."
)
_config = click.option(
    "--config",
    "config_files",
    multiple=True,
    metavar="FILE",
    help="TOML file with the injector's configuration; of several a later one wins, key by key.",
)
_version = click.option("--kubernetes-version", default="", metavar="VERSION", help="Version of the cluster; else the newest.")
_by_label = click.option("--by-label", is_flag=True, help="Only where the label is, on the pod or on a Namespace in the files.")


@click.command()
@_files
@_config
@_version
@_by_label
def inject(names: tuple[str, ...], config_files: tuple[str, ...], kubernetes_version: str, by_label: bool) -> int:
    """Print the files with the sidecar in every workload."""
    return _inject(names, config_files, kubernetes_version, by_label=by_label, prints=True)


@click.command()
@_files
@_config
@_version
@_by_label
def check(names: tuple[str, ...], config_files: tuple[str, ...], kubernetes_version: str, by_label: bool) -> int:
    """Say which workloads in the files would get a sidecar, and why others would not."""
    return _inject(names, config_files, kubernetes_version, by_label=by_label, prints=False)


@click.command()
@_files
def uninject(names: tuple[str, ...]) -> int:
    """Print the files without injected sidecars."""
    _need_extra("ruamel.yaml")
    from cache_sidecar.injector import files  # noqa: PLC0415

    read = [files.read(name) for name in names]
    return _tell(read, files.uninject(read), prints=True)


@click.command(name="injector")
@_config
def serve(config_files: tuple[str, ...]) -> None:
    """Run the webhook that puts the sidecar into pods as they are made."""
    for module in ("aiohttp", "cryptography", "prometheus_client"):
        _need_extra(module)
    from cache_sidecar.injector import config, process  # noqa: PLC0415

    loaded = config.load(*config_files)
    telemetry.configure(level=loaded.server.log_level, format="auto")
    run_until_signalled(lambda stop: process.run(loaded, stop))


def _inject(names: tuple[str, ...], config_files: tuple[str, ...], version: str, *, by_label: bool, prints: bool) -> int:
    _need_extra("ruamel.yaml")
    from cache_sidecar.injector import config, files  # noqa: PLC0415

    loaded = config.load(*config_files, kubernetes_version=version)
    read = [files.read(name) for name in names]
    return _tell(read, files.inject(read, loaded, by_label=by_label), prints=prints)


def _tell(read: list["File"], results: list["Result"], *, prints: bool) -> int:
    """Prints the files, and beside them a line for each workload; no files at all when one was denied."""
    if not results:
        raise InputError(f"there is no workload in {', '.join(file.origin for file in read)}")
    denied = any(result.action == "deny" for result in results)
    for result in results:
        click.echo(" ".join(part for part in (result.workload, result.action, result.detail) if part), err=prints)
    if prints and not denied:
        for file in read:
            sys.stdout.write(file.written(among_others=len(read) > 1))
    return 1 if denied else 0


def _need_extra(module: str) -> None:
    try:
        import_module(module)
    except ModuleNotFoundError:
        raise SettingsError(f"{module} is not installed: it comes with `pip install 'cache-sidecar[injector]'`") from None
