"""Makes calls: attempts, deadlines, request IDs, tokens, fallbacks and hooks, for every method alike."""

import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

import grpc

from cache_sidecar_client import _attempts
from cache_sidecar_client._async.channel import Channel, Duplex, Metadata
from cache_sidecar_client._attempts import Attempts
from cache_sidecar_client._methods import Kind, Method, Q, R
from cache_sidecar_client.errors import DeadlineExceeded, FallbackFailed, Overloaded, SidecarError, Unavailable
from cache_sidecar_client.options import Call, Options, TokenFile

_T = TypeVar("_T")
_log = logging.getLogger("cache_sidecar_client")
AWAY = (Unavailable, DeadlineExceeded, Overloaded)
"Errors that say that the sidecar cannot answer at present: these call the fallback."


class Caller:
    """All calls of one client."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.channel = Channel(options)
        self.fallbacks = 0
        "How many calls were answered by the application's own loader."
        self._token = TokenFile(options.token_file) if options.token_file else None
        self._timeouts = {
            Kind.READ: options.read_timeout,
            Kind.WRITE: options.write_timeout,
            Kind.ADMIN: options.admin_timeout,
        }
        self._loading = 0
        self._is_away = False
        self._has_hook_failed = False

    def call(self, method: Method[Q, R], request: Q, timeout: float | None = None) -> Awaitable[R]:
        """Makes a call, with as many attempts as its deadline allows; `timeout` is in seconds."""
        if method.has_request_id and not request.request_id:  # type: ignore[attr-defined]
            # Before the first attempt, so that all attempts have the same.
            request.request_id = str(uuid.uuid4())  # type: ignore[attr-defined]
        attempts = Attempts(self._timeouts[method.kind] if timeout is None else timeout)
        return self._attempt(method, request, attempts)

    async def call_or(
        self,
        method: Method[Q, R],
        request: Q,
        timeout: float | None,
        read: Callable[[R], _T],
        load: Callable[[], Awaitable[_T]],
    ) -> tuple[_T, bool]:
        """Makes one attempt of a read, and runs the application's loader if the sidecar is away.

        Returns the result, and whether it is the loader's.
        """
        limit = self.options.fallback_after
        attempts = Attempts(limit if timeout is None else min(limit, timeout), repeats=False)
        try:
            reply = await self._attempt(method, request, attempts, will_fall_back=True)
        except AWAY as error:
            if self._loading >= self.options.max_fallbacks:
                raise
            if not self._is_away:
                self._is_away = True
                _log.warning("the sidecar does not answer, the application's own loaders are used: %s", error)
            self._loading += 1
            try:
                result = await load()
            except Exception as failure:
                raise FallbackFailed(f"neither the sidecar answered ({error}) nor the fallback: {failure}") from failure
            finally:
                self._loading -= 1
            self.fallbacks += 1
            return result, True
        if self._is_away:
            self._is_away = False
            _log.warning("the sidecar answers again; %d calls were answered by loaders so far", self.fallbacks)
        return read(reply), False

    async def stream(self, method: Method[Q, R], request: Q) -> AsyncGenerator[R, None]:
        """Yields the replies of a stream, without repetition; raises SidecarError."""
        async for reply in self.channel.stream(method, request, self._metadata(look=False)):
            yield reply

    async def upload(self, method: Method[Q, R], requests: list[Q]) -> R:
        """Sends a stream of requests and returns the reply, without repetition; raises SidecarError."""
        return await self.channel.upload(method, requests, self.options.admin_timeout, self._metadata(look=False))

    def duplex(self, method: Method[Q, R]) -> Duplex[Q, R]:
        """Opens a stream in both directions."""
        return self.channel.duplex(method, self._metadata(look=False))

    async def wait_until_ready(self, timeout: float) -> None:
        """Waits until the sidecar can serve; raises Unavailable if it cannot after `timeout` seconds."""
        attempts = Attempts(timeout)
        while not await self.channel.is_serving(min(attempts.timeout(), 1.0)):
            if attempts.seconds() >= timeout:
                raise Unavailable(f"the sidecar at {self.options.target} was not ready within {timeout} s")
            await self.channel.sleep(_attempts.FIRST_PAUSE)

    async def _attempt(self, method: Method[Q, R], request: Q, attempts: Attempts, *, will_fall_back: bool = False) -> R:
        while True:
            try:
                metadata = self._metadata(look=attempts.looks_at_token)
                reply = await self.channel.unary(method, request, attempts.timeout(), metadata)
            except SidecarError as error:
                try:
                    delay = attempts.delay_after(error)
                except SidecarError:
                    self._tell(method, attempts, error.code, error.reason, will_fall_back and isinstance(error, AWAY))
                    raise
                await self.channel.sleep(delay)
            else:
                if self.options.on_call is not None:
                    self._tell(method, attempts, grpc.StatusCode.OK, "", False)
                return reply

    def _tell(self, method: Method[Q, R], attempts: Attempts, code: grpc.StatusCode, reason: str, fallback: bool) -> None:
        if self.options.on_call is None:
            return
        try:
            self.options.on_call(Call(method.name, attempts.seconds(), attempts.count, code, reason, fallback))
        except Exception:  # noqa: BLE001  # it is logged
            # A write that was made must not look as if it had failed.
            if not self._has_hook_failed:
                self._has_hook_failed = True
                _log.exception("on_call has failed; the call itself is not affected. This is logged once")

    def _metadata(self, *, look: bool) -> Metadata:
        metadata = self._token.metadata(look=look) if self._token else ()
        if self.options.metadata is not None:
            metadata = (*metadata, *self.options.metadata())
        return metadata


async def resume_after(caller: Caller, error: SidecarError, repeats: int) -> None:
    """Waits before a stream is opened again; raises the error if that is in vain."""
    if not isinstance(error, Unavailable | Overloaded | DeadlineExceeded):
        raise error
    await caller.channel.sleep(max(_attempts.pause(min(repeats, 10)), error.retry_after or 0.0))
