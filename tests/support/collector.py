"""A collector of traces: a real OTLP receiver, whose spans a test looks at."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from cache_sidecar.core.dependencies import Dependencies, Dependency
from cache_sidecar.core.span_export import Collector as Where
from cache_sidecar.core.span_export import OtelTracer
from tests.support.gates import Gate
from tests.support.until import until

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def parent(trace: str = TRACE, flags: str = "01", *, version: str = "00", more: str = "") -> str:
    """Returns the `traceparent` of a caller."""
    return f"{version}-{trace}-{CALLER}-{flags}{more}"


class Found(NamedTuple):
    """A span that was received."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    links: frozenset[str]
    "The ids of the spans that it refers to."
    attributes: dict[str, str | int | bool]
    events: list[str]
    is_error: bool
    began: int
    ended: int
    service: str


class Collector(TraceServiceServicer):
    """Receives spans."""

    def __init__(self) -> None:
        self.spans: list[Found] = []
        self.messages: list[bytes] = []
        "As they were received."
        self.gate = Gate()
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self.refused = 0
        self.address = ""

    async def Export(self, request: pb.ExportTraceServiceRequest, context: Any) -> pb.ExportTraceServiceResponse:
        """Keeps spans."""
        await self.gate.passed()
        if self.refusal is not None:
            self.refused += 1
            await context.abort(*self.refusal)
        self.messages.append(request.SerializeToString())
        for resource in request.resource_spans:
            service = _attributes(resource.resource.attributes)["service.name"]
            self.spans += [_found(span, str(service)) for scope in resource.scope_spans for span in scope.spans]
        return pb.ExportTraceServiceResponse()

    def of(self, trace: str = TRACE) -> list[Found]:
        """Returns the spans of a trace."""
        return [span for span in self.spans if span.trace == trace]

    async def call(self, method: str, trace: str = TRACE) -> Found:
        """Waits for the span of the only call in a trace, with which all below it that ended before is here."""
        await until(lambda: any(span.name == method for span in self.of(trace)))
        (found,) = (span for span in self.of(trace) if span.name == method)
        return found

    def below(self, span: Found) -> dict[str, Found]:
        """Returns the spans below one, at any depth, by their names."""
        children = [one for one in self.of(span.trace) if one.parent == span.id]
        return {name: found for child in children for name, found in {child.name: child, **self.below(child)}.items()}


def _found(span: Span, service: str) -> Found:
    return Found(
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        links=frozenset(link.span_id.hex() for link in span.links),
        attributes=_attributes(span.attributes),
        events=[event.name for event in span.events],
        is_error=span.status.code == Status.STATUS_CODE_ERROR,
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        service=service,
    )


def _attributes(pairs: Any) -> dict[str, str | int | bool]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextlib.asynccontextmanager
async def tracing_to(address: str, *, dependency: Dependency | None = None, **files: str) -> AsyncIterator[OtelTracer]:
    """Makes spans in this process, and sends them to a collector, with TLS if files are given."""
    where = Where(address=address, tls=bool(files), **files)
    dependency = dependency or Dependencies(is_logged=False).of("trace collector")
    tracer = OtelTracer(where, ratio=0.0, service="test", dependency=dependency)
    try:
        yield tracer
    finally:
        await tracer.close()


@contextlib.asynccontextmanager
async def collecting(
    address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[Collector]:
    """Runs a collector."""
    server, collector = grpc.aio.server(), Collector()
    add_TraceServiceServicer_to_server(collector, server)
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    collector.address = f"127.0.0.1:{port}"
    await server.start()
    try:
        yield collector
    finally:
        collector.gate.open()
        await server.stop(0)
