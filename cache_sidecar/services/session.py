"""SessionService: what the shop remembers of one browser or app.

No session_id is stored or logged, not even in the ledger of requests: sessions are identified by the SHA-256 of it.
"""

import contextlib
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import Any

import grpc

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import DataLoss, NotFound, RevocationPending, TierFailed
from cache_sidecar.services import session_fields
from cache_sidecar.services.shared import pages, rows, wire
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.services.shared.etags import check_etag, etag_of
from cache_sidecar.services.shared.freshness import deadline, describe, metadata
from cache_sidecar.services.shared.timestamps import datetime_of, timestamp
from cache_sidecar.services.shared.validation import validate
from cache_sidecar.services.shared.wire import field
from cache_sidecar.services.shared.writes import Mutation, Writer, key_of
from cache_sidecar.services.touches import Touches
from cache_sidecar.store import requests
from cache_sidecar.store.requests import FirstReply
from cache_sidecar.store.session import SessionRow, SessionStore, not_found
from cache_sidecar.store.values import micros, micros_from
from cache_sidecar.store.writes import RowChange, Transaction, WriteResult
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import ANY, Answer, Expiry, Freshness, Load, Record, Row, Source, UnreadableRow
from cache_sidecar.v1 import session_service_pb2 as pb
from cache_sidecar.v1.session_pb2 import Session, SessionClient
from cache_sidecar.v1.session_service_pb2_grpc import SessionServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]
DATASET = "session"
# Bytes of randomness in a session_id.
ID_BYTES = 32
# Ended sessions in one message to Redis.
ENDED_PER_MESSAGE = 500
# Seconds after which a session ends that has no max_lifetime.
_NEVER = 100 * 365 * 86400.0


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
        now, session_id = self._clock.now(), _new_id()
        new = SessionRow(
            session_hash=hash_of(session_id),
            user_id=request.user_id,
            attributes=dict(request.attributes),
            ip_address=request.client.ip_address,
            user_agent=request.client.user_agent,
            create_time=datetime_of(now),
            update_time=datetime_of(now),
            use_time=datetime_of(now),
            end_time=datetime_of(now + (self._sessions.policy().max_lifetime or _NEVER)),
        )

        async def create(tx: Transaction) -> WriteResult[SessionRow]:
            return _issue(await self._store.create(tx, new))

        issued = await self._writer.run(request, create, self._publish)
        if issued.is_repeat:
            session_id, issued = await self._issue_again(request)
        return pb.CreateSessionResponse(session_id=session_id, session=self._message(_row_of(issued)))

    async def GetSession(  # type: ignore[override]  # replies are serialized here
        self, request: pb.GetSessionRequest, context: Context
    ) -> bytes:
        """Returns the cached session with its expiry appended to its fields, and the metadata of the reply."""
        answer, until = await self._use(hash_of(request.session_id), Freshness(until=deadline(context)))
        expiry = field(Session.EXPIRE_TIME_FIELD_NUMBER, timestamp(datetime_of(until)).SerializeToString())
        reply = pb.GetSessionResponse()
        describe(answer, reply.cache)
        session = field(pb.GetSessionResponse.SESSION_FIELD_NUMBER, answer.value or b"", expiry)
        return session + reply.SerializeToString()

    async def TouchSession(self, request: pb.TouchSessionRequest, context: Context) -> pb.TouchSessionResponse:
        """A read, without its content."""
        answer, until = await self._use(hash_of(request.session_id), Freshness(until=deadline(context)))
        return pb.TouchSessionResponse(expire_time=timestamp(datetime_of(until)), cache=metadata(answer))

    async def UpdateSession(  # type: ignore[override]  # replies are serialized here
        self, request: pb.UpdateSessionRequest, context: Context
    ) -> bytes:
        """Changes the row as it is when it is locked, so that no concurrent change is lost."""
        given, paths = request.session, session_fields.paths(request)
        validate(pb.GetSessionRequest(session_id=given.session_id), path="session.")
        session_hash = hash_of(given.session_id)
        is_over = await self._is_over(session_hash)
        joins = given.user_id if {"user_id", session_fields.ALL} & set(paths) else ""
        if joins:
            # Before it is locked: PostgreSQL refuses a NUL in any text, which would look like a failure of its own.
            validate(pb.ListUserSessionsRequest(user_id=joins), path="session.")

        async def update(tx: Transaction) -> WriteResult[SessionRow]:
            if joins:
                await self._store.lock_user(tx, joins)
            current = await self._store.lock(tx, session_hash)
            check_etag("session", not_found(session_hash).id, given=given.etag, current=etag_of(current.version))
            used = self._use_row(current, is_over=is_over)
            row = await self._store.save(tx, session_fields.update(used, given, paths))
            reply = pb.UpdateSessionResponse(session=self._message(row)).SerializeToString()
            return WriteResult(reply, [RowChange(session_hash, row.version)], value=row)

        return (await self._writer.run(request, update, self._publish)).reply

    async def RotateSession(self, request: pb.RotateSessionRequest, context: Context) -> pb.RotateSessionResponse:
        """Ends the row, and inserts another one of the same content."""
        session_hash, session_id = hash_of(request.session_id), _new_id()
        is_over = await self._is_over(session_hash)
        rotate = partial(self._rotate, session_hash=session_hash, new_hash=hash_of(session_id), is_over=is_over)
        issued = await self._writer.run(request, rotate, self._publish)
        if issued.is_repeat:
            session_id, issued = await self._issue_again(request)
        return pb.RotateSessionResponse(
            session_id=session_id, session=self._message(_row_of(issued)), revocation_pending=not issued.is_published
        )

    async def _rotate(
        self, tx: Transaction, *, session_hash: str, new_hash: str, is_over: bool = False
    ) -> WriteResult[SessionRow]:
        current = await self._store.lock_with_user(tx, session_hash)
        used = self._use_row(current, is_over=is_over)
        ended = await self._store.end(tx, session_hash, used.update_time)
        return _issue(await self._store.create(tx, used._replace(session_hash=new_hash)), {session_hash: ended})

    async def _issue_again(self, request: Mutation) -> tuple[str, WriteResult[SessionRow]]:
        """Gives the session that a repeated request created another id, and returns that id.

        The ledger has only the hash of the first id, so that one cannot be returned again. It is ended, and the ledger gets the
        new hash; the ledger's row is locked meanwhile, against another repeat that would rotate the same session.
        """
        session_id, key = _new_id(), key_of(request)
        assert key is not None, "without a request_id nothing is a repeat"

        async def rotate_again(tx: Transaction) -> WriteResult[SessionRow]:
            present = (await requests.lock_reply(tx, key)).decode()
            issued = await self._rotate(tx, session_hash=present, new_hash=hash_of(session_id))
            await requests.replace(tx, key, FirstReply(issued.reply, issued.versions))
            return issued

        # Without the request: it is in the ledger already.
        return session_id, await self._writer.run(None, rotate_again, self._publish)

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Context) -> pb.DeleteSessionResponse:
        """Ends the row; the relay deletes it later."""
        session_hash = hash_of(request.session_id)

        async def end(tx: Transaction) -> WriteResult[SessionRow]:
            version = await self._store.end(tx, session_hash, datetime_of(self._clock.now()))
            return WriteResult(b"", [RowChange(session_hash, version)])

        ended = await self._writer.run(request, end, self._publish)
        return pb.DeleteSessionResponse(revocation_pending=not ended.is_published)

    async def ListUserSessions(self, request: pb.ListUserSessionsRequest, context: Context) -> pb.ListUserSessionsResponse:
        """Reads one session more than the page has, to know whether there is another page."""
        size = pages.size(request.page_size)
        after = pages.place(request.page_token, request.user_id, micros_from, str)
        now, unused = datetime_of(self._clock.now()), _max_unused(self._sessions.policy())
        found = await self._store.page(
            request.user_id, now=now, unused=unused, after=after, limit=size + 1, max_bytes=self._bound.room
        )
        page = self._bound.page(found, size, rows.skip_unreadable(self._message, self._sessions))
        newest = max((row.version for row in page.rows), default=0)
        return pb.ListUserSessionsResponse(
            sessions=page.messages,
            next_page_token="" if page.is_last else pages.token(_place_after(page.rows[-1]), request.user_id),
            cache=metadata(Answer(None, Source.STORE, newest, 0.0, stale=False)),
        )

    async def DeleteUserSessions(  # type: ignore[override]  # replies are serialized here
        self, request: pb.DeleteUserSessionsRequest, context: Context
    ) -> bytes:
        """Ends the rows, then publishes every ended session of the user, also those that an earlier attempt ended."""

        async def end(tx: Transaction) -> WriteResult[None]:
            deleted = await self._store.end_all(tx, request.user_id, datetime_of(self._clock.now()))
            return WriteResult(pb.DeleteUserSessionsResponse(deleted=deleted).SerializeToString())

        return (await self._writer.run(request, end, partial(self._publish_ended, request.user_id))).reply

    async def _publish_ended(self, user_id: str, _: WriteResult[None]) -> bool:
        """Publishes a user's ended sessions. Raises RevocationPending when Redis does not have all of them."""
        ended = iter((await self._store.list_ended(user_id)).items())
        is_published = True
        while some := dict(islice(ended, ENDED_PER_MESSAGE)):
            is_published = await self._sessions.publish(self._tombstones(some)) and is_published
        if not is_published:
            raise RevocationPending
        return True

    # What the methods share

    def _message(self, row: SessionRow) -> Session:
        made = make_message(row)
        made.expire_time.CopyFrom(timestamp(datetime_of(_expiry(row).until(self._sessions.policy().l2_ttl))))
        return made

    async def _use(self, session_hash: str, wanted: Freshness = ANY) -> tuple[Answer, float]:
        """Reads a session, which extends its expiry; returns it and its new expiry. Raises NotFound."""
        try:
            answer = await self._sessions.get(session_hash, wanted)
        except DataLoss:
            raise DataLoss("session", not_found(session_hash).id) from None
        if answer.value is None or answer.expiry is None:
            raise not_found(session_hash)
        self._touches.add(session_hash, answer.expiry)
        return answer, answer.expiry.until(self._sessions.policy().l2_ttl)

    async def _is_over(self, session_hash: str) -> bool:
        """Whether a session expired or ended; PostgreSQL alone does not know of uses that only Redis has counted.

        Asked before the transaction, as a read extends the expiry, and applied within it, by `_use_row`: when the request turns
        out to be a repeat, it gets the first reply even though the session is over by now.
        """
        try:
            await self._use(session_hash)
        except NotFound:
            return True
        return False

    def _use_row(self, row: SessionRow, *, is_over: bool) -> SessionRow:
        """Returns a row that is changed, and so used, now. Raises NotFound when the session is over."""
        now = datetime_of(self._clock.now())
        if is_over or row.is_over(now, _max_unused(self._sessions.policy())):
            raise not_found(row.session_hash)
        return row._replace(update_time=now, use_time=now)

    async def _publish(self, result: WriteResult[SessionRow]) -> bool:
        """Publishes the session that a write left, and the end of every other one; of a repeat, that both are out of date."""
        if result.is_repeat:
            return await self._sessions.publish(result.versions)
        published: dict[str, Record | int] = self._tombstones(result.versions)
        if (row := result.value) is not None:
            published[row.session_hash] = Record(row.version, self._clock.now(), make_entry(row), _expiry(row))
        return await self._sessions.publish(published)

    def _tombstones(self, versions: Mapping[str, int]) -> dict[str, Record | int]:
        now = self._clock.now()
        return {session_hash: Record(version, now, None) for session_hash, version in versions.items()}


