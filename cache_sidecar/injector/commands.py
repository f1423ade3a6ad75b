"""The commands `injector`, `inject`, `uninject` and `check`. Optional dependencies are imported when a command runs."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import InputError, SettingsError
from cache_sidecar.core.signals import run_until_signalled

if TYPE_CHECKING:
    from cache_sidecar.injector.files import File, Result

_files = click.option(
    "-f",
    "--filename",
    "names",
    multiple=True,
    required=True,
    metavar="FILE",
    help="YAML or JSON file, or - for standard input.",
)
config_option = click.option(
    "--config",
    "config_files",
    multiple=True,
    metavar="FILE",
    help="TOML file with the injector's configuration. Repeatable; later files override earlier ones, key by key.",
)
_version = click.option(
    "--kubernetes-version",
    default="",
    metavar="VERSION",
    help="Kubernetes version to inject for. Default: the configured one, else the newest.",
)
_by_label = click.option(
    "--by-label", is_flag=True, help="Only inject if the label is set, on the pod or on its Namespace in the files."
)


@click.command()
@_files
@config_option
@_version
@_by_label
def inject(names: tuple[str, ...], config_files: tuple[str, ...], kubernetes_version: str, by_label: bool) -> int:
    """Print the files with the sidecar injected into every workload."""
    return _inject(names, config_files, kubernetes_version, by_label=by_label, prints=True)


@click.command()
@_files
@config_option
@_version
@_by_label
def check(names: tuple[str, ...], config_files: tuple[str, ...], kubernetes_version: str, by_label: bool) -> int:
    """Report which workloads in the files would get a sidecar, and why others would not."""
    return _inject(names, config_files, kubernetes_version, by_label=by_label, prints=False)


@click.command()
@_files
@config_option
def uninject(names: tuple[str, ...], config_files: tuple[str, ...]) -> int:
    """Print the files without injected sidecars."""
    files = import_files()
    from cache_sidecar.injector import config  # noqa: PLC0415

    loaded = config.load(*config_files)
    read = [files.read(name) for name in names]
    return report(read, files.uninject(read, loaded.pod_templates), prints=True)


@click.command(name="injector")
@config_option
def serve(config_files: tuple[str, ...]) -> None:
    """Run the admission webhook that injects the sidecar into new pods."""
    for module in ("aiohttp", "cryptography"):
        _need_extra(module)
    from cache_sidecar.injector import config, process  # noqa: PLC0415

    loaded = config.load(*config_files)
    telemetry.configure(level=loaded.server.log_level, format="auto")
    run_until_signalled(lambda stop: process.run(loaded, stop))


def _inject(names: tuple[str, ...], config_files: tuple[str, ...], version: str, *, by_label: bool, prints: bool) -> int:
    files = import_files()
    done, results = inject_files([files.read(name) for name in names], config_files, version, by_label=by_label)
    return report(done, results, prints=prints)


def import_files() -> Any:
    """Returns the module `files`. Raises SettingsError without the extra that it needs."""
    _need_extra("ruamel.yaml")
    return import_module("cache_sidecar.injector.files")


def inject_files(
    read: list["File"], config_files: tuple[str, ...], version: str = "", *, by_label: bool
) -> tuple[list["File"], list["Result"]]:
    """Returns files with the sidecar injected as the configuration says, and the result for each workload."""
    from cache_sidecar.injector import config, files  # noqa: PLC0415

    return files.inject(read, config.load(*config_files, kubernetes_version=version), by_label=by_label)


def report(read: list["File"], results: list["Result"], *, prints: bool) -> int:
    """Prints one line for each workload, and the files unless a workload was denied. Returns the exit code."""
    if not results:
        raise InputError(f"no workload found in {', '.join(file.origin for file in read)}")
    denied = any(result.action == "deny" for result in results)
    for result in results:
        click.echo(" ".join(part for part in (result.workload, result.action, result.detail) if part), err=prints)
    if prints and not denied:
        texts = [file.render(among_others=len(read) > 1) for file in read]
        sys.stdout.buffer.write("".join(texts).encode())
    return 1 if denied else 0


def _need_extra(module: str) -> None:
    try:
        import_module(module)
    except ModuleNotFoundError:
        raise SettingsError(f"{module} is not installed: run `pip install 'cache-sidecar[injector]'`") from None
