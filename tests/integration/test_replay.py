"""`cache-sidecar replay`: every arm, with servers of its own, on a small file."""

import asyncio
import json
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from cache_sidecar.cli import cli
from cache_sidecar.replay.faults import FAULTS
from cache_sidecar.replay.shopper import PAGES, Kind
from tests.support.engine_params import ENGINES
from tests.support.until import until
from tests.unit.test_replay_shopper import orders

SMALL = ["--views", "2", "--concurrency", "2", "--change-every", "4", "--abandoned", "0.2"]


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, also of processes; with a short name, as sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="cs-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr("tempfile.tempdir", None)
        yield folder


def report_of(tmp_path: Path, *arguments: object, but: Collection[str] = ()) -> dict[str, Any]:
    """Replays a small file, after which every invariant holds `but` these; returns the report."""
    file, found = orders(tmp_path / "orders.csv"), tmp_path / "report.json"
    result = CliRunner().invoke(cli, ["replay", str(file), "--json", str(found), *SMALL, *map(str, arguments)])
    assert found.exists(), result.output
    report: dict[str, Any] = json.loads(found.read_text())
    for arm in report["arms"].values():
        assert not any(broken for name, broken in arm["invariants"].items() if name not in but), result.output
    return report


@pytest.mark.timeout(600)
def test_all_arms_serve_the_same_shoppers_and_every_figure_is_there(tmp_path: Path, temporary: Path) -> None:
    page, shop = tmp_path / "report.html", tmp_path / "shop.toml"
    report = report_of(tmp_path, "--compare", "--rounds", "2", "--sidecars", "2", "--html", page, "--estimate", shop)
    arms = report["arms"]
    assert list(arms) == ["sidecar", "direct", "redis"]
    assert "events complete" in arms["sidecar"]["invariants"]
    changes = [str(kind) for kind in Kind if kind not in PAGES]
    for name, arm in arms.items():
        shown = {kind: row["count"] + row["failed"] for kind, row in arm["latency_ms"].items()}
        assert shown["product"] >= shown["category"] > 0
        assert all(arm["latency_ms"][kind]["count"] > 0 for kind in changes), arm["latency_ms"]
        assert all(row["max"] >= row["p99"] >= row["p50"] > 0 for row in arm["latency_ms"].values() if row["count"])
        own = {"sidecar": {"redis", "sidecars", "relay"}, "direct": set(), "redis": {"redis"}}[name]
        assert arm["cpu_ms_per_page"].keys() == {"postgresql", "network", "shop", "all"} | own
        assert arm["memory_mib"].keys() == {"postgresql", "network"} | own
        assert all(used > 0 for used in arm["memory_mib"].values())
        assert arm["statements_per_page"]["shop or sidecars"] > 0
        tiers = {(row["dataset"], row["tier"]) for row in arm["tiers"]}
        if name == "sidecar":
            assert {("product", "l1"), ("session", "l2"), ("cart", "l2"), ("inventory", "l2")} <= tiers
            assert arm["tier_timeline"]
        if name == "redis":
            assert {("product", "l2"), ("product", "store"), ("stock", "l2"), ("cart", "l2")} <= tiers
    # The same shoppers: as many pages, unless one failed on a busy machine.
    if not any(arm["failed_pages"] for arm in arms.values()):
        assert len({arm["pages"] for arm in arms.values()}) == 1
    assert arms["direct"]["statements_per_page"]["relay"] == 0
    # Session, cart, and one or two of the page's own.
    assert arms["direct"]["statements_per_page"]["all"] > 2
    assert {row["other"] for row in report["ratios"]} == {"direct", "redis"}
    assert sum(row["goal"] is not None for row in report["ratios"]) == 8
    assert "<svg" in page.read_text()
    assert CliRunner().invoke(cli, ["estimate", str(shop)]).exit_code == 0
    assert list(temporary.iterdir()) == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_sidecar_alone(tmp_path: Path, temporary: Path, engine: str) -> None:
    report = report_of(tmp_path, "--engine", engine, "--round-trip", "0", "--logged-in", "1", "--invoices", "6")
    assert list(report["arms"]) == ["sidecar"]
    assert report["visits"] == 6
    assert report["ratios"] == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("fault", "arm"),
    [
        ("primary killed", "redis"),
        ("redis killed", "sidecar"),
        ("postgresql stopped", "sidecar"),
        ("sidecar killed", "sidecar"),
    ],
)
def test_nothing_is_lost_by_a_fault(tmp_path: Path, temporary: Path, fault: str, arm: str) -> None:
    baseline = [] if arm == "sidecar" else ["--baseline", arm]
    # The only Redis dies with the events that it has acknowledged and the relay has not moved yet.
    but = ["events complete"] if fault == "redis killed" else []
    report = report_of(tmp_path, *baseline, "--fault", fault, "--fault-seconds", "2", but=but)
    found = report["arms"][arm]
    assert found["fault"]["seconds"] >= 2
    assert found["given_up"] == 0
    assert report["options"]["redis"] == ("cluster" if FAULTS[fault].needs_cluster else "single")


@pytest.mark.timeout(600)
async def test_an_interrupted_replay_leaves_nothing_behind(tmp_path: Path, temporary: Path) -> None:
    file = orders(tmp_path / "orders.csv", invoices=200)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cache_sidecar", "replay", str(file), "--baseline", "redis", "--views", "500"),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        while b"redis: 1 of" not in (line := await process.stderr.readline()):
            assert line, "it has ended"
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) > 2
        process.terminate()
        assert await process.wait() == 130
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    await until(lambda: not any(one.is_running() for one in family))
    assert list(temporary.iterdir()) == []
