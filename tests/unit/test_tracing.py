"""Spans without a collector: which calls are traced, what is below what, and what is shared."""

import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from cache_sidecar.core import telemetry, tracing
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.core.span_export import OtelSpan
from cache_sidecar.core.tasks import poll
from cache_sidecar.store.connection import summarize
from cache_sidecar.tiers.path.batch import Batch
from tests.support import inside
from tests.support.gates import Loads, make_batch
from tests.support.until import until

IDS = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"


class Traced:
    """Traces, and the spans that have ended."""

    def __init__(self) -> None:
        self._provider = TracerProvider(shutdown_on_exit=False)
        self._exporter = InMemorySpanExporter()
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def begin(self, name: str) -> OtelSpan:
        tracer = self._provider.get_tracer("test")
        return OtelSpan(tracer.start_span(name), tracer)

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self._exporter.get_finished_spans()}

    def parent_of(self, name: str) -> str:
        above = self.spans[name].parent
        return f"{above.span_id:016x}" if above is not None else ""

    def links_of(self, name: str) -> set[str]:
        return {f"{link.context.span_id:016x}" for link in self.spans[name].links}


@pytest.fixture
def traced() -> Iterator[Traced]:
    yield Traced()
    tracing.enter(None)


@pytest.mark.parametrize(
    ("traceparent", "is_sampled"),
    [
        (f"00-{IDS}-00", False),
        (f"00-{IDS}-01", True),
        (f"00-{IDS}-02", False),
        (f"00-{IDS}-03", True),
        (f"cc-{IDS}-01-later", True),
        (f"cc-{IDS}-01", True),
        (f"cc-{IDS}-02-later", False),
        (f"ff-{IDS}-01", None),
        (f"00-{IDS}-01-more", None),
        (f"cc-{IDS}-01later", None),
        (f"00-{IDS}-1", None),
        (f"00-{IDS}", None),
        (f"00-{IDS.upper()}-01", None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01", None),
        (f"00-{IDS}-01\n", None),
        ("", None),
        (None, None),
    ],
)
def test_bit_0_decides_and_what_is_not_valid_leaves_it_to_chance(traceparent: str | None, is_sampled: bool | None) -> None:
    assert tracing.is_sampled(traceparent, 0.0) is bool(is_sampled)
    assert tracing.is_sampled(traceparent, 1.0) is (is_sampled is not False)


async def test_spans_are_below_the_current_one_also_in_its_tasks(traced: Traced) -> None:
    call = traced.begin("call")
    with tracing.use(call), tracing.within("outer") as outer:
        assert outer is not None
        await asyncio.create_task(work())
        assert tracing.current() is outer
    assert tracing.current() is None
    assert (traced.parent_of("outer"), traced.parent_of("work")) == (call.span_id, outer.span_id)


async def work() -> None:
    with tracing.within("work", tracing.Kind.CLIENT, {"number": 1}):
        await asyncio.sleep(0)


def test_without_a_current_span_there_is_none() -> None:
    with tracing.within("nothing") as span:
        assert span is None


def test_a_failure_is_named_without_its_message(traced: Traced) -> None:
    for error in (TierFailed(Tier.L2, Failure.TIMEOUT, "secret"), ValueError("secret")):
        with pytest.raises(type(error)), tracing.use(traced.begin(type(error).__name__)):
            raise error
    found = {name: (span.status.status_code, dict(span.attributes or {})) for name, span in traced.spans.items()}
    assert found == {
        "TierFailed": (StatusCode.ERROR, {"error.type": "timeout"}),
        "ValueError": (StatusCode.ERROR, {"error.type": "ValueError"}),
    }
    assert not any("secret" in span.to_json() for span in traced.spans.values())


async def ask(batch: Batch[str], span: OtelSpan, id: str) -> None:
    with tracing.use(span):
        await batch.get([id])


async def test_a_load_is_below_the_first_who_asked_and_refers_to_the_others(traced: Traced) -> None:
    loads = Loads()
    batch = make_batch(loads)
    asks = [traced.begin(f"ask {id}") for id in "abc"]
    await asyncio.gather(batch.get(["x"]), *(ask(batch, span, id) for span, id in zip(asks, "abc", strict=True)))
    assert loads.calls == [["x", "a", "b", "c"]]
    assert traced.parent_of("load") == asks[0].span_id
    assert traced.links_of("load") == {asks[1].span_id, asks[2].span_id}
    assert (traced.spans["load"].attributes or {})["cache_sidecar.ids"] == 4
    assert "wait for load" not in traced.spans


async def test_who_joins_a_load_refers_to_it(traced: Traced) -> None:
    loads = Loads()
    loads.gate.close()
    batch = make_batch(loads)
    first = asyncio.create_task(ask(batch, traced.begin("first"), "a"))
    await loads.gate.reached()
    second = asyncio.create_task(ask(batch, traced.begin("second"), "a"))
    await until(lambda: batch.coalesced)
    loads.gate.open()
    await asyncio.gather(first, second)
    load = traced.spans["load"].context
    assert load is not None
    assert traced.links_of("wait for load") == {f"{load.span_id:016x}"}
    assert not traced.links_of("load")


async def test_a_load_that_nobody_traced_asked_for_belongs_to_no_trace(traced: Traced) -> None:
    loads, seen = Loads(), []

    async def load(ids: list[str]) -> dict[str, str]:
        seen.append(tracing.current())
        return dict(await loads(ids))

    batch: Batch[str] = Batch(load, max_ids=1, max_running=1, max_waiting=9)  # type: ignore[arg-type]
    loads.gate.close()
    traced_first = asyncio.create_task(ask(batch, traced.begin("first"), "a"))
    await loads.gate.reached()
    # It waits until the load of the traced one ends, in whose callback it is started.
    later = asyncio.create_task(batch.get(["b"]))
    await until(lambda: "b" in batch.waiting)
    loads.gate.open()
    await asyncio.gather(traced_first, later)
    assert [span is not None for span in seen] == [True, False]


async def test_work_that_a_call_starts_for_good_is_not_part_of_it(traced: Traced) -> None:
    seen = []
    with tracing.use(traced.begin("call")):
        task = asyncio.create_task(poll(3600.0, lambda: seen.append(tracing.current())))
    await until(lambda: seen)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert seen == [None]


def test_log_lines_have_the_ids_of_the_trace(traced: Traced) -> None:
    add = inside.add_trace_of(telemetry)
    assert add(None, "info", {"event": "x"}) == {"event": "x"}
    with tracing.use(traced.begin("call")) as span:
        assert add(None, "info", {"event": "x"}) == {"event": "x", "trace_id": span.trace_id, "span_id": span.span_id}


def test_calls_below_a_span_get_its_context(traced: Traced) -> None:
    span = traced.begin("call")
    ((name, value),) = span.headers()
    parent = tracing.parse(value)
    assert name == "traceparent"
    assert parent is not None
    assert (parent.trace_id, parent.span_id, parent.is_sampled) == (span.trace_id, span.span_id, True)


@pytest.mark.parametrize(
    ("statement", "summary"),
    [
        ("SELECT a FROM cache_sidecar.products WHERE a = ANY(%s)", "SELECT products"),
        ("\n  -- why\n update cache_sidecar.carts SET x = 'secret'", "UPDATE carts"),
        ("WITH written AS (INSERT INTO cache_sidecar.requests VALUES (%s)) SELECT 1", "INSERT requests"),
        ("BEGIN ISOLATION LEVEL READ COMMITTED; SELECT 1", "BEGIN"),
        ("COMMIT", "COMMIT"),
        ("SELECT", "SELECT"),
        ("", "SELECT"),
    ],
)
def test_a_statement_is_known_by_what_it_does_and_where(statement: str, summary: str) -> None:
    assert summarize(statement)[1] == summary