def _new_id() -> str:
    return secrets.token_urlsafe(ID_BYTES)


def _issue(row: SessionRow, ended: Mapping[str, int] | None = None) -> WriteResult[SessionRow]:
    """Returns the result of a write that gave a session a new id; the ledger has the hash in place of the reply."""
    also = [RowChange(session_hash, version) for session_hash, version in (ended or {}).items()]
    changes = [RowChange(row.session_hash, row.version, make_entry(row)), *also]
    return WriteResult(row.session_hash.encode(), changes, value=row)


def _row_of(issued: WriteResult[SessionRow]) -> SessionRow:
    assert issued.value is not None, "a repeat was issued again"
    return issued.value


def hash_of(session_id: str) -> str:
    """Returns what identifies a session in PostgreSQL, Redis and logs."""
    return sha256(session_id.encode()).hexdigest()


def loader(store: SessionStore, *, policy: Callable[[], DatasetPolicy], clock: Clock) -> Load:
    """Returns the function that loads sessions for the dataset: each load is a use, which extends their expiry."""

    async def load(hashes: Sequence[str]) -> dict[str, Row | UnreadableRow]:
        found, now = await store.load(hashes), clock.now()
        read = {row.session_hash: rows.read(row, lambda row: _to_row(row, now, policy())) for row in found}
        return {session_hash: row for session_hash, row in read.items() if row is not None}

    return load


