"""Knows which requests were granted, so that a repeat of one is not refused when everything is sold out."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from cache_sidecar.core.clock import Clock
from cache_sidecar.store import requests
from cache_sidecar.tiers.path.batch import Batch

# Rows in one query, queries at once, rows that may wait for one, and requests remembered altogether.
MAX_ROWS = 500
MAX_RUNNING = 2
MAX_WAITING = 10_000
MAX_REQUESTS = 200_000


class Grant(Protocol):
    """Pieces that a request took from a row of the inventory."""

    @property
    def id(self) -> str:
        """The row's."""
        ...

    @property
    def grant_version(self) -> int:
        """Grows with every grant of the row."""
        ...

    @property
    def request_id(self) -> UUID:
        """The request that took them."""
        ...


Load = Callable[[Mapping[str, int], datetime], Awaitable[Sequence[Grant]]]
"""Reads the grants of rows after a grant_version of each, since a time; more than `max_grants` if there are too many."""


class _Known(NamedTuple):
    upto: int
    "The grant_version up to which all grants are known."
    requests: set[UUID]


class GrantedRequests:
    """The requests that were granted pieces of rows of the inventory, as far as they were read.

    A row has the number of its last grant. When the grants up to that number are known, they are read again only after further
    ones: never, while nothing is left to be granted. The id that stands for all rows that a product has or had works in the
    same way, by the epoch of the product's rows: everything granted before it has a smaller number.
    """

    def __init__(self, load: Load, *, max_grants: int, clock: Clock, max_requests: int = MAX_REQUESTS) -> None:
        if max_grants < 1 or max_requests < 1:
            raise ValueError("max_grants and max_requests must be at least 1")
        self._load = load
        self._max_grants = max_grants
        self._clock = clock
        self._max_requests = max_requests
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._remembered = 0
        self._batch: Batch[bool] = Batch(self._read, max_ids=MAX_ROWS, max_running=MAX_RUNNING, max_waiting=MAX_WAITING)

    async def may_contain(self, rows: Iterable[tuple[str, int]], request_id: UUID) -> bool:
        """Whether a request may have been granted pieces of rows, given by id and number of the last grant.

        False is certain. Raises TierFailed when PostgreSQL is needed and does not answer, and Overloaded.
        """
        last = dict(rows)
        unknown = [id for id, grant_version in last.items() if grant_version and not self._knows(id, grant_version)]
        if unknown:
            # No read in flight is joined: begin read -> grant commits -> row is read here -> read returns without the grant.
            is_complete = await self._batch.get(unknown, fresh=True)
            if not all(is_complete.values()):
                return True
            for id in unknown:
                self._mark_read(id, last[id])
        # What was dropped meanwhile, for lack of room, may include it.
        return any(id not in self._known or request_id in self._known[id].requests for id in last if last[id])

    def _knows(self, id: str, grant_version: int) -> bool:
        known = self._known.get(id)
        return known is not None and known.upto >= grant_version

    def _mark_read(self, id: str, grant_version: int) -> None:
        """Notes that all grants up to a number are known, even if none has that number: it may be too old to be read."""
        known = self._known.get(id)
        if known is not None and known.upto < grant_version:
            self._known[id] = known._replace(upto=grant_version)

    async def _read(self, ids: Sequence[str]) -> dict[str, bool]:
        """Reads further grants of rows; returns by row whether all are known."""
        since = datetime.fromtimestamp(self._clock.now() - requests.KEPT, UTC)
        found = await self._load({id: self._known[id].upto if id in self._known else 0 for id in ids}, since)
        if len(found) > self._max_grants:
            return dict.fromkeys(ids, False)
        for id in ids:
            self._known.setdefault(id, _Known(0, set()))
            self._known.move_to_end(id)
        for grant in found:
            known = self._known[grant.id]
            self._remembered += grant.request_id not in known.requests
            known.requests.add(grant.request_id)
            self._known[grant.id] = known._replace(upto=max(known.upto, grant.grant_version))
        self._drop_oldest(keep=len(ids))
        return dict.fromkeys(ids, True)

    def _drop_oldest(self, *, keep: int) -> None:
        """Drops the rows that were asked for longest ago, while there are too many; `keep` is how many were just read."""
        while max(self._remembered, len(self._known)) > self._max_requests and len(self._known) > keep:
            _, known = self._known.popitem(last=False)
            self._remembered -= len(known.requests)

    async def close(self) -> None:
        """Waits for the reads in progress."""
        await self._batch.close()
