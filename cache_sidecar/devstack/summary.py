"""The summary that `cache-sidecar dev` prints once it is ready: what runs where, and three commands to try."""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from cache_sidecar.devstack.region import Region
from cache_sidecar.devstack.sidecars import Sidecar

_CALL = """\
import grpc
from cache_sidecar.v1 import product_service_pb2 as pb, product_service_pb2_grpc as api
from cache_sidecar.v1.cache_pb2 import Source
shop = api.ProductServiceStub(grpc.insecure_channel("{address}"))
reply = shop.GetProduct(pb.GetProductRequest(product_id={product_id}))
price = reply.product.price
print(reply.product.title)
print(f"{{price.units}}.{{price.nanos // 10**7:02}} {{price.currency_code}}, from {{Source.Name(reply.cache.source)}}")"""
_COUNTS = {1: "A command", 3: "Three commands"}
_ENVIRONMENT = Path(".venv")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The content of the summary."""

    regions: Sequence[Region]
    engine: str
    "The engine, and why it was chosen."
    dsn: str
    logs: Path
    state: Path
    product_id: str
    "A product to read; empty if there is none."


def show(console: Console, summary: Summary, *, seconds: float) -> None:
    """Prints the summary. Lines are never wrapped, so that commands can be pasted."""
    console.print()
    _line(
        console, Text(f"The shop's cache is running (started in {seconds:.1f} s). Ctrl-C stops everything.", style="bold green")
    )
    console.print()
    for name, value in _facts(summary):
        _line(console, Text(f"  {name:<12}", style="bold").append(value, style="not bold"))
    console.print()
    things = _things_to_try(summary)
    _line(console, Text(f"{_COUNTS[len(things)]} to try in another terminal, in the project's root directory:", style="bold"))
    for title, command in things:
        console.print()
        _line(console, Text(f"# {title}", style="dim"))
        _line(console, Text(command, style="cyan"))
    console.print()


def display_path(path: Path) -> str:
    """Returns a path as a user would type it: relative if it is below the working directory."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _facts(summary: Summary) -> list[tuple[str, str]]:
    return [
        ("engine", summary.engine),
        *(fact for region in summary.regions for fact in _facts_of(region, is_only=len(summary.regions) == 1)),
        ("PostgreSQL", summary.dsn),
        ("logs", display_path(summary.logs)),
        ("state", f"{display_path(summary.state)} (everything is stored here; dev.json exists while the stack is ready)"),
    ]


def _facts_of(region: Region, *, is_only: bool) -> list[tuple[str, str]]:
    redis = region.cluster.addresses  # the primaries come first
    half = len(redis) // 2
    return [
        *([] if is_only else [(region.name, "")]),
        *(fact for one in region.sidecars for fact in _facts_of_sidecar(one)),
        *((relay.role, f"pid {relay.pid}") for relay in region.relays),
        ("Valkey", f"{' '.join(redis[:half])} (primaries)"),
        ("", f"{' '.join(redis[half:])} (replicas)"),
    ]


def _facts_of_sidecar(sidecar: Sidecar) -> list[tuple[str, str]]:
    return [
        (sidecar.child.role, f"grpc://{sidecar.grpc} and unix:{sidecar.socket}"),
        ("", f"http://{sidecar.web}/ shows its state; /metrics is for Prometheus"),
    ]


def _things_to_try(summary: Summary) -> list[tuple[str, str]]:
    first = summary.regions[0].sidecars[0]
    product = json.dumps({"product_id": summary.product_id})
    config = shlex.quote(display_path(first.config))
    call = shlex.quote("\n" + _CALL.format(address=first.grpc, product_id=json.dumps(summary.product_id)) + "\n")
    reads = [
        (
            "Read a product from Python. The second call is answered from the sidecar's memory.",
            f"{_program('python')} -c {call}",
        ),
        (
            "The same with grpcurl, if installed.",
            f"grpcurl -plaintext -d {shlex.quote(product)} {first.grpc} cache_sidecar.v1.ProductService/GetProduct",
        ),
    ]
    return [
        *(reads if summary.product_id else []),
        (
            "Import products from a shop's order lines.",
            f"{_program('cache-sidecar')} import products tests/fixtures/orders.csv --config {config}",
        ),
    ]


def _program(name: str) -> str:
    """Returns the path of a program in the current environment, for a shell."""
    folder = Path(sys.prefix)
    if folder == _ENVIRONMENT.absolute():
        folder = _ENVIRONMENT
    return shlex.quote(str(folder / "bin" / name))


def _line(console: Console, text: Text) -> None:
    console.print(text, soft_wrap=True)
