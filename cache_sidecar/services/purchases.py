"""Purchases of users whose reservations are committed, as user events, if the policy says so.

The event_id is made of the reservation's id and its end, so a commit that is repeated, here or by another sidecar, counts once.
The commit comes first, and does not fail with the event: a sidecar that dies in between loses it, unless the call is repeated.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256

from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import EventBacklogFull, TierFailed
from cache_sidecar.core.log_limit import LogLimit
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.services.shared.ids import make_id
from cache_sidecar.v1.inventory_pb2 import Reservation

RecordEvents = Callable[[Sequence[bytes]], Awaitable[None]]
"""Writes user events, JSON objects, durably. Raises TierFailed and EventBacklogFull."""


class Purchases:
    """Records purchases."""

    def __init__(self, record_events: RecordEvents, *, is_on: Callable[[], bool], patience: float) -> None:
        """`is_on` returns whether the policy says so; `patience` is how long a call waits for its event, in seconds."""
        self._record_events = record_events
        self._is_on = is_on
        self._patience = patience
        self._tasks = BackgroundTasks()
        self._failures = LogLimit(every=60.0)

    @property
    def are_recorded(self) -> bool:
        """Whether the policy says so."""
        return self._is_on()

    async def record(self, reservation: Reservation) -> None:
        """Records the purchase of a committed reservation, if it has a user; returns when it is recorded, or patience ends."""
        if reservation.user_id:
            await asyncio.wait([self._tasks.spawn(self._record(_line(reservation)))], timeout=self._patience)

    async def close(self) -> None:
        """Waits for what is still being recorded."""
        await self._tasks.join()

    async def _record(self, line: bytes) -> None:
        try:
            await self._record_events([line])
        except (TierFailed, EventBacklogFull) as error:
            if self._failures.should_log():
                telemetry.log.warning("purchases are not recorded", count=self._failures.count, reason=str(error))


def _line(reservation: Reservation) -> bytes:
    """Returns the event as a JSON object with the columns of its table."""
    random = int.from_bytes(sha256(reservation.reservation_id.lower().encode()).digest(), "big")
    event = {
        "event_id": str(make_id(reservation.end_time.ToMilliseconds(), random=random)),
        "event_type": "purchase-complete",
        "user_id": reservation.user_id,
        "products": [{"product_id": item.product_id, "quantity": item.quantity} for item in reservation.items],
    }
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
