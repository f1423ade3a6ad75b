"""What users do."""

import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence

from cache_sidecar_client import _methods
from cache_sidecar_client._async.caller import Caller, resume_after
from cache_sidecar_client._uuid7 import uuid7
from cache_sidecar_client.errors import SidecarError
from cache_sidecar_client.models import Written, written_of
from cache_sidecar_client.v1 import user_event_pb2, user_event_service_pb2

UNANSWERED = 16
"How many batches of a stream may wait for their replies."


class Events:
    """Records what users do. `cache_sidecar_client.event_message` makes events."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def write(self, events: Sequence[user_event_pb2.UserEvent], *, timeout: float | None = None) -> Written:
        """Writes 1 to 500 events. Those without an ID get one here, so that a retry writes none of them twice."""
        request = user_event_service_pb2.WriteUserEventsRequest(events=events)
        _identify(request.events)
        return written_of(await self._caller.call(_methods.WRITE_USER_EVENTS, request, timeout))

    async def stream(self, batches: Iterable[Sequence[user_event_pb2.UserEvent]]) -> AsyncGenerator[Written, None]:
        """Writes batches of 1 to 500 events, and yields what became of each, in their order.

        After the connection was lost, it sends again what was not answered; of events with the same ID only the first is
        written.
        """
        remaining = iter(batches)
        unanswered: deque[user_event_service_pb2.StreamUserEventsRequest] = deque()
        is_exhausted = False
        repeats = 0
        while not is_exhausted or unanswered:
            stream = self._caller.duplex(_methods.STREAM_USER_EVENTS)
            try:
                for request in unanswered:
                    await stream.send(request)
                while not is_exhausted or unanswered:
                    while not is_exhausted and len(unanswered) < UNANSWERED:
                        batch = next(remaining, None)
                        if batch is None:
                            is_exhausted = True
                            break
                        request = user_event_service_pb2.StreamUserEventsRequest(events=batch)
                        _identify(request.events)
                        unanswered.append(request)
                        await stream.send(request)
                    if unanswered:
                        reply = await stream.receive()
                        unanswered.popleft()
                        repeats = 0
                        yield written_of(reply)
            except SidecarError as error:
                await resume_after(self._caller, error, repeats)
                repeats += 1
            finally:
                await stream.close()

    async def purge(self, user_id: str, *, timeout: float | None = None) -> int:
        """Erases all events of a user; returns how many were erased in PostgreSQL."""
        request = user_event_service_pb2.PurgeUserEventsRequest(user_id=user_id)
        reply = await self._caller.call(_methods.PURGE_USER_EVENTS, request, timeout)
        return int(reply.purged_count)


def _identify(events: Iterable[user_event_pb2.UserEvent]) -> None:
    """Gives events without an ID one that begins with their time."""
    for event in events:
        if not event.event_id:
            at = event.event_time
            milliseconds = (
                at.seconds * 1000 + at.nanos // 1_000_000 if event.HasField("event_time") else time.time_ns() // 1_000_000
            )
            event.event_id = uuid7(milliseconds)
