"""The list of metrics, and their text, as Prometheus' own parsers read it."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from cache_sidecar.core import container_memory
from cache_sidecar.injector.certificates import renew
from cache_sidecar.metrics import definitions
from cache_sidecar.metrics.certificates import RELAY, Certificates
from cache_sidecar.metrics.definitions import Kind, Metric, Process
from cache_sidecar.metrics.exposition import Distribution, Samples, accepts_openmetrics, render
from cache_sidecar.metrics.table import table
from cache_sidecar.metrics.web import serving
from cache_sidecar.server.call_stats import BOUNDS, CallStats
from tests.support import scrape
from tests.support.launch import settings_for
from tests.support.tokens import secret_file

ODD = 'a\\b"c"\nd é {x="1"}'
FAMILIES = [
    (Metric("shop_calls", Kind.COUNTER, ("method", "code"), "Calls."), {("A/B", "OK"): 3, (ODD, "OK"): 1}),
    (Metric("shop_lag_seconds", Kind.GAUGE, (), "Lag.", "seconds"), {(): 0.25}),
    (
        Metric("shop_wait_seconds", Kind.HISTOGRAM, ("m",), "Waits.", "seconds"),
        {("x",): Distribution((0.1, 1.0), (2, 0, 1), 5.2)},
    ),
    (Metric("shop_absent", Kind.GAUGE, (), "Has no value."), {}),
]


def test_the_readme_has_the_table() -> None:
    readme = (Path(definitions.__file__).parent / "README.md").read_text()
    assert table() in readme, "run `python -m cache_sidecar.metrics`"


def test_every_metric_is_served_by_a_process() -> None:
    assert {metric.name for process in Process for metric in definitions.of(process)} == {one.name for one in definitions.ALL}


def test_names_follow_the_conventions() -> None:
    names = [metric.name for metric in definitions.ALL]
    assert len(names) == len(set(names)) > 30
    for metric in definitions.ALL:
        assert re.fullmatch(r"(cache_sidecar|process)_[a-z0-9_]+", metric.name)
        assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert not metric.unit or metric.name.endswith(f"_{metric.unit}")
        assert metric.help.endswith("."), metric.name
        assert not {"le", "user_id", "session_id", "peer"} & set(metric.labels)


@pytest.mark.parametrize("openmetrics", [False, True])
def test_prometheus_reads_what_is_written(openmetrics: bool) -> None:
    text = render(FAMILIES, openmetrics=openmetrics)
    found = {family.name: family for family in (parse_openmetrics if openmetrics else parse_text)(text)}
    assert found.keys() == {"shop_calls", "shop_lag_seconds", "shop_wait_seconds"}
    assert [found[name].type for name in sorted(found)] == ["counter", "gauge", "histogram"]
    samples = {(one.name, tuple(sorted(one.labels.items()))): one.value for family in found.values() for one in family.samples}
    assert samples == {
        ("shop_calls_total", (("code", "OK"), ("method", "A/B"))): 3,
        ("shop_calls_total", (("code", "OK"), ("method", ODD))): 1,
        ("shop_lag_seconds", ()): 0.25,
        ("shop_wait_seconds_bucket", (("le", "0.1"), ("m", "x"))): 2,
        ("shop_wait_seconds_bucket", (("le", "1.0"), ("m", "x"))): 2,
        ("shop_wait_seconds_bucket", (("le", "+Inf"), ("m", "x"))): 3,
        ("shop_wait_seconds_sum", (("m", "x"),)): 5.2,
        ("shop_wait_seconds_count", (("m", "x"),)): 3,
    }
    assert text.endswith("# EOF\n") is openmetrics


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
        ("application/openmetrics-text;q=0.3, text/plain;q=0.9", False),
        ("Application/OpenMetrics-Text; version=1.0.0", True),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=abc", True),
        (";;,,;q=", False),
    ],
)
def test_the_format_is_the_one_that_is_preferred(accept: str, wanted: bool) -> None:
    assert accepts_openmetrics(accept) is wanted


def test_a_call_is_in_the_bucket_of_its_duration() -> None:
    stats = CallStats()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] * 1.01, BOUNDS[-1], 1e6):
        stats.record(0, seconds)
    stats.record(1)
    assert (stats.buckets[0], stats.buckets[1], stats.buckets[-2], stats.buckets[-1]) == (2, 1, 1, 1)
    assert (sum(stats.buckets), stats.codes) == (5, {0: 5, 1: 1})


async def test_a_scrape_of_many_series_gives_others_their_turns() -> None:
    turns = 0
    lasted: list[int] = []

    def collect() -> Iterator[tuple[Metric, Samples]]:
        began = turns
        for number in range(50):
            yield Metric(f"shop_{number}", Kind.GAUGE, ("id",), "Has values."), {(str(id),): id for id in range(100)}
        lasted.append(turns - began)

    async def work() -> None:
        nonlocal turns
        while not lasted:
            turns += 1
            await asyncio.sleep(0)

    async with serving("127.0.0.1:0", collect) as address:
        working = asyncio.create_task(work())
        _, body = await scrape.fetch(address)
        await working
    assert body.count("\nshop_") == 5000
    # At least after every 200 lines.
    assert lasted[0] >= 25


def test_exemplars_are_read_in_openmetrics_only() -> None:
    metric = Metric("shop_wait_seconds", Kind.HISTOGRAM, ("m",), "Waits.", "seconds")
    value = Distribution(
        (0.1, 1.0), (2, 0, 1), 5.2, {0: ("ab" * 16, 0.05, 1_700_000_000.5), 2: ("cd" * 16, 5.0, 1_700_000_001.0)}
    )
    (family,) = parse_openmetrics(render([(metric, {("x",): value})], openmetrics=True))
    exemplars = {sample.labels["le"]: sample.exemplar for sample in family.samples if sample.exemplar}
    assert {le: (one.labels, one.value) for le, one in exemplars.items()} == {
        "0.1": ({"trace_id": "ab" * 16}, 0.05),
        "+Inf": ({"trace_id": "cd" * 16}, 5.0),
    }
    assert "trace_id" not in render([(metric, {("x",): value})], openmetrics=False)


class Headers:
    """As much of a call's context as is looked at."""

    def __init__(self, traceparent: str | bytes) -> None:
        self.traceparent = traceparent

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return [("other", "x"), ("traceparent", self.traceparent)]


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (f"00-{'ab' * 16}-{'01' * 8}-01", "ab" * 16),
        (f"00-{'ab' * 16}-{'01' * 8}-03", "ab" * 16),
        (f"01-{'ab' * 16}-{'01' * 8}-01-more", "ab" * 16),
        (f"00-{'ab' * 16}-{'01' * 8}-02", None),
        (f"00-{'00' * 16}-{'01' * 8}-01", None),
        (f"00-{'AB' * 16}-{'01' * 8}-01", None),
        ('00-"} 1-01', None),
        (b"00", None),
    ],
)
def test_the_trace_of_a_slow_call_is_kept_if_it_is_sampled(traceparent: str | bytes, trace_id: str | None) -> None:
    stats = CallStats()
    stats.record(0, 5.0, Headers(traceparent))
    assert [one.trace_id for one in stats.exemplars.values()] == ([trace_id] if trace_id else [])


