"""`cache-sidecar user export` and `user erase`: everything that is kept about one user, as the list of datasets says.

Both work on PostgreSQL, which has everything: Redis holds copies, and sidecars keep no user's data in memory. Erased rows reach
the caches as any change does: their triggers write the outbox, and each region's relay invalidates the copies in its Redis.
Events are in Redis first, and a relay that moves them passes the marks that are set here: then all that was there is in
PostgreSQL, or erased. `erase` waits until every relay has done so, and says which have not.
"""

import asyncio
import os
import pwd
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from cache_sidecar.config.settings import Settings
from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import Failure, InputError, ServerUnreachable, SidecarError, Tier, TierFailed
from cache_sidecar.datasets import ALL, DatasetSpec
from cache_sidecar.store import user_data
from cache_sidecar.store.database import Database
from cache_sidecar.store.outbox import Outbox
from cache_sidecar.store.provided import ProvidedStore
from cache_sidecar.store.recommendation import RecommendationStore
from cache_sidecar.store.user_data import Erased, UserRows
from cache_sidecar.store.user_event import MONGODB, UserEventStore
from cache_sidecar.tiers.resilience.guard import Guard

# Seconds that one statement may take: the ledger has no index by user, and is read whole, at a second per million rows. It
# keeps a day of requests. Indexes by scope and ids find the same rows in 15 ms, but a write's row in the ledger takes a quarter
# longer with them (50,000 rows: 2.9 s, 3.7 s), which all callers would pay for a command that runs now and then.
PATIENCE = 600.0
# Seconds to wait until the relays have published an erasure, and between two looks.
PUBLISHED_WITHIN = 10.0
LOOK_EVERY = 0.05
# Characters of a user_id, as in the protos.
MAX_LENGTH = 128
# The name of the rows of events, which are no dataset.
EVENTS = "user_events"
# And those from which recommendations are computed: two datasets share the table, whose rows have no requests.
HISTORY = "recommendation_users"
# Those that the shop imported for the user; they are erased with the history.
LISTS = "provided_recommendations"
# Hexadecimal digits of a SHA-256: the ledger has the session's in place of a reply that shows its id.
_HASH_DIGITS = 64


@dataclass
class Report:
    """What `erase` did."""

    erased: dict[str, Erased] = field(default_factory=dict)
    "By the name of the rows."
    unpublished: list[str] = field(default_factory=list)
    "What keeps the erasure from being complete in Redis."
    kept_for: float = 0.0
    "Seconds for which the outbox keeps the ids."

    def counts(self) -> Mapping[str, int]:
        """Returns how many rows were erased, by their name."""
        requests = sum(erased.requests for erased in self.erased.values())
        return {name: erased.rows for name, erased in self.erased.items()} | {"requests": requests}

    def lines(self) -> Iterator[str]:
        """Yields the lines to print."""
        for name, count in self.counts().items():
            released = self.erased[name].released if name in self.erased else 0
            yield f"{name}: {count:,} erased" + (f", {released:,} of them held and released first" if released else "")
        for name, erased in self.erased.items():
            if erased.remaining:
                yield f"{name}: {erased.remaining:,} remain, as they could not be ended: run the command again"
        yield f"outbox: keeps the ids, without content, until every relay has published them, and for {self.kept_for:g} s"
        if not self.unpublished:
            yield "Redis: every region has dropped its copies"

    @property
    def is_complete(self) -> bool:
        """Whether nothing remains in PostgreSQL."""
        return not any(erased.remaining for erased in self.erased.values())