def _to_row(row: SessionRow, now: float, policy: DatasetPolicy) -> Row | None:
    if row.delete_time is not None:
        return Row(row.version, None)
    if row.is_over(datetime_of(now), _max_unused(policy)):
        return None
    expiry = _expiry(row)
    # An import may have set a later use_time.
    return Row(row.version, make_entry(row), expiry._replace(used=max(now, expiry.used)))


def use_writer(store: SessionStore, sessions: Dataset) -> Callable[[Mapping[str, float], float], Awaitable[None]]:
    """Returns the function that writes uses to PostgreSQL; it publishes the end of sessions that Redis still has as in use."""

    async def write_uses(uses: Mapping[str, float], overdue: float) -> None:
        used_at = {session_hash: datetime_of(used) for session_hash, used in uses.items()}
        ended = await store.touch(used_at, overdue=datetime_of(overdue))
        known = {session_hash: version for session_hash, version in ended.items() if version}
        await sessions.publish({session_hash: sessions.record(version, None) for session_hash, version in known.items()})
        if gone := [session_hash for session_hash in ended if session_hash not in known]:
            with contextlib.suppress(TierFailed):  # the next use finds out again
                await sessions.drop(gone)

    return write_uses


def make_entry(row: SessionRow) -> bytes:
    """Returns what caches keep of a session: the message, without what only uses change."""
    return make_message(row).SerializeToString()


def is_entry(_id: str, value: bytes) -> bool:
    """Whether bytes are what caches keep of a session; it does not say of which, that takes a MAC."""
    entry = wire.parse(Session, value)
    return entry is not None and not entry.HasField("expire_time")


def make_message(row: SessionRow) -> Session:
    """Returns a row as callers see it, without what only uses change."""
    return Session(
        user_id=row.user_id,
        attributes=row.attributes,
        client=SessionClient(ip_address=row.ip_address, user_agent=row.user_agent)
        if row.ip_address or row.user_agent
        else None,
        create_time=timestamp(row.create_time),
        update_time=timestamp(row.update_time),
        end_time=timestamp(row.end_time),
        etag=etag_of(row.version),
    )


def _expiry(row: SessionRow) -> Expiry:
    used = row.use_time.timestamp()
    return Expiry(used, row.end_time.timestamp(), used)


def _max_unused(policy: DatasetPolicy) -> timedelta:
    """Returns after how long without a use in PostgreSQL a session is certainly over: uses are written up to a window late."""
    return timedelta(seconds=policy.l2_ttl + policy.touch_window)


def _place_after(last: SessionRow) -> str:
    return f"{micros(last.create_time).value} {last.session_hash}"
