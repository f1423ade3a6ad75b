"""Calls that the native engine proxies to grpc.aio: their handlers see the real caller instead of the native engine."""

import contextlib
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import grpc

# The number of the caller's connection; only the native engine sets this metadata, see `native/src/metadata.rs`.
CONNECTION = "cache-sidecar-connection"


class Caller(Protocol):
    """The part of `grpc.aio.ServicerContext` that is about the caller."""

    def peer(self) -> str:
        """Returns the caller's address."""
        ...

    def peer_identities(self) -> list[bytes] | None:
        """Returns the names in the caller's certificate."""
        ...

    def peer_identity_key(self) -> str | None:
        """Returns which names they are."""
        ...

    def auth_context(self) -> dict[str, list[bytes]]:
        """Returns all properties."""
        ...


Callers = Callable[[int], Caller | None]
"""Returns the caller of a connection, by its number; None if it is gone."""


class ProxiedContext:
    """The context of a proxied call."""

    def __init__(self, context: Any, caller: Caller) -> None:
        self._context = context
        self.peer = caller.peer
        self.peer_identities = caller.peer_identities
        self.peer_identity_key = caller.peer_identity_key
        self.auth_context = caller.auth_context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> Any:
        """Returns the caller's metadata."""
        return tuple(pair for pair in self._context.invocation_metadata() or () if pair[0] != CONNECTION)


async def _caller_context(context: Any, callers: Callers) -> ProxiedContext:
    number = dict(context.invocation_metadata() or ()).get(CONNECTION, "")
    caller = callers(int(number)) if number.isdecimal() else None
    if caller is None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the caller is gone")
        raise AssertionError("abort raises")
    return ProxiedContext(context, caller)


def restore_caller(handler: Any, callers: Callers) -> Any:
    """Wraps a handler so that its context shows the caller instead of the native engine."""
    (shape,) = (shape for shape in _SHAPES if getattr(handler, shape))
    behaviour = getattr(handler, shape)

    async def call(request: Any, context: Any) -> Any:
        return await behaviour(request, await _caller_context(context, callers))

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        async with contextlib.aclosing(behaviour(request, await _caller_context(context, callers))) as replies:
            async for reply in replies:
                yield reply

    return handler._replace(**{shape: stream if inspect.isasyncgenfunction(behaviour) else call})


_SHAPES = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
