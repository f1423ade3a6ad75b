"""What `cache-sidecar dev` says once it is ready: what runs and where, and three things to try."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from cache_sidecar.devstack.catalogue import FIRST_PRODUCT_ID
from cache_sidecar.devstack.region import Region

_CALL = """\
import grpc
from cache_sidecar.v1 import product_service_pb2 as pb, product_service_pb2_grpc as api
from cache_sidecar.v1.cache_pb2 import Source
shop = api.ProductServiceStub(grpc.insecure_channel("{address}"))
reply = shop.GetProduct(pb.GetProductRequest(product_id="{product_id}"))
price = reply.product.price
print(reply.product.title)
print(f"{{price.units}}.{{price.nanos // 10**7:02}} {{price.currency_code}}, from {{Source.Name(reply.cache.source)}}")"""
_ENVIRONMENT = Path(".venv")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What runs."""

    regions: Sequence[Region]
    engine: str
    "What answers gRPC, and why."
    dsn: str
    logs: Path
    state: Path


def show(console: Console, summary: Summary, *, seconds: float) -> None:
    """Prints it. Lines are never wrapped, so that they can be pasted."""
    console.print()
    _line(console, Text(f"The shop's cache is running. It took {seconds:.1f} s; Ctrl-C stops everything.", style="bold green"))
    console.print()
    for name, value in _facts(summary):
        _line(console, Text(f"  {name:<12}", style="bold").append(value, style="not bold"))
    console.print()
    _line(console, Text("Three things to try, in another terminal, from the project's top folder:", style="bold"))
    for title, command in _things_to_try(summary):
        console.print()
        _line(console, Text(f"# {title}", style="dim"))
        _line(console, Text(command, style="cyan"))
    console.print()


def shown(path: Path) -> str:
    """Returns a path as one would type it: relative when it is below the working directory."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _facts(summary: Summary) -> list[tuple[str, str]]:
    return [
        ("engine", summary.engine),
        *(fact for region in summary.regions for fact in _facts_of(region, is_only=len(summary.regions) == 1)),
        ("PostgreSQL", summary.dsn),
        ("logs", shown(summary.logs)),
        ("state", f"{shown(summary.state)} (all of it; ready once dev.json is there)"),
    ]


def _facts_of(region: Region, *, is_only: bool) -> list[tuple[str, str]]:
    redis = region.cluster.addresses  # primaries first
    half = len(redis) // 2
    return [
        *([] if is_only else [(region.name, "")]),
        *((one.child.role, f"grpc://{one.grpc} and unix:{shown(one.socket)}") for one in region.sidecars),
        *((relay.role, f"pid {relay.pid}") for relay in region.relays),
        ("Valkey", f"{' '.join(redis[:half])} (primaries)"),
        ("", f"{' '.join(redis[half:])} (replicas)"),
    ]


def _things_to_try(summary: Summary) -> list[tuple[str, str]]:
    first = summary.regions[0].sidecars[0]
    product = f'{{"product_id": "{FIRST_PRODUCT_ID}"}}'
    config = shlex.quote(shown(first.config))
    call = _CALL.format(address=first.grpc, product_id=FIRST_PRODUCT_ID)
    return [
        (
            "A product, from Python. The second time it comes from the sidecar's memory.",
            f"{_program('python')} -c '\n{call}\n'",
        ),
        (
            "The same with grpcurl, if you have it.",
            f"grpcurl -plaintext -d '{product}' {first.grpc} cache_sidecar.v1.ProductService/GetProduct",
        ),
        (
            "Products out of a shop's order lines.",
            f"{_program('cache-sidecar')} import products tests/fixtures/orders.csv --config {config}",
        ),
    ]


def _program(name: str) -> str:
    """Returns how to start a program of the environment we run in."""
    folder = Path(sys.prefix)
    if folder == _ENVIRONMENT.absolute():
        folder = _ENVIRONMENT
    return shlex.quote(str(folder / "bin" / name))


def _line(console: Console, text: Text) -> None:
    console.print(text, soft_wrap=True)
