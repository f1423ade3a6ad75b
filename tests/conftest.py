"""The plugins of all tests: each `fix_` module has the fixtures of one resource."""

import logging
from collections.abc import Iterator

import hypothesis
import pytest
import structlog

from cache_sidecar.core import container_memory, masks, telemetry

pytest_plugins = [
    "tests.durations",
    "tests.suites",
    "tests.fix_processes",
    "tests.fix_redis",
    "tests.fix_postgres",
    "tests.fix_dataset",
    "tests.fix_sidecar",
]

# How long an example takes depends on the machine.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True, scope="session")
def _no_container() -> Iterator[None]:
    """Has sidecars of this process keep as much on every machine, in a container or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(container_memory, "CGROUPS", ())
        yield


@pytest.fixture(autouse=True)
def _no_masks() -> Iterator[None]:
    """Forgets the passwords of a test: in the messages of another one they are ordinary words."""
    yield
    masks.clear()


@pytest.fixture(autouse=True)
def _no_configured_logs() -> Iterator[None]:
    """Undoes the `telemetry.configure` of a command that a test runs in this process.

    The loggers would keep its stream and its processors, of which `capture_logs` knows nothing after the next reset.
    """
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    if structlog.get_config()["cache_logger_on_first_use"]:
        structlog.reset_defaults()
        for logger in (telemetry.log, telemetry.audit):
            vars(logger).pop("bind", None)  # what caching has replaced
        telemetry.own_level.configure("info")
        telemetry.repeats.clear()
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
