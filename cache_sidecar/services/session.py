"""SessionService: what the shop remembers of one browser or app.

Nothing keeps or logs a session_id, the ledger of requests included: everything goes by its SHA-256.
"""

import contextlib
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import DataLoss, EtagMismatch, InvalidRequest, NotFound, RevocationPending, TierFailed
from cache_sidecar.services import session_fields
from cache_sidecar.services.shared import pages, rows
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.services.shared.freshness import deadline, describe, metadata
from cache_sidecar.services.shared.validation import validate
from cache_sidecar.services.shared.wire import field
from cache_sidecar.services.shared.writes import Mutation, Writer, key_of
from cache_sidecar.services.touches import Touches
from cache_sidecar.store import requests
from cache_sidecar.store.pool import Connection, RowChange, WriteResult
from cache_sidecar.store.requests import FirstReply
from cache_sidecar.store.session import SessionRow, SessionStore, not_found
from cache_sidecar.store.values import Micros, micros, micros_from
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import ANY, Answer, Expiry, Freshness, Load, Record, Row, Source, UnreadableRow
from cache_sidecar.v1 import session_service_pb2 as pb
from cache_sidecar.v1.session_pb2 import Session, SessionClient
from cache_sidecar.v1.session_service_pb2_grpc import SessionServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]
DATASET = "session"
# Bytes of randomness in a session_id.
ID_BYTES = 32
# Ends of sessions in one message to Redis.
TOLD = 500
# Seconds after which a session ends that has no max_lifetime.
_NEVER = 100 * 365 * 86400.0

Make = Callable[[Connection, str], Awaitable[tuple[SessionRow, Mapping[str, int]]]]
"""Makes a session that goes by a hash; returns it, and the hashes that ended with it, with the versions of that."""


class _Issued(NamedTuple):
    """A session under an id that nobody was told yet."""

    session_id: str
    row: SessionRow
    is_pending: bool
    "Whether Redis could not be told what ended with it."


