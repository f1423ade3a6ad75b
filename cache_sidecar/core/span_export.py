"""Spans by OpenTelemetry's SDK, and their export by OTLP over gRPC. Loaded only if `trace_endpoint` is set.

Spans wait in a bounded queue for a thread that sends them, so no call waits for the collector. While that is away, they are
dropped and counted. OpenTelemetry's own exporter logs each attempt, and hides the collector's words from us; only its encoding
is used.
"""

import asyncio
import contextlib
import math
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Any, Self
from uuid import uuid4

import grpc

from cache_sidecar import __version__
from cache_sidecar.core import telemetry, tracing
from cache_sidecar.core.client_tls import client_credentials
from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.core.tracing import Attribute, Attributes, Kind, Parent
from cache_sidecar.core.watched_files import WatchedFiles

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace import Tracer as SdkTracer
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON
    from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
except ModuleNotFoundError:
    raise SettingsError("trace_endpoint requires OpenTelemetry: pip install 'cache-sidecar[otel]'") from None

# Spans that may wait, spans in one message, and seconds for which they are collected.
MAX_WAITING, MAX_AT_ONCE, COLLECT = 4_096, 512, 1.0
# Seconds for one attempt to send a message, and the pauses before the next ones.
TIMEOUT, PAUSES = 5.0, (0.5, 2.0)
# And for the last ones when the process stops.
LAST = 3.0
# What may be better a moment later, as OTLP defines it.
_PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
}
# What callers see of a collector that is away.
UNANSWERED = "it did not answer before the sidecar stopped"
EFFECT = "traces are lost, calls are answered as ever"
_KINDS = {Kind.INTERNAL: SpanKind.INTERNAL, Kind.SERVER: SpanKind.SERVER, Kind.CLIENT: SpanKind.CLIENT}
_OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


@dataclass(frozen=True, kw_only=True)
class Collector:
    """Where spans are sent to."""

    address: str
    "host:port."
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    "Files, empty for none."


class OtelSpan:
    """Implements `tracing.Span`."""

    __slots__ = ("_span", "_tracer", "span_id", "trace_id")

    def __init__(self, span: trace.Span, tracer: SdkTracer) -> None:
        self._span = span
        self._tracer = tracer
        context = span.get_span_context()
        self.trace_id = f"{context.trace_id:032x}"
        self.span_id = f"{context.span_id:016x}"

    def child(self, name: str, kind: Kind = Kind.INTERNAL, attributes: Attributes | None = None) -> Self:
        """Begins a span below this one."""
        above = trace.set_span_in_context(self._span, Context())
        span = self._tracer.start_span(name, above, _KINDS[kind], attributes)
        return type(self)(span, self._tracer)

    def set(self, name: str, value: Attribute) -> None:
        """Sets an attribute."""
        self._span.set_attribute(name, value)

    def add_event(self, name: str, attributes: Attributes) -> None:
        """Notes what happened now."""
        self._span.add_event(name, attributes)

    def link(self, other: tracing.Span) -> None:
        """Refers to another span, of this or another trace."""
        context = SpanContext(int(other.trace_id, 16), int(other.span_id, 16), is_remote=False, trace_flags=TraceFlags(1))
        self._span.add_link(context)

    def fail(self, error_type: str) -> None:
        """Marks it as failed; `error_type` is the class of an error or the name of a status, not its message."""
        self._span.set_attribute("error.type", error_type)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        """Ends it."""
        self._span.end()

    def headers(self) -> list[tuple[str, str]]:
        """Returns the metadata of a call below this span."""
        context = self._span.get_span_context()
        found = [("traceparent", f"00-{self.trace_id}-{self.span_id}-{context.trace_flags:02x}")]
        if context.trace_state:
            found.append(("tracestate", context.trace_state.to_header()))
        return found


class OtelTracer:
    """Implements `tracing.Tracer`, and exports the spans of one process."""

    def __init__(self, collector: Collector, *, ratio: float, service: str, dependency: Dependency) -> None:
        """`ratio` of the calls whose callers don't decide are traced. `dependency` is told what the collector says."""
        self._ratio = ratio
        self._exporter = _Exporter(collector, dependency)
        self._processor = _Processor(self._exporter)
        ours = {
            "service.name": service,
            "service.version": __version__,
            "service.instance.id": str(uuid4()),
            "host.name": socket.gethostname(),
        }
        # What the variables OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say counts more.
        resource = Resource.create(ours).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        self._provider.add_span_processor(self._processor)
        tracer = self._provider.get_tracer("cache_sidecar", __version__)
        self._tracer: Any = tracer
        self.stop_at = math.inf
        "When to have stopped, by the monotonic clock."
        self.lost = 0
        "Spans that were lost before they were any: hits of the native engine."

    def is_sampled(self, traceparent: str | None) -> bool:
        """Returns whether a call is traced, given its metadata."""
        return tracing.is_sampled(traceparent, self._ratio)

    def begin_call(self, method: str, traceparent: str | None, tracestate: str | None, began: int | None = None) -> OtelSpan:
        """Begins the span of a call of `SERVICE/METHOD` that is sampled; `began` in nanoseconds since the epoch, else now."""
        parent = tracing.parse(traceparent, tracestate or "") if traceparent else None
        above = Context() if parent is None else _above(parent)
        attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        return OtelSpan(self._tracer.start_span(method, above, SpanKind.SERVER, attributes, start_time=began), self._tracer)

    def record_hit(self, method: str, traceparent: str, tracestate: str, began: int, ended: int) -> None:
        """Makes the span of a call that the native engine has answered."""
        parent = tracing.parse(traceparent, tracestate) if traceparent else None
        above = Context() if parent is None else _above(parent)
        attributes = {
            "rpc.system.name": "grpc",
            "rpc.method": method,
            "rpc.response.status_code": "OK",
            "cache_sidecar.tier": "l1",
            "cache_sidecar.native": True,
        }
        self._tracer.start_span(method, above, SpanKind.SERVER, attributes, start_time=began).end(ended)

    def counts(self) -> dict[str, int]:
        """Returns how many spans were exported, or lost and why."""
        return {
            "exported": self._exporter.exported,
            "failed": self._exporter.failed,
            "dropped": self._processor.dropped + self.lost,
        }

    async def close(self) -> None:
        """Exports what waits, until `stop_at` or for `LAST` seconds."""
        left = max(0.0, min(self.stop_at - time.monotonic(), LAST))
        loop = asyncio.get_running_loop()
        self._exporter.end_by(time.monotonic() + left)
        # An attempt under way has a longer time limit.
        giving_up = loop.call_later(left, self._exporter.give_up)
        with ThreadPoolExecutor(1) as thread:  # of its own: those of the loop may be busy
            await loop.run_in_executor(thread, self._provider.shutdown)
        giving_up.cancel()


