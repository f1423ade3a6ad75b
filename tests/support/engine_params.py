"""The engines and kinds of L1 that tests run with; without cargo, those in Rust are reported as skipped."""

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

from cache_sidecar.core.clock import SystemClock
from cache_sidecar.server.engines import aio
from cache_sidecar.tiers.memory.clock import ClockL1
from cache_sidecar.tiers.ports import L1
from tests.support.launch import settings_for

HAS_NATIVE = importlib.util.find_spec("cache_sidecar._native") is not None
needs_native = pytest.mark.skipif(not HAS_NATIVE, reason="the native engine is not installed: it needs cargo")
ENGINES = [pytest.param("native", marks=needs_native), "aio"]

MakeL1 = Callable[..., L1]


def create(engine: str, **settings: Any) -> Any:
    """Returns an engine without services or ports; it needs neither Redis nor PostgreSQL."""
    made = settings_for("127.0.0.1:1", "postgresql://nobody@127.0.0.1:1/none", "none", **settings)
    if engine == "aio":
        return aio.create(made)
    from cache_sidecar.server.engines import native  # noqa: PLC0415  # where it is installed

    return native.create(made, SystemClock())


def native_l1(**bounds: int) -> L1:
    """Returns an L1 in Rust."""
    from cache_sidecar.tiers.memory.native import NativeL1  # noqa: PLC0415  # where it is installed

    return NativeL1(**bounds)


L1S = [pytest.param(native_l1, marks=needs_native, id="native"), pytest.param(ClockL1, id="clock")]