class SessionService(SessionServiceServicer):
    """Reads sessions through Redis, and writes them through to PostgreSQL."""

    def __init__(
        self,
        sessions: Dataset,
        *,
        store: SessionStore,
        writer: Writer,
        touches: Touches,
        clock: Clock,
        bound: Bound,
    ) -> None:
        self._sessions = sessions
        self._bound = bound
        self._store = store
        self._writer = writer
        self._touches = touches
        self._clock = clock

    async def CreateSession(self, request: pb.CreateSessionRequest, context: Context) -> pb.CreateSessionResponse:
        """Inserts a session."""
        now, policy = self._clock.now(), self._sessions.policy()
        end = now + (policy.max_lifetime or _NEVER)
        new = SessionRow(
            session_hash="",
            user_id=request.user_id,
            attributes=dict(request.attributes),
            ip_address=request.client.ip_address,
            user_agent=request.client.user_agent,
            create_time=_moment(now),
            update_time=_moment(now),
            use_time=_moment(now),
            end_time=_moment(end),
        )

        async def create(connection: Connection, session_hash: str) -> tuple[SessionRow, Mapping[str, int]]:
            return await self._store.create(connection, new._replace(session_hash=session_hash)), {}

        issued = await self._issue(request, create)
        return pb.CreateSessionResponse(session_id=issued.session_id, session=self._message(issued.row))

    async def GetSession(  # type: ignore[override]  # replies are serialized here
        self, request: pb.GetSessionRequest, context: Context
    ) -> bytes:
        """Returns the cached session with its expiry put behind its other fields, and the metadata of the reply."""
        answer, until = await self._use(hash_of(request.session_id), Freshness(until=deadline(context)))
        expiry = field(Session.EXPIRE_TIME_FIELD_NUMBER, _timestamp(_moment(until)).SerializeToString())
        reply = pb.GetSessionResponse()
        describe(answer, reply.cache)
        session = field(pb.GetSessionResponse.SESSION_FIELD_NUMBER, answer.value or b"", expiry)
        return session + reply.SerializeToString()

    async def TouchSession(self, request: pb.TouchSessionRequest, context: Context) -> pb.TouchSessionResponse:
        """Is a read whose content nobody wants."""
        answer, until = await self._use(hash_of(request.session_id), Freshness(until=deadline(context)))
        return pb.TouchSessionResponse(expire_time=_timestamp(_moment(until)), cache=metadata(answer))

    async def UpdateSession(  # type: ignore[override]  # replies are serialized here
        self, request: pb.UpdateSessionRequest, context: Context
    ) -> bytes:
        """Changes the row as it is when it is locked."""
        given, paths = request.session, session_fields.paths(request)
        validate(pb.GetSessionRequest(session_id=given.session_id), path="session.")
        session_hash = hash_of(given.session_id)
        is_over = await self._is_over(session_hash)
        row: SessionRow

        def change(current: SessionRow) -> SessionRow:
            if given.etag and given.etag != _etag(current):
                raise EtagMismatch("session", not_found(session_hash).id, _etag(current))
            return session_fields.changed(self._going_on(current, is_over), given, paths)

        async def update(connection: Connection) -> WriteResult:
            nonlocal row
            joins = given.user_id if {"user_id", session_fields.ALL} & set(paths) else ""
            row = await self._store.update(connection, session_hash, change, joins=joins)
            return WriteResult(
                pb.UpdateSessionResponse(session=self._message(row)).SerializeToString(), session_hash, row.version
            )

        async def tell(written: WriteResult) -> None:
            await self._tell([] if written.repeated else [row], written)

        return (await self._writer.run(request, update, tell)).reply

    async def RotateSession(self, request: pb.RotateSessionRequest, context: Context) -> pb.RotateSessionResponse:
        """Ends the row, and goes on with another one of the same content."""
        session_hash = hash_of(request.session_id)
        is_over = await self._is_over(session_hash)

        async def rotate(connection: Connection, new_hash: str) -> tuple[SessionRow, Mapping[str, int]]:
            row, ended = await self._store.rotate(
                connection, session_hash, new_hash, lambda current: self._going_on(current, is_over)
            )
            return row, {session_hash: ended}

        issued = await self._issue(request, rotate)
        return pb.RotateSessionResponse(
            session_id=issued.session_id, session=self._message(issued.row), revocation_pending=issued.is_pending
        )

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Context) -> pb.DeleteSessionResponse:
        """Ends the row; the relay deletes it later."""
        session_hash, is_told = hash_of(request.session_id), True

        async def end(connection: Connection) -> WriteResult:
            version = await self._store.end(connection, session_hash, _moment(self._clock.now()))
            return WriteResult(b"", session_hash, version)

        async def tell(written: WriteResult) -> None:
            nonlocal is_told
            is_told = await self._tell([], written)

        await self._writer.run(request, end, tell)
        return pb.DeleteSessionResponse(revocation_pending=not is_told)

    async def ListUserSessions(self, request: pb.ListUserSessionsRequest, context: Context) -> pb.ListUserSessionsResponse:
        """Asks for one session more than is wanted, to know whether there is another page."""
        size = pages.size(request.page_size)
        after = _place(pages.after(request.page_token, request.user_id))
        now, unused = _moment(self._clock.now()), _unused(self._sessions.policy())
        found = await self._store.page(
            request.user_id, now=now, unused=unused, after=after, limit=size + 1, max_bytes=self._bound.room
        )
        page = self._bound.page(found, size, rows.readable(self._message, self._sessions))
        newest = max((row.version for row in page.rows), default=0)
        return pb.ListUserSessionsResponse(
            sessions=page.messages,
            next_page_token="" if page.is_last else pages.token(_place_of(page.rows[-1]), request.user_id),
            cache=metadata(Answer(None, Source.STORE, newest, 0.0, stale=False)),
        )

    async def DeleteUserSessions(  # type: ignore[override]  # replies are serialized here
        self, request: pb.DeleteUserSessionsRequest, context: Context
    ) -> bytes:
        """Ends the rows, then tells Redis of every row of the user that is ended: also those of an earlier attempt."""

        async def end(connection: Connection) -> WriteResult:
            deleted = await self._store.end_all(connection, request.user_id, _moment(self._clock.now()))
            return WriteResult(pb.DeleteUserSessionsResponse(deleted=deleted).SerializeToString(), "", 0)

        async def tell(_: WriteResult) -> None:
            ended = iter((await self._store.ended(request.user_id)).items())
            is_told = True
            while some := dict(islice(ended, TOLD)):
                is_told = await self._sessions.told(self._ends(some)) and is_told
            if not is_told:
                raise RevocationPending

        return (await self._writer.run(request, end, tell)).reply

    # What the methods share

    def _message(self, row: SessionRow) -> Session:
        made = message(row)
        made.expire_time.CopyFrom(_timestamp(_moment(_expiry(row).until(self._sessions.policy().l2_ttl))))
        return made

    async def _use(self, session_hash: str, wanted: Freshness = ANY) -> tuple[Answer, float]:
        """Reads a session, which puts off its expiry; returns when that is from now on. Raises NotFound."""
        try:
            answer = await self._sessions.get(session_hash, wanted)
        except DataLoss:
            raise DataLoss("session", not_found(session_hash).id) from None
        if answer.value is None or answer.expiry is None:
            raise not_found(session_hash)
        self._touches.add(session_hash, answer.expiry)
        return answer, answer.expiry.until(self._sessions.policy().l2_ttl)

    async def _is_over(self, session_hash: str) -> bool:
        """Whether a session expired, which PostgreSQL alone may not know; it is used by that if not.

        To be asked before a transaction, and told within: there, it may turn out that the request is a repeat.
        """
        try:
            await self._use(session_hash)
        except NotFound:
            return True
        return False

    def _going_on(self, row: SessionRow, is_over: bool = False) -> SessionRow:
        """Returns a row that is changed now, which puts off its expiry. Raises NotFound when it is over."""
        now, policy = self._clock.now(), self._sessions.policy()
        if is_over or row.is_over(_moment(now), _unused(policy)):
            raise not_found(row.session_hash)
        return row._replace(update_time=_moment(now), use_time=_moment(now))

    async def _issue(self, request: Mutation, make: Make) -> _Issued:
        """Gives a session an id. The ledger keeps its hash, and a repeat gives the session of that hash another one."""
        issued, key = await self._issue_once(request, make), key_of(request)
        if issued is not None:
            return issued
        assert key is not None, "without a request_id nothing is a repeat"

        async def again(connection: Connection, new_hash: str) -> tuple[SessionRow, Mapping[str, int]]:
            current = (await requests.locked_reply(connection, key)).decode()
            row, ended = await self._store.rotate(connection, current, new_hash, self._going_on)
            first = FirstReply(new_hash.encode(), {new_hash: row.version, current: ended})
            await requests.replace(connection, key, first)
            return row, {current: ended}

        issued = await self._issue_once(None, again)
        assert issued is not None, "without a request_id nothing is a repeat"
        return issued

    async def _issue_once(self, request: Mutation | None, make: Make) -> _Issued | None:
        """Returns None when the request is a repeat."""
        session_id, is_told = secrets.token_urlsafe(ID_BYTES), True
        row: SessionRow

        async def work(connection: Connection) -> WriteResult:
            nonlocal row
            row, ended = await make(connection, hash_of(session_id))
            also = [RowChange(session_hash, version) for session_hash, version in ended.items()]
            return WriteResult(row.session_hash.encode(), row.session_hash, row.version, entry(row), also)

        async def tell(written: WriteResult) -> None:
            nonlocal is_told
            is_told = await self._tell([] if written.repeated else [row], written)

        written = await self._writer.run(request, work, tell)
        return None if written.repeated else _Issued(session_id, row, not is_told)

    async def _tell(self, rows: Sequence[SessionRow], written: WriteResult) -> bool:
        """Tells Redis of rows as they are now, and that whatever else was written is over; or, of a repeat, out of date."""
        versions = {change.id: change.version for change in written.changes}
        if written.repeated:
            return await self._sessions.told(versions)
        now = self._clock.now()
        going_on = {row.session_hash: Record(row.version, now, entry(row), _expiry(row)) for row in rows}
        return await self._sessions.told(self._ends(versions) | going_on)

    def _ends(self, versions: Mapping[str, int]) -> dict[str, Record | int]:
        return {session_hash: Record(version, self._clock.now(), None) for session_hash, version in versions.items()}


