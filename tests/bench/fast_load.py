"""The load generator in Rust, available with cargo: `native/examples/load.rs`.

The one in Python, `load.py`, uses more CPU per call than the native engine for a hit, so it would be the bottleneck. Both
return the same `LoadResult` and check every reply.
"""

import functools
import gzip
import json
import os
import resource
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench.connection import LoadError
from tests.bench.load import LoadResult

_CRATE = Path(__file__).parents[2] / "cache_sidecar" / "native"
_SAMPLE_EVERY = 64
# Seconds in addition to the load itself, to connect and to print.
_MARGIN_SECONDS = 60


def can_be_built() -> bool:
    """Returns whether cargo is installed, without building anything."""
    return shutil.which("cargo") is not None


@functools.cache
def program() -> Path | None:
    """Returns the program, which is built if necessary; None if it cannot be built."""
    if not can_be_built():
        return None
    target = Path(os.environ.get("CARGO_TARGET_DIR") or _CRATE / "target")
    options = ["--example", "load", "--release", "--no-default-features", "--locked", "--quiet"]
    command = ["cargo", "build", *options, "--manifest-path", _CRATE / "Cargo.toml"]
    done = subprocess.run(command, capture_output=True, check=False)
    return target / "release" / "examples" / "load" if done.returncode == 0 else None


def run(
    address: str,
    path: str,
    payloads: Sequence[bytes],
    *,
    connections: int,
    in_flight: int,
    seconds: float,
    rate: float = 0.0,
    metadata: Sequence[tuple[str, str]] = (),
    is_packed: bool = False,
) -> LoadResult:
    """Does as `load.run_load`; with a rate, that many calls start each second, and latency counts from when a call was due.

    With `is_packed`, requests are compressed by gzip.
    """
    load = program()
    if load is None:
        raise LoadError("this load needs cargo")
    with tempfile.NamedTemporaryFile() as file:
        messages = map(gzip.compress, payloads) if is_packed else payloads
        file.write(b"".join(struct.pack(">BI", is_packed, len(message)) + message for message in messages))
        file.flush()
        arguments = (address, path, file.name, connections, in_flight, seconds, rate, _SAMPLE_EVERY)
        added = [*metadata, ("grpc-encoding", "gzip")] if is_packed else metadata
        command = [load, *map(str, arguments), *(text for pair in added for text in pair)]
        before = _cpu_seconds()
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + _MARGIN_SECONDS)
        took = _cpu_seconds() - before
    if done.returncode:
        raise LoadError(f"the load ended with: {done.stderr.strip() or done.returncode}")
    found = json.loads(done.stdout)
    return LoadResult(
        calls=len(found["latencies"]),
        errors=found["errors"],
        closed=0,  # calls of a connection that was closed are errors
        seconds=found["seconds"],
        latencies=found["latencies"],
        refusals=found["refusals"],
        reply_bytes=found["reply_bytes"],
        samples=[(index, bytes.fromhex(message)) for index, message in found["samples"]],
        client_cpu_seconds=took,
    )


def _cpu_seconds() -> float:
    """Returns the CPU time of ended child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