def test_of_fast_calls_one_in_sixteen_is_looked_at() -> None:
    stats = CallStats()
    for number in range(20):
        stats.record(0, 1e-6, Headers(f"00-{number + 1:032x}-{'01' * 8}-01"))
    assert stats.exemplars[0].trace_id == f"{17:032x}"


@pytest.mark.parametrize(
    ("v2", "v1", "found"),
    [
        (("268435456\n", "1000000\n", "anon 5\ninactive_file 300000\nactive_file 7\n"), None, (1 << 28, 700_000)),
        (("max\n", "1000000\n", "inactive_file 300000\n"), None, None),
        (None, ("1000000\n", "900000\n", "inactive_file 1\ntotal_inactive_file 500000\n"), (1_000_000, 400_000)),
        (None, (f"{2**63 - 4096}\n", "1\n", "\n"), None),
        (("1000\n", None, None), None, None),
        (None, None, None),
    ],
)
def test_the_memory_is_the_container_s(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    v2: tuple[str | None, ...] | None,
    v1: tuple[str | None, ...] | None,
    found: tuple[int, int] | None,
) -> None:
    groups = []
    for version, texts, statistic in (("v2", v2, "inactive_file "), ("v1", v1, "total_inactive_file ")):
        files = [tmp_path / f"{version}-{name}" for name in ("limit", "usage", "statistics")]
        for file, text in zip(files, texts or (), strict=False):
            if text is not None:
                file.write_text(text)
        groups.append((*map(str, files), statistic))
    monkeypatch.setattr(container_memory, "CGROUPS", tuple(groups))
    assert container_memory.container_memory() == found


def test_a_chain_expires_with_its_first_certificate_and_a_bundle_with_its_last(tmp_path: Path) -> None:
    now = 1_700_000_000.0
    older, newer = (renew(None, ["x"], now=now + more, lifetime=86_400.0).to_secret()["tls.crt"] for more in (0.0, 3_600.0))
    file = tmp_path / "both.pem"
    file.write_bytes(older + newer)
    settings = settings_for(
        "127.0.0.1:1",
        "postgresql://shop@127.0.0.1:1/shop",
        "x",
        redis_tls_ca=str(file),
        redis_tls_cert=str(file),
        redis_tls_key=str(secret_file(tmp_path / "key", "x")),
    )
    certificates = Certificates(settings, RELAY)
    certificates.look()
    ((_, samples),) = certificates.collect()
    assert samples == {("redis_tls_ca",): now + 86_400 + 3_600, ("redis_tls_cert",): now + 86_400}
    file.write_text("nothing")
    certificates.look()
    ((_, samples),) = certificates.collect()
    assert samples == {}