def hash_of(session_id: str) -> str:
    """Returns what a session is known by wherever it is kept."""
    return sha256(session_id.encode()).hexdigest()


def loader(store: SessionStore, *, policy: Callable[[], DatasetPolicy], clock: Clock) -> Load:
    """Returns what the dataset loads sessions with: each load is a use, which puts off their expiry."""

    async def load(hashes: Sequence[str]) -> dict[str, Row | UnreadableRow]:
        found, now = await store.load(hashes), clock.now()
        read = {row.session_hash: rows.read(row, lambda row: _found(row, now, policy())) for row in found}
        return {session_hash: row for session_hash, row in read.items() if row is not None}

    return load


def _found(row: SessionRow, now: float, policy: DatasetPolicy) -> Row | None:
    if row.delete_time is not None:
        return Row(row.version, None)
    if row.is_over(_moment(now), _unused(policy)):
        return None
    expiry = _expiry(row)
    # An import may have promised more than a use does.
    return Row(row.version, entry(row), expiry._replace(used=max(now, expiry.used)))


def writes(store: SessionStore, sessions: Dataset) -> Callable[[Mapping[str, float], float], Awaitable[None]]:
    """Returns what tells PostgreSQL of uses; and Redis, if it lost that a session is ended, of that."""

    async def write(uses: Mapping[str, float], overdue: float) -> None:
        moments = {session_hash: _moment(used) for session_hash, used in uses.items()}
        ended = await store.touch(moments, overdue=_moment(overdue))
        known = {session_hash: version for session_hash, version in ended.items() if version}
        await sessions.told({session_hash: sessions.record(version, None) for session_hash, version in known.items()})
        if gone := [session_hash for session_hash in ended if session_hash not in known]:
            with contextlib.suppress(TierFailed):  # the next use finds out again
                await sessions.drop(gone)

    return write


