"""A panic in the native engine is a line of the log."""

import pytest
from structlog.testing import capture_logs

pytest.importorskip("cache_sidecar._native", exc_type=ImportError)

from cache_sidecar._native import Lifetimes
from cache_sidecar.server.engines.native import log_panics


def test_a_panic_is_logged() -> None:
    log_panics()
    with capture_logs() as log, pytest.raises(BaseException, match="value is negative"):
        Lifetimes(max_age=-1.0, grace=-1.0, max_idle=-1.0, keepalive_time=-1.0, keepalive_timeout=-1.0)
    (line,) = log
    assert (line["event"], line["log_level"]) == ("the native engine panicked", "critical")
    assert "value is negative" in line["error"]
