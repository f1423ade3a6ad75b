"""The metrics that every process has. Elsewhere than on Linux, those that /proc would tell are left out."""

import asyncio
import os
import platform
import resource
import time
from pathlib import Path

from cache_sidecar import __version__
from cache_sidecar.core.container_memory import container_memory
from cache_sidecar.core.garbage_collection import Collections
from cache_sidecar.metrics import definitions as d
from cache_sidecar.metrics.definitions import Process
from cache_sidecar.metrics.exposition import Families

_PAGE = os.sysconf("SC_PAGE_SIZE")
# When this module is imported, a moment after the start.
_STARTED = time.time()


def collect(process: Process, collections: Collections, *, engine: str = "") -> Families:
    """Yields the metrics; `engine` is the server of a sidecar."""
    yield d.BUILD, {(process, __version__, engine, platform.python_version()): 1}
    yield d.TASKS, {(): len(asyncio.all_tasks())}
    yield d.COLLECTIONS, {(str(number),): count for number, count in enumerate(collections.counts)}
    yield d.COLLECTION_PAUSE, {(str(number),): pause for number, pause in enumerate(collections.longest)}
    yield d.CPU, {(): time.process_time()}
    yield d.STARTED, {(): _STARTED}
    yield d.MAX_FILES, {(): resource.getrlimit(resource.RLIMIT_NOFILE)[0]}
    try:
        yield d.MEMORY, {(): _resident_bytes()}
        yield d.OPEN_FILES, {(): sum(1 for _ in Path("/proc/self/fd").iterdir())}
    except OSError:
        pass
    if memory := container_memory():
        limit, used = memory
        yield d.MEMORY_LIMIT, {(): limit}
        yield d.MEMORY_USED, {(): used}


def resident_bytes() -> int | None:
    """Returns the resident memory of the process; None where /proc does not tell."""
    try:
        return _resident_bytes()
    except OSError:
        return None


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