def entry(row: SessionRow) -> bytes:
    """Returns what caches keep of a session: the message, without what use alone changes."""
    return message(row).SerializeToString()


def message(row: SessionRow) -> Session:
    """Returns a row as callers see it, without what use alone changes."""
    return Session(
        user_id=row.user_id,
        attributes=row.attributes,
        client=SessionClient(ip_address=row.ip_address, user_agent=row.user_agent)
        if row.ip_address or row.user_agent
        else None,
        create_time=_timestamp(row.create_time),
        update_time=_timestamp(row.update_time),
        end_time=_timestamp(row.end_time),
        etag=_etag(row),
    )


def _expiry(row: SessionRow) -> Expiry:
    used = row.use_time.timestamp()
    return Expiry(used, row.end_time.timestamp(), used)


def _unused(policy: DatasetPolicy) -> timedelta:
    """Returns how long nothing has to be heard of a use before a session is certainly over."""
    return timedelta(seconds=policy.l2_ttl + policy.touch_window)


def _etag(row: SessionRow) -> str:
    return f"{row.version:x}"


def _moment(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError):
        return datetime.max.replace(tzinfo=UTC)


def _timestamp(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def _place_of(last: SessionRow) -> str:
    return f"{micros(last.create_time).value} {last.session_hash}"


def _place(token: str) -> tuple[Micros, str] | None:
    if not token:
        return None
    try:
        create_time, session_hash = token.split(" ", 1)
        return micros_from(create_time), session_hash
    except ValueError:
        raise InvalidRequest({"page_token": "must be the next_page_token of a page of the same listing"}) from None
