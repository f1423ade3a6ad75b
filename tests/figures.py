"""What a reader of the code meets, as figures: `python -m tests.figures [--tree DIR]`.

Prints how many files and functions a call runs through, how long files and functions are, how much of the code is comments, and
which rooms import which. `--tree` measures another checkout with the same calls, so that two versions can be compared.

Calls are traced in a sidecar of its own on grpc.aio, started with `cache-sidecar dev`: a hook in the process notes each Python
function of the package that is entered between two marks. A call is made several times, and only what every one of them
entered is counted, so that what runs in the background is left out.
"""

import argparse
import ast
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tokenize
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import grpc
from google.type.money_pb2 import Money
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.table import Column, Table

from cache_sidecar.v1 import (
    cart_service_pb2,
    cart_service_pb2_grpc,
    inventory_service_pb2,
    inventory_service_pb2_grpc,
    product_service_pb2,
    product_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)
from cache_sidecar.v1.cart_pb2 import CartItem
from cache_sidecar.v1.inventory_pb2 import ReservationItem

PACKAGE = "cache_sidecar"
TIMES = 5
READY_SECONDS = 120.0
# Loaded by every Python process of the stack; only the sidecar answers. One thread is traced, the one that the event loop has.
HOOK = """
import json, os, socket, sys, threading
if "serve" in sys.argv or "serve" in getattr(sys, "orig_argv", []):
    entered, state = set(), {"on": False}
    def profile(frame, event, _):
        if event == "call" and state["on"]:
            code = frame.f_code
            entered.add((code.co_filename, code.co_qualname))
    def serve():
        server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        server.bind(os.environ["FIGURES_SOCKET"])
        while True:
            word, sender = server.recvfrom(16)
            state["on"] = word == b"start"
            found = sorted(entered) if word == b"stop" else entered.clear() or []
            with open(os.environ["FIGURES_SOCKET"] + ".json", "w") as file:
                json.dump(found, file)
            server.sendto(b"done", sender)
    threading.Thread(target=serve, daemon=True).start()
    sys.setprofile(profile)
"""

Function = tuple[str, str]


class Trace(NamedTuple):
    """The functions that a call runs through."""

    call: str
    functions: set[Function]

    @property
    def files(self) -> int:
        """Distinct files."""
        return len({file for file, _ in self.functions})


class Sizes(NamedTuple):
    """The sizes of one kind of source code, in lines; generated code is left out."""

    files: list[int]
    functions: list[int]
    comments: int
    docstrings: int


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.figures", description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--tree", type=Path, default=Path.cwd(), help="checkout to measure (default: this one)")
    parser.add_argument("--functions", action="store_true", help="also list the functions that each call runs through")
    arguments = parser.parse_args()
    tree, console = arguments.tree.resolve(), Console(width=120)
    console.print(_sizes_table(tree), _rooms_table(tree))
    traces = list(_traces(tree))
    table = Table("call", Column("files", justify="right"), Column("functions", justify="right"), title="A call, on grpc.aio")
    for trace in traces:
        table.add_row(trace.call, str(trace.files), str(len(trace.functions)))
    console.print(table)
    if arguments.functions:
        for trace in traces:
            console.print(f"\n{trace.call}")
            for file, name in sorted(trace.functions):
                console.print(f"  {Path(file).relative_to(tree / PACKAGE)}  {name}", markup=False, highlight=False)


# A call


def _traces(tree: Path) -> Iterator[Trace]:
    with tempfile.TemporaryDirectory(prefix="figures-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "sitecustomize.py").write_text(HOOK)
        with socket.socket() as chooser:
            chooser.bind(("127.0.0.1", 0))
            port = chooser.getsockname()[1]
        command = [sys.executable, "-m", PACKAGE, "dev", "--engine=aio", "--products=100"]
        environment = os.environ | {"PYTHONPATH": f"{tree}:{folder}", "FIGURES_SOCKET": str(folder / "trace")}
        with (folder / "log").open("wb") as log:
            stack = subprocess.Popen(
                [*command, f"--state={folder / 'state'}", f"--listen=127.0.0.1:{port}"],
                cwd=tree,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            channel = grpc.insecure_channel(f"127.0.0.1:{port}")
            _wait_until_serving(channel, stack, folder / "log")
            tracer = _Tracer(folder, tree)
            for call, make in _calls(channel):
                yield tracer.trace(call, make)
        finally:
            stack.send_signal(signal.SIGINT)
            stack.wait(30)


def _wait_until_serving(channel: grpc.Channel, stack: "subprocess.Popen[bytes]", log: Path) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    give_up = time.monotonic() + READY_SECONDS
    while time.monotonic() < give_up and stack.poll() is None:
        try:
            reply = health.Check(health_pb2.HealthCheckRequest(), timeout=1.0, wait_for_ready=True)  # type: ignore[attr-defined]
        except grpc.RpcError:
            continue
        if reply.status == health_pb2.HealthCheckResponse.SERVING:
            time.sleep(3.0)  # sidecars start with their caches in quarantine
            return
    raise SystemExit(f"cache-sidecar dev did not start:\n{log.read_text()}")


class _Tracer:
    """Talks to the hook in the sidecar."""

    def __init__(self, folder: Path, tree: Path) -> None:
        self._path, self._package = folder / "trace", str(tree / PACKAGE)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "caller"))
        self._socket.settimeout(10.0)

    def trace(self, call: str, make: Callable[[], object]) -> Trace:
        """Returns what every one of several calls ran through, after two that warm up what they need."""
        make(), make()
        found = [self._traced(make) for _ in range(TIMES)]
        return Trace(call, set.intersection(*found))

    def _traced(self, make: Callable[[], object]) -> set[Function]:
        self._send(b"start")
        make()
        time.sleep(0.02)  # what is done after the reply belongs to the call
        entered = self._send(b"stop")
        return {(file, name) for file, name in entered if file.startswith(self._package) and "comp>" not in name}

    def _send(self, word: bytes) -> list[Function]:
        self._socket.sendto(word, str(self._path))
        self._socket.recv(16)
        return [(file, name) for file, name in json.loads(self._path.with_name("trace.json").read_text())]


