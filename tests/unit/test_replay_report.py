"""The report of a replay: percentiles, ratios, the text, the page, and the sheet for `estimate`."""

import re
from collections import Counter
from collections.abc import Sequence
from math import isclose
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cache_sidecar.cli import cli
from cache_sidecar.estimate.inputs import read
from cache_sidecar.importer.orders import Sales
from cache_sidecar.replay import html, report, sheet
from cache_sidecar.replay.commands import FAULT_NAMES
from cache_sidecar.replay.faults import FAULTS
from cache_sidecar.replay.network import StatementCounter
from cache_sidecar.replay.order_file import Product, Shop, Visit
from cache_sidecar.replay.run import ArmResult, Options, Round, Sample
from cache_sidecar.replay.servers import Plan, Statements
from cache_sidecar.replay.shopper import Habits, Kind, Record
from cache_sidecar.replay.statistics import percentile, ratio

IDS = [f"{number}" for number in range(40)]
SHOP = Shop(
    {id: Product(id, "KITE", "range", 100, 10) for id in IDS},
    [2 * (number + 1) for number in range(40)],
    [Visit("1", 0.0, "17", (("0", 1),)), Visit("2", 86_400.0 * 2, "", (("1", 2),))],
    {id: ["0", "1"] for id in IDS},
    {},
    ["0"],
    Sales([], 4, Counter(cancelled=1)),
)
OPTIONS = Options(("sidecar", "direct"), Plan(), Habits(), rounds=2)


def record(seconds: Sequence[float], *, failed: int = 0) -> Record:
    found = Record(0.0)
    found.seconds[Kind.PRODUCT].extend(seconds)
    found.begun[Kind.PRODUCT].extend(range(len(seconds)))
    found.failed[Kind.HOME] += [1.5] * failed
    if failed:
        found.errors["home: UNAVAILABLE"] = failed
    return found


def one_round(
    seconds: Sequence[float], *, statements: int, cpu: float, failed: int = 0, fault: tuple[float, float] | None = None
) -> Round:
    tiers = Counter({("product", "l1"): 8, ("product", "l2"): 2})
    spent = {"postgresql": cpu, "network": 9.0, "shop": 1.0, "sidecars": 1.0}
    samples = [
        Sample(0.0, 0, Counter()),
        Sample(1.0, len(seconds) // 2, Counter({("product", "l2"): 2})),
        Sample(2.0, len(seconds), tiers),
    ]
    return Round(record(seconds, failed=failed), 10.0, spent, Statements(statements, 1), tiers, samples, fault)


def arms(**broken: str) -> list[ArmResult]:
    ours = [one_round([0.001] * 9 + [0.003], statements=1, cpu=1.0), one_round([0.001] * 9 + [0.005], statements=1, cpu=1.0)]
    theirs = [one_round([0.02] * 10, statements=49, cpu=3.0) for _ in range(2)]
    memory = {"postgresql": 3 << 20}
    return [
        ArmResult("sidecar", 0.6, ours, memory, {"stock equals": ""} | broken),
        ArmResult("direct", 0.0, theirs, memory, {"stock equals": ""}),
    ]


def whole(results: Sequence[ArmResult] = (), options: Options = OPTIONS) -> dict[str, Any]:
    return report.report(SHOP, SHOP.visits, options, results or arms())


def test_percentiles() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.9, 0.99, 1.0)] == [1, 50, 90, 99, 100]
    assert percentile([7.0], 0.99) == 7
    assert percentile([], 0.5) == 0


def test_a_ratio_with_its_confidence() -> None:
    found = ratio([1.0, 2.0, 4.0], [2.0, 4.0, 8.0])
    assert found is not None
    assert all(isclose(value, 0.5) for value in found if value is not None)
    # Logarithms of -1, 0 and 1: their deviation is 1, and t is 4.303.
    e = 2.718281828459045
    found = ratio([1 / e, 1.0, e], [1.0, 1.0, 1.0])
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert isclose(found.value, 1.0)
    assert isclose(found.high, e ** (4.303 / 3**0.5))
    assert isclose(found.low * found.high, 1.0)
    assert ratio([1.0], [2.0]) == (0.5, None, None)
    assert ratio([1.0, 0.0], [2.0, 2.0]) is None
    assert ratio([], []) is None


def test_every_figure_is_in_the_report() -> None:
    found = whole()
    ours = found["arms"]["sidecar"]
    assert ours["pages"] == 20
    assert ours["pages_per_second"] == 1.0
    assert ours["latency_ms"]["product"] == {"count": 20, "failed": 0, "p50": 1.0, "p90": 1.0, "p99": 5.0, "max": 5.0}
    assert ours["statements_per_page"] == {"shop or sidecars": 0.1, "relay": 0.1, "all": 0.2}
    assert ours["cpu_ms_per_page"]["all"] == 300.0, "without the emulated network"
    assert ours["memory_mib"] == {"postgresql": 3.0}
    assert ours["tiers"] == [
        {"dataset": "product", "tier": "l1", "hits": 16, "per_page": 0.8},
        {"dataset": "product", "tier": "l2", "hits": 4, "per_page": 0.2},
    ]
    assert [row["l2"] for row in ours["tier_timeline"] if "l2" in row] == [0.4, 0.4]
    assert sum(row["pages"] for row in ours["timeline"]) == 20
    text = "\n".join(report.lines(found))
    assert "20 pages in 20.0 s" in text
    assert re.search(r"product +20 +0 +1\.00 +1\.00 +5\.00 +5\.00", text)
    assert "product l2 0.200" in text
    assert "ok     stock equals" in text