async def export(
    settings: Settings,
    user_id: str,
    *,
    specs: Sequence[DatasetSpec] = ALL,
    moved_within: float = PUBLISHED_WITHIN,
    write: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Returns everything that is kept about a user, as JSON values; empty lists for a user of whom nothing is kept.

    Waits up to `moved_within` seconds until the relays have moved the events that are in Redis; `incomplete` says which have
    not. `write` writes it where it was asked for: an export that nobody got is not logged as one. Raises what `write` raises,
    InputError for what can be no user_id, and ServerUnreachable.
    """
    _check(user_id)
    found: dict[str, Any] = {"user_id": user_id, "export_time": datetime.now(UTC).isoformat()}
    requests: dict[tuple[str, str], Any] = {}
    changes: list[Any] = []
    with _audit("user data exported", user_id) as counts:
        async with _databases(settings) as databases:
            for spec in specs:
                if (rows := spec.user_rows) is None:
                    continue
                database = databases[settings.database(spec.role)]
                read = await user_data.read(database, rows, user_id)
                found[rows.name] = list(read.values())
                # The roles may share a database, and so a ledger.
                for request in await user_data.read_requests(
                    database, rows, user_id, list(read), others=_methods_of_others(specs, rows)
                ):
                    requests[request[0], request[1]] = _request(*request)
                changes += await user_data.read_changes(database, spec.name, list(read))
            events = UserEventStore(databases[settings.database("analytics")])
            # What MongoDB has is a copy of what is read here.
            behind = await _list_unmoved(events, await events.set_mark(), moved_within, asyncio.sleep, copies=False)
            found[EVENTS] = await events.read(user_id)
            analytics = databases[settings.database("analytics")]
            history = await RecommendationStore(analytics).history(user_id)
            found[HISTORY] = [] if history is None else [history]
            found[LISTS] = await ProvidedStore(analytics).read(user_id)
            for spec in specs:
                if spec.is_private and spec.user_rows is None:
                    changes += await user_data.read_changes(analytics, spec.name, [user_id])
        found |= {"requests": list(requests.values()), "outbox": changes}
        counts.update({name: len(value) for name, value in found.items() if isinstance(value, list)})
        found["incomplete"] = behind
        write(found)
    return found


async def erase(
    settings: Settings,
    user_id: str,
    *,
    specs: Sequence[DatasetSpec] = ALL,
    published_within: float = PUBLISHED_WITHIN,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Report:
    """Erases everything that is kept about a user, and waits until all regions have dropped their copies.

    May be repeated, and after a failure has to be: each dataset is erased in a transaction of its own. A user who is active
    meanwhile starts anew: what is written after a dataset was erased stays.

    Raises InputError for what can be no user_id, and ServerUnreachable.
    """
    _check(user_id)
    report = Report(kept_for=settings.change_retention)
    with _audit("user data erased", user_id) as counts:
        async with _databases(settings) as databases:
            for spec in specs:
                if (rows := spec.user_rows) is not None:
                    report.erased[rows.name] = await user_data.erase(
                        databases[settings.database(spec.role)], rows, user_id, others=_methods_of_others(specs, rows)
                    )
                    counts.update(report.counts())
            events = UserEventStore(databases[settings.database("analytics")])
            recommendations = RecommendationStore(databases[settings.database("analytics")])
            lists = await ProvidedStore(databases[settings.database("analytics")]).read(user_id)
            # Counted before the mark: a relay that passes it erases them, too, and is often the first.
            found = int(bool(lists) or await recommendations.history(user_id) is not None)
            count, mark = await events.erase(user_id)
            report.erased[EVENTS] = Erased(count, released=0, requests=0, remaining=0)
            counts.update(report.counts())
            report.unpublished += await _list_unmoved(events, mark, published_within, sleep)
            # After the events: what is left of them would be folded in again.
            erased = max(found, await recommendations.erase(user_id))
            report.erased[HISTORY] = Erased(erased, released=0, requests=0, remaining=0)
            counts.update(report.counts())
            for dsn, roles in settings.databases().items():
                report.unpublished += await _list_unpublished(databases[dsn], roles, published_within, sleep)
        counts["unpublished"] = len(report.unpublished)
    return report


def _methods_of_others(specs: Sequence[DatasetSpec], rows: UserRows) -> list[str]:
    """Returns the methods about other rows of users. A method that no dataset names is everybody's, and so erased first."""
    others = [spec.user_rows for spec in specs if spec.user_rows is not None and spec.user_rows is not rows]
    return [method for other in others for method in other.methods]


async def _list_unpublished(
    database: Database, roles: Sequence[str], patience: float, sleep: Callable[[float], Awaitable[None]]
) -> list[str]:
    """Waits until all relays of a database have published what was committed by now; returns which have not."""
    outbox, name = Outbox(database), ", ".join(roles)
    end, waited = await outbox.end(), 0.0
    while True:
        regions = await outbox.regions()
        behind = sorted(region for region, position in regions.items() if position < end)
        if (regions or not end) and not behind:
            return []
        if waited >= patience:
            return [f"{name}: no relay has ever run"] if not regions else [f"{name}: region {region!r}" for region in behind]
        await sleep(LOOK_EVERY)
        waited += LOOK_EVERY


async def _list_unmoved(
    events: UserEventStore,
    mark: int,
    patience: float,
    sleep: Callable[[float], Awaitable[None]],
    *,
    copies: bool = True,
) -> list[str]:
    """Waits until the relays of all regions have passed a mark, and with `copies` MongoDB; returns which have not."""
    waited = 0.0
    while True:
        regions = await events.marks_by_region()
        if not copies:
            regions.pop(MONGODB, None)
        behind = sorted(region for region, passed in regions.items() if passed < mark)
        if regions and not behind:
            return []
        if not regions or waited >= patience:
            names = (region if region == MONGODB else f"region {region!r}" for region in behind)
            return [f"user events: {name}" for name in names] or ["user events: no relay has ever run"]
        await sleep(LOOK_EVERY)
        waited += LOOK_EVERY


def _check(user_id: str) -> None:
    """Raises InputError for what can be no user_id; the empty one is that of everybody who is not logged in."""
    if not 1 <= len(user_id) <= MAX_LENGTH or any(ord(character) < 0x20 or ord(character) == 0x7F for character in user_id):
        raise InputError(f"USER_ID must have 1 to {MAX_LENGTH} characters and no control characters")
    try:
        user_id.encode()
    except UnicodeEncodeError:
        raise InputError("USER_ID is not valid UTF-8") from None


@asynccontextmanager
async def _databases(settings: Settings) -> AsyncIterator[dict[str, Database]]:
    """Opens all databases; failures become ServerUnreachable, or SidecarError where PostgreSQL refuses a statement."""
    guard = Guard(Tier.STORE, timeout=PATIENCE, max_running=1, max_waiting=1)
    opened = {
        dsn: Database(dsn, size=1, timeout=settings.postgres_timeout, prepare=settings.postgres_prepare, guard=guard)
        for dsn in settings.databases()
    }
    try:
        for database in opened.values():
            await database.open()
        yield opened
    except TierFailed as error:
        if error.failure is Failure.REFUSED:
            raise SidecarError(str(error)) from None
        raise ServerUnreachable(str(error)) from None
    finally:
        for database in opened.values():
            await database.close()


@contextmanager
def _audit(action: str, user_id: str) -> Iterator[dict[str, int]]:
    """Logs who did what and how it ended, in one line; the user's id is shortened to the start of its hash."""
    counts: dict[str, int] = {}
    facts = {"user": f"sha256:{sha256(user_id.encode()).hexdigest()[:12]}", "by": _os_user()}
    try:
        yield counts
    except BaseException as error:
        # The first line only: PostgreSQL's others may quote the row.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        telemetry.audit.error(f"{action}: failed", **facts, **counts, error=reason)
        raise
    telemetry.audit.info(action, **facts, **counts)


def _os_user() -> str:
    """Returns the user of this process, not what its environment claims."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _request(_scope: str, request_id: str, method: str, ids: Sequence[str], reply: bytes, create_time: str) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "method": method.removesuffix("Request"),
        "ids": ids,
        "reply": _decode(method, bytes(reply)),
        "create_time": create_time,
    }


def _decode(method: str, reply: bytes) -> Any:
    """Returns the reply to a request as JSON; in hexadecimal if this version does not know its message."""
    if len(reply) == _HASH_DIGITS and reply.isalnum():
        return {"session_hash": reply.decode()}
    try:
        name = f"cache_sidecar.v1.{method.removesuffix('Request')}Response"
        kind = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))
        return MessageToDict(kind.FromString(reply), preserving_proto_field_name=True)
    except (KeyError, DecodeError):
        return reply.hex()