def _calls(channel: grpc.Channel) -> Iterator[tuple[str, Callable[[], object]]]:
    products: Any = product_service_pb2_grpc.ProductServiceStub(channel)
    carts: Any = cart_service_pb2_grpc.CartServiceStub(channel)
    sessions: Any = session_service_pb2_grpc.SessionServiceStub(channel)
    stock: Any = inventory_service_pb2_grpc.InventoryServiceStub(channel)
    product_id = products.ListProducts(product_service_pb2.ListProductsRequest(page_size=1)).products[0].product_id
    session_id = sessions.CreateSession(session_service_pb2.CreateSessionRequest(user_id="reader")).session_id
    stock.SetInventory(inventory_service_pb2.SetInventoryRequest(product_id=product_id, available=1_000_000))
    line = CartItem(product_id=product_id, quantity=1, unit_price=Money(units=1, currency_code="EUR"))

    def reserve() -> object:
        items = [ReservationItem(product_id=product_id, quantity=1)]
        return stock.ReserveInventory(
            inventory_service_pb2.ReserveInventoryRequest(user_id="reader", items=items, request_id=str(uuid4()))
        )

    def add() -> object:
        return carts.AddCartItem(cart_service_pb2.AddCartItemRequest(user_id="reader", item=line, request_id=str(uuid4())))

    yield "GetProduct, L1 hit", lambda: products.GetProduct(product_service_pb2.GetProductRequest(product_id=product_id))
    yield "AddCartItem, warm", add
    yield "GetCart, from Redis", lambda: carts.GetCart(cart_service_pb2.GetCartRequest(user_id="reader"))
    yield "GetSession, from Redis", lambda: sessions.GetSession(session_service_pb2.GetSessionRequest(session_id=session_id))
    yield "ReserveInventory, granted", reserve


# Sizes


def _sizes_table(tree: Path) -> Table:
    headings = ("files", "lines", "file med/p90/max", "function med/p90/max", "comments", "docstrings")
    columns = [Column(heading, justify="right") for heading in headings]
    table = Table("Python", *columns, title="Sizes in lines, generated code left out")
    for kind in (PACKAGE, "tests"):
        sizes = _sizes(_sources(tree / kind))
        lines = sum(sizes.files)
        table.add_row(
            kind,
            str(len(sizes.files)),
            str(lines),
            _spread(sizes.files),
            _spread(sizes.functions),
            f"{100 * sizes.comments / lines:.1f} %",
            f"{100 * sizes.docstrings / lines:.1f} %",
        )
    return table


def _sources(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*.py")) if not file.stem.endswith(("_pb2", "_pb2_grpc"))]


def _sizes(files: Iterable[Path]) -> Sizes:
    sizes = Sizes([], [], 0, 0)
    for file in files:
        text = file.read_text()
        tree = ast.parse(text)
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        with file.open("rb") as source:
            comments = sum(token.type == tokenize.COMMENT for token in tokenize.tokenize(source.readline))
        sizes = Sizes(
            [*sizes.files, len(text.splitlines())],
            [*sizes.functions, *map(_length, functions)],
            sizes.comments + comments,
            sizes.docstrings + sum(map(_length, _texts(tree))),
        )
    return sizes


def _texts(tree: ast.AST) -> Iterator[ast.AST]:
    """Yields docstrings: of modules, classes, functions, and attributes."""
    for node in ast.walk(tree):
        for statement in getattr(node, "body", []) if isinstance(getattr(node, "body", None), list) else []:
            if (
                isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
                and isinstance(statement.value.value, str)
            ):
                yield statement


def _length(node: Any) -> int:
    return int(node.end_lineno - node.lineno + 1)


def _spread(sizes: list[int]) -> str:
    return f"{statistics.median(sizes):.0f} / {statistics.quantiles(sizes, n=10)[-1]:.0f} / {max(sizes)}"


# Rooms


def _rooms_table(tree: Path) -> Table:
    table = Table(
        "folder",
        *(Column(name, justify="right") for name in ("rooms", "arrows", "both ways")),
        title="Rooms, and which import which",
    )
    for folder in (PACKAGE, f"{PACKAGE}/tiers"):
        rooms, arrows = _rooms(tree, tree / folder)
        circles = sum((other, one) in arrows for one, other in arrows) // 2
        table.add_row(folder, str(len(rooms)), str(len(arrows)), str(circles))
    return table


def _rooms(tree: Path, folder: Path) -> tuple[set[str], set[tuple[str, str]]]:
    """Returns the files and packages that lie directly in a folder, and the pairs of which one imports the other."""
    prefix = ".".join(folder.relative_to(tree).parts) + "."
    rooms, arrows = set(), set()
    for file in _sources(folder):
        room = file.relative_to(folder).parts[0].removesuffix(".py")
        if room in ("__init__", "v1"):
            continue
        rooms.add(room)
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            others = {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
            arrows |= {
                (room, other)
                for other in others - {room, "v1"}
                if (folder / other).is_dir() or (folder / f"{other}.py").exists()
            }
    return rooms, arrows


if __name__ == "__main__":
    main()
