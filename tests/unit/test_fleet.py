"""The comparison of many sidecars: which come first, and why."""

from typing import Any

import pytest

from cache_sidecar.core.errors import InputError, ServerUnreachable
from cache_sidecar.dashboard import readings
from cache_sidecar.dashboard.fleet import Row, compare
from cache_sidecar.dashboard.readings import Figures
from cache_sidecar.dashboard.targets import Target, check_address
from cache_sidecar.metrics import definitions as d
from cache_sidecar.metrics.exposition import render

USUAL = Figures("1.0", "native", 1, 1000, 900, 0, 50, 100, 0.01, 0.5, [])


def row(name: str, *, reads: float | None = 100.0, ratio: float | None = 0.9, problem: str = "", **more: Any) -> Row:
    known = None if problem else USUAL._replace(**more)
    return Row(Target(name, name), known, problem, None if problem else reads, 0.0, None if problem else ratio)


def reasons(*rows: Row) -> dict[str, list[str]]:
    return {one["name"]: one["differences"] for one in compare(rows)["sidecars"]}


def test_those_that_need_a_look_come_first() -> None:
    rows = [row("a"), row("b"), row("c", version="1.1"), row("d", problem="no route"), row("e", problems=["redis: away"])]
    found = compare(rows)
    assert [(one["name"], one["rank"]) for one in found["sidecars"]] == [("e", 0), ("d", 1), ("c", 2), ("a", 3), ("b", 3)]
    assert found["sidecars"][1]["unreachable"] == "no route"
    assert found["reachable"] == 4
    assert found["versions"] == {"1.0": 3, "1.1": 1}


def test_sums_count_each_read_once() -> None:
    found = compare([row("a", reads=100, ratio=1.0), row("b", reads=300, ratio=0.5), row("c", reads=None, ratio=None)])
    assert found["reads"] == 400
    assert found["ratio"] == pytest.approx(250 / 400)


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"version": "0.9"}, "version 0.9; most have 1.0"),
        ({"policy_version": 4}, "policy version 4; most have 1"),
        ({"ratio": 0.7}, "hit ratio 70%; the median is 90%"),
        ({"reads": 400.0}, "4.0 times the median of reads"),
        ({"delay": 2.0}, "invalidations take up to 2.0 s"),
        ({"lag": 30.0}, "its relay is 30 s behind"),
    ],
)
def test_a_difference_is_named(odd: dict[str, Any], reason: str) -> None:
    assert reasons(row("a"), row("b"), row("c"), row("odd", **odd)) == {"odd": [reason], "a": [], "b": [], "c": []}


def test_few_reads_say_nothing_about_the_ratio() -> None:
    assert reasons(row("a"), row("b"), row("idle", reads=1.0, ratio=0.0)) == {"a": [], "b": [], "idle": []}


def test_nobody_is_compared_with_nobody() -> None:
    assert compare([])["sidecars"] == []
    assert compare([row("a", reads=None, ratio=None)])["ratio"] is None
    assert compare([row("a", problem="gone")])["reachable"] == 0


def test_figures_are_read_from_metrics() -> None:
    families = [
        (d.BUILD, {("sidecar", "1.2", "native", "3.11"): 1}),
        (d.HITS, {("product", "l1"): 70, ("product", "store"): 20, ("cart", "l2"): 10}),
        (d.TIER_ERRORS, {("product", "l2"): 3}),
        (d.FEED_PARTITIONS, {(): 256}),
        (d.FAILING, {("redis", 'a:1 "x"\\\n'): 1, ("postgresql", "catalog"): 0}),
        (d.POLICY_VERSION, {(): 5}),
        (d.L1_BYTES, {("product",): 30}),
        (d.L1_LIMIT, {("product",): 60}),
        (d.RELAY_LAG, {("catalog",): 0.5, ("user",): 0.7}),
    ]
    found = readings.of_metrics(render(families, openmetrics=False))
    assert found == Figures("1.2", "native", 5, 100, 80, 3, 30, 60, None, 0.7, ['redis a:1 "x"\\\n'.rstrip()])


def test_the_metrics_of_something_else_are_not_taken() -> None:
    relay = render([(d.BUILD, {("relay", "1.2", "", "3.11"): 1})], openmetrics=False)
    for text in (relay, "", "<html>", "up 1\n"):
        with pytest.raises(ServerUnreachable, match="not a sidecar's"):
            readings.of_metrics(text)


@pytest.mark.parametrize(
    "sample",
    [
        "cache_sidecar_partitions_fresh +Inf",
        "cache_sidecar_l1_bytes NaN",
        "cache_sidecar_policy_version 1e308",
        "cache_sidecar_policy_version one",
        'cache_sidecar_dependency_failing{what="redis"} 1',
        'cache_sidecar_reads_hit_total{dataset="product"} 1',
    ],
)
def test_metrics_that_no_sidecar_has_are_not_taken(sample: str) -> None:
    build = render([(d.BUILD, {("sidecar", "1.2", "native", "3.11"): 1})], openmetrics=False)
    with pytest.raises(ServerUnreachable, match="is not as a sidecar's: "):
        readings.of_metrics(f"{build}{sample}\n")


@pytest.mark.parametrize("address", ["a:1", "[::1]:50051", "http://10.0.0.1:9464", "unix:/run/a.sock"])
def test_addresses(address: str) -> None:
    assert check_address(address) == address


@pytest.mark.parametrize("address", ["a", "http://a", "https://a:1", "a:x", "http://a:1/metrics", "a:1:2", ""])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InputError, match="HOST:PORT"):
        check_address(address)
