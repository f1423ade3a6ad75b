"""The parts of one page: read at the same time, each with its own failure, until shortly before the caller's deadline."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from cache_sidecar.core.errors import DeadlineExceeded, InvalidRequest, NotFound, ReplyTooLarge, SidecarError
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.services.shared.freshness import deadline
from cache_sidecar.services.shared.wire import field
from cache_sidecar.tiers.ports import IN_TIME
from cache_sidecar.v1.storefront_service_pb2 import PartError, ProductPart

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Any, Any], Awaitable[Any]]
"""A method of another service; its reply is a message, or the bytes of one."""
Part = asyncio.Task[bytes | None]
"""The bytes of a part's message; None if there is no such part."""
# The same in the messages of all parts.
_ERROR = ProductPart.ERROR_FIELD_NUMBER
# Seconds before the caller's deadline at which what is not there is given up: first what is inside a part. Datasets
# serve what is stale earlier, at `IN_TIME`.
INSIDE_IN_TIME = 0.75 * IN_TIME
PAGE_IN_TIME = 0.5 * IN_TIME


class PageParts:
    """The parts of one page; a context manager, which cancels what is still being read at its end.

    That harms nobody else: loads that others wait for, too, are not cancelled with those who wait (`tiers/path/batch.py`).
    """

    def __init__(
        self, context: Context, *, tasks: BackgroundTasks, describe: Callable[[Exception], Status], bound: Bound
    ) -> None:
        """`tasks` holds what is being read, `describe` returns the status of an error, `bound` limits the page."""
        self._context = context
        self._tasks = tasks
        self._describe = describe
        self._bound = bound
        self._until = deadline(context)
        "When the caller stops waiting, in the event loop's time; None without a deadline."
        self._started: list[asyncio.Task[Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._started:
            task.cancel()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts to read a part, or what several parts wait for."""
        task = self._tasks.spawn(work)
        self._started.append(task)
        return task

    async def read(self, method: Method, request: Message) -> bytes:
        """Returns the reply of a method as bytes; errors as of the method."""
        reply = await method(request, self._context)
        return reply if type(reply) is bytes else reply.SerializeToString()

    async def read_inside(self, method: Method, request: Message) -> bytes:
        """Returns the reply of a method, for a part inside another one, which does not fail with it: or else its error."""
        try:
            async with asyncio.timeout_at(None if self._until is None else self._until - INSIDE_IN_TIME):
                return await self.read(method, request)
        except TimeoutError:
            return self._mark(DeadlineExceeded())
        except SidecarError as error:
            return self._mark(error)

    async def reply(self, kind: type[Message], parts: Mapping[str, Part | None], *, subject: str = "") -> bytes:
        """Returns the reply, given its parts by name, without those that are None.

        Raises NotFound if that is what the part `subject` failed with, which the page is about, InvalidRequest if any part did,
        and what the first one failed with if all did.
        """
        wanted = {name: part for name, part in parts.items() if part is not None}
        if not wanted:
            return b""
        if subject:
            await self._wait([wanted[subject]])
            if isinstance(error := _error_of(wanted[subject]), NotFound):
                raise error
        await self._wait(wanted.values())
        errors = {name: _error_of(part) for name, part in wanted.items()}
        failed = [error for error in errors.values() if error is not None]
        for error in failed:
            if isinstance(error, InvalidRequest) or len(failed) == len(wanted):
                raise error
        encoded, room = [], self._bound.room
        for name, part in wanted.items():
            error = errors[name]
            data = part.result() if error is None else self._mark(error)
            if data is None:
                continue
            if len(data) > room:
                data = self._mark(ReplyTooLarge(self._bound.max_bytes - room + len(data), self._bound.max_bytes))
            room -= len(data)
            encoded.append(field(kind.DESCRIPTOR.fields_by_name[name].number, data))
        return b"".join(encoded)

    async def _wait(self, parts: Collection[Part]) -> None:
        left = None if self._until is None else self._until - PAGE_IN_TIME - asyncio.get_running_loop().time()
        await asyncio.wait(parts, timeout=None if left is None else max(0.0, left))

    def _mark(self, error: Exception) -> bytes:
        """Returns a part that has nothing but an error."""
        status = self._describe(error)
        made, info, retry = PartError(code=status.code, message=status.message), ErrorInfo(), RetryInfo()
        for detail in status.details:
            if detail.Unpack(info):
                made.reason = info.reason
                made.metadata.update(info.metadata)
            elif detail.Unpack(retry):
                made.retry_delay.CopyFrom(retry.retry_delay)
        return field(_ERROR, made.SerializeToString())


def _error_of(part: Part) -> Exception | None:
    """Returns what a part failed with: DeadlineExceeded if it has not ended in time."""
    if not part.done() or part.cancelled():
        return DeadlineExceeded()
    error = part.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return error
