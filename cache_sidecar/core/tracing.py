"""Traces: which calls have one, and the spans below a call's. OpenTelemetry itself is in `span_export.py`.

A call is traced if its caller says so (W3C Trace Context, bit 0 of the flags), or by chance if the caller says nothing. Its
span is the current one while it is answered, and in the tasks that it starts. All other code asks for the current span and gets
None unless the call is traced, so what is not traced costs one look at a context variable wherever a span could begin.

A load has a span of its own, although several calls wait for it: a child of the first of them that is traced, with links to the
others, which link back from the span of their wait.

Spans have no values: neither ids, nor parameters or messages of servers, which quote them. Nobody could erase them from where
they are exported to.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from enum import Enum
from typing import NamedTuple, Protocol, Self

# Links of a load to the calls that wait for it; OpenTelemetry drops more than 128.
MAX_LINKS = 64
# Statuses of a call for which its server is to blame, as OpenTelemetry defines it for gRPC.
_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})

Attribute = str | int | bool
Attributes = Mapping[str, Attribute]

_ODD = frozenset("13579bdf")
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)


class Kind(Enum):
    """What a span is to the one above it."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


class Parent(NamedTuple):
    """The caller's span, as it says."""

    trace_id: str
    "32 hexadecimal digits."
    span_id: str
    "16 of them."
    flags: int
    state: str = ""
    "`tracestate`."

    @property
    def is_sampled(self) -> bool:
        """What the caller decided; the other flags say nothing about it."""
        return bool(self.flags & 1)


class Span(Protocol):
    """A span that is recorded."""

    trace_id: str
    span_id: str

    def child(self, name: str, kind: Kind = Kind.INTERNAL, attributes: Attributes | None = None) -> Self:
        """Begins a span below this one."""
        ...

    def set(self, name: str, value: Attribute) -> None:
        """Sets an attribute."""
        ...

    def add_event(self, name: str, attributes: Attributes) -> None:
        """Notes what happened now."""
        ...

    def link(self, other: "Span") -> None:
        """Refers to another span, of this or another trace."""
        ...

    def fail(self, error_type: str) -> None:
        """Marks it as failed; `error_type` is the class of an error or the name of a status, not its message."""
        ...

    def end(self) -> None:
        """Ends it."""
        ...

    def headers(self) -> list[tuple[str, str]]:
        """Returns the metadata of a call below this span."""
        ...


class Tracer(Protocol):
    """Decides which calls are traced, and begins their spans."""

    def begin_call(self, method: str, traceparent: str | None, tracestate: str | None) -> Span:
        """Begins the span of a call of `SERVICE/METHOD` that `is_sampled` chose, given its metadata."""
        ...

    def is_sampled(self, traceparent: str | None) -> bool:
        """Returns whether a call is traced, given its metadata."""
        ...


NO_SPAN: AbstractContextManager[None] = nullcontext()
"What is done inside has no span."
_current: ContextVar[Span | None] = ContextVar("span", default=None)
current = _current.get
"Returns the span of what is being done; None if that is not traced."


def parse(traceparent: str, state: str = "") -> Parent | None:
    """Reads the metadata `traceparent` of a call; None if it is not valid, as if the caller had sent none."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or (found[1] == "00" and found[5] is not None):
        return None
    return Parent(found[2], found[3], int(found[4], 16), state)


def is_sampled(traceparent: str | None, ratio: float) -> bool:
    """Returns whether a call is traced: as its caller decided, or else with this probability."""
    by_chance = ratio > 0 and random.random() < ratio  # noqa: S311  # not a secret
    if not traceparent:
        return by_chance
    # Nearly all calls: valid or not, it does not ask for a span. To find out which costs more than all the rest.
    if not by_chance and traceparent[54:55] not in _ODD:
        return False
    parent = parse(traceparent)
    return by_chance if parent is None else parent.is_sampled


def enter(span: Span | None) -> None:
    """Makes a span the current one for the rest of this task."""
    _current.set(span)


def within(name: str, kind: Kind = Kind.INTERNAL, attributes: Attributes | None = None) -> AbstractContextManager[Span | None]:
    """What is done inside has a span of its own below the current one; without a current one, nothing happens."""
    parent = _current.get()
    return NO_SPAN if parent is None else use(parent.child(name, kind, attributes))


@contextmanager
def use(span: Span) -> Iterator[Span]:
    """Makes a span the current one inside, and ends it; it fails with whatever is raised."""
    token = _current.set(span)
    try:
        yield span
    except BaseException as error:
        span.fail(error_type(error))
        raise
    finally:
        _current.reset(token)
        span.end()


@contextmanager
def sharing(name: str, askers: Sequence[Span], attributes: Attributes | None = None) -> Iterator[Span | None]:
    """What is done inside is done for several who wait for it, in a task of its own.

    Its span is below that of the first of them, and refers to the others. Without any, it has none: the task may have been
    started by a call that was traced, but has ended.
    """
    if not askers:
        _current.set(None)
        yield None
        return
    with use(askers[0].child(name, attributes=attributes)) as span:
        for asker in askers[1 : MAX_LINKS + 1]:
            span.link(asker)
        yield span


def error_type(error: BaseException) -> str:
    """Returns what a span says of an error: what kind of failure of a tier it is, or its class."""
    failure = getattr(error, "failure", None)
    return failure.name.lower() if isinstance(failure, Enum) else type(error).__name__


def end_call(span: Span, code: str) -> None:
    """Ends the span of a call with the name of its status."""
    span.set("rpc.response.status_code", code)
    if code in _FAULTS:
        span.fail(code)
    span.end()