def test_ratios_say_whether_their_goals_are_met() -> None:
    rows = {row["figure"]: row for row in whole()["ratios"]}
    assert isclose(rows["product page p50"]["value"], 0.05)
    assert rows["product page p50"]["is_met"] is True
    assert rows["product page p99"]["goal"] == 0.2
    assert isclose(rows["statements per page"]["value"], 0.04)
    assert rows["statements per page"]["is_met"] is False
    assert isclose(rows["CPU per page"]["value"], 0.6)
    text = "\n".join(report.lines(whole()))
    assert re.search(r"product page p50 +direct +0\.050 .* goal 0\.1: met", text)
    assert re.search(r"statements per page +direct +0\.040 .* goal 0\.03: missed", text)
    assert not whole(arms()[:1])["ratios"]


def test_what_is_broken_makes_the_report_unsound() -> None:
    assert report.is_sound(whole())
    broken = whole(arms(**{"stock equals": "1 differs"}))
    assert not report.is_sound(broken)
    assert "BROKEN stock equals: 1 differs" in "\n".join(report.lines(broken))
    assert "invariants are broken" in html.page(broken)
    failing = ArmResult("direct", 0.0, [one_round([0.1], statements=1, cpu=1.0, failed=1)], {}, {})
    assert not report.is_sound(whole([failing])), "pages do not fail without a fault"
    given_up = one_round([0.1], statements=1, cpu=1.0)
    given_up.record.given_up = 1
    assert not report.is_sound(whole([ArmResult("direct", 0.0, [given_up], {}, {})]))


def test_what_customers_saw_of_a_fault() -> None:
    during = one_round([0.1] * 10, statements=1, cpu=1.0, failed=3, fault=(1.0, 4.0))
    found = whole([ArmResult("direct", 0.0, [during], {}, {})], OPTIONS._replace(fault="redis killed"))
    seen = found["arms"]["direct"]["fault"]
    assert seen["seconds"] == 3.0
    assert seen["by_kind"]["product"] == {"shown": 4, "failed": 0, "p99": 100.0}
    assert seen["by_kind"]["home"] == {"shown": 0, "failed": 3, "p99": 0.0}
    text = "\n".join(report.lines(found))
    assert "redis killed, 3.0 s: home 3 of 3 failed" in text
    assert "home: UNAVAILABLE, 3 times" in text
    assert report.is_sound(found)


def test_the_page_is_one_file_with_charts_that_loads_nothing() -> None:
    found = whole(arms(**{"<b>": ""}))
    page = html.page(found)
    assert page.count("<svg") >= 6
    assert page.count("<polyline") >= 8
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert not re.search(r"\b(src|href|url)\b *[=(]|<script|@import", page)
    for heading in (
        "Pages: sidecar",
        "Statements per page",
        "CPU per page, ms",
        "Failed pages",
        "Reads per page by tier: sidecar",
        "Ratios",
    ):
        assert f"<h2>{heading}</h2>" in page


def test_the_sheet_is_one_that_estimate_reads(tmp_path: Path) -> None:
    file = tmp_path / "shop.toml"
    file.write_text(sheet.text(SHOP, SHOP.visits, OPTIONS, whole()))
    inputs = read(file)
    assert (inputs.shop.products, inputs.shop.daily_users, inputs.shop.regions) == (40, 1, 1)
    assert inputs.shop.skew == 0.0, "each was bought as often"
    # 20 views of one line, a home page and a cart.
    assert inputs.shop.session_reads_per_user == 22
    # 98 statements and two of the relay in 6 s.
    assert isclose(inputs.deployment.postgres_statements_per_core, 100 / 6, rel_tol=1e-3)
    assert CliRunner().invoke(cli, ["estimate", str(file)]).exit_code == 0


def command(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["replay", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["x.csv", "--fault", "everything"], "'primary killed'"),
        (["x.csv", "--compare", "--baseline", "redis"], "leave --baseline out"),
        (["x.csv", "--fault", "primary killed", "--redis", "single"], "needs --redis cluster"),
        (["x.csv", "--fault", "redis killed", "--rounds", "2"], "needs --rounds 1"),
        (["x.csv", "--json", "/nowhere/at/all"], "cannot write /nowhere/at/all: there is no such directory"),
        (["missing.csv"], "missing.csv"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(arguments: list[str], reason: str) -> None:
    result = command(*arguments)
    assert result.exit_code == 64
    assert reason in result.output
    assert "Traceback" not in result.output


def test_the_option_names_every_fault() -> None:
    assert tuple(FAULTS) == FAULT_NAMES


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + (len(body) + 4).to_bytes(4) + body


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_statements_are_counted_wherever_pieces_end(size: int) -> None:
    startup = (8 + 7).to_bytes(4) + (196608).to_bytes(4) + b"user\0Q\0"
    tls = (8).to_bytes(4) + (80877103).to_bytes(4)
    extended = message(b"P", b"E" * 300) + message(b"B", b"Q" * 9) + message(b"E", b"\0" * 5) + message(b"S")
    sent = tls + startup + message(b"p", b"QQQ") + message(b"Q", b"BEGIN\0") + extended * 3 + message(b"X")
    counter = StatementCounter()
    for start in range(0, len(sent), size):
        counter.feed(sent[start : start + size])
    assert counter.count == 4
