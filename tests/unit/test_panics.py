"""A panic in the native engine is a line of the log."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

pytest.importorskip("cache_sidecar._native", exc_type=ImportError)

from cache_sidecar._native import Front
from cache_sidecar.server.engines.native import hear_panics


def test_a_panic_is_logged(tmp_path: Path) -> None:
    hear_panics()
    with capture_logs() as log, pytest.raises(BaseException, match="value is negative"):
        Front(tmp_path / "s", 1024, [], [], ([(8, "", b"")], (4, "", b"")), (-1.0, -1.0, -1.0, -1.0, -1.0))
    (line,) = log
    assert (line["event"], line["log_level"]) == ("the native engine panicked", "critical")
    assert "value is negative" in line["error"]