def _above(parent: Parent) -> Context:
    """Returns the context of what is below a caller's span."""
    context = SpanContext(
        int(parent.trace_id, 16),
        int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(parent.flags),
        trace_state=TraceState.from_header([parent.state]) if parent.state else None,
    )
    return trace.set_span_in_context(NonRecordingSpan(context), Context())


class _Processor(BatchSpanProcessor):
    """A batch processor that counts what it drops: the newest, when as many wait as may."""

    def __init__(self, exporter: "_Exporter") -> None:
        # Larger than what is let in, so that nothing is dropped uncounted.
        super().__init__(exporter, 2 * MAX_WAITING, COLLECT * 1000, MAX_AT_ONCE)
        self._exporter_of_this = exporter
        self._accepted = 0
        self.dropped = 0

    def on_end(self, span: ReadableSpan) -> None:
        """Queues a span that has ended."""
        if self._accepted - self._exporter_of_this.taken >= MAX_WAITING:
            self.dropped += 1
            return
        self._accepted += 1
        super().on_end(span)


class _Exporter(SpanExporter):
    """Sends spans, and reports to the collector's dependency; runs in the processor's thread."""

    def __init__(self, collector: Collector, dependency: Dependency) -> None:
        """To be created where the event loop runs, which `dependency` belongs to."""
        self._collector = collector
        self._dependency = dependency
        self._loop = asyncio.get_running_loop()
        self._watched = WatchedFiles(*(file for file in (collector.ca, collector.cert, collector.key) if file))
        self._channel: grpc.Channel | None = None
        self._call: Any = None
        self._ending = Event()
        self._until = math.inf
        self.taken = self.exported = self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Sends spans, and drops them if the collector does not take them."""
        self.taken += len(spans)
        rejected, words = self._send(encode_spans(spans))
        lost = min(rejected, len(spans)) if rejected >= 0 else len(spans)
        self.exported += len(spans) - lost
        self.failed += lost
        if words:
            self._report(lambda: self._dependency.report_failure(words, effect=EFFECT))
        elif self._dependency.is_failing:
            self._report(self._dependency.report_success)
        return SpanExportResult.FAILURE if lost else SpanExportResult.SUCCESS

    def _send(self, request: Any) -> tuple[int, str]:
        """Returns how many spans were rejected, -1 for all of them, and what the collector says of it; empty if nothing."""
        stub: Any = TraceServiceStub
        for pause in (*PAUSES, None):
            left = min(TIMEOUT, self._until - time.monotonic())
            if left <= 0:
                return -1, UNANSWERED
            try:
                self._call = stub(self._connect()).Export.future(request, timeout=left)
                reply = self._call.result()
            except grpc.FutureCancelledError:
                return -1, UNANSWERED
            except OSError as error:
                return -1, f"{error.filename}: {error.strerror}"
            except grpc.RpcError as error:
                words = f"{error.code().name}: {error.details()}"
                if error.code() not in _PASSING or pause is None or self._ending.wait(pause):
                    return -1, words
            else:
                return reply.partial_success.rejected_spans, reply.partial_success.error_message
        raise AssertionError("the last attempt returns")

    def _connect(self) -> grpc.Channel:
        """Returns the channel, a new one after a change of the TLS files. Raises OSError if none was there to begin with."""
        if self._channel is None:
            self._channel = self._new_channel()
        elif self._watched.have_changed():
            try:
                channel = self._new_channel()
            except OSError as error:
                telemetry.log.error("TLS files of trace_endpoint ignored", error=f"{error.filename}: {error.strerror}")
            else:
                self._channel.close()
                self._channel = channel
        return self._channel

    def _new_channel(self) -> grpc.Channel:
        """Raises OSError if a TLS file cannot be read."""
        collector = self._collector
        if not collector.tls:
            return grpc.insecure_channel(collector.address, _OPTIONS)
        credentials = client_credentials(collector.ca, collector.cert, collector.key)
        return grpc.secure_channel(collector.address, credentials, _OPTIONS)

    def _report(self, report: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(report)

    def end_by(self, moment: float) -> None:
        """Has no attempt last longer than until a moment of the monotonic clock, and none follow a failed one."""
        self._until = moment
        self._ending.set()

    def give_up(self) -> None:
        """Ends the attempt under way."""
        if self._call is not None:
            self._call.cancel()

    def shutdown(self) -> None:
        """Closes the connection."""
        if self._channel is not None:
            self._channel.close()
