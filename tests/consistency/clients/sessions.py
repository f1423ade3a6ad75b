"""Clients that log in, use their session through any sidecar, and log out."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

import grpc

from cache_sidecar.v1 import session_service_pb2 as pb
from cache_sidecar.v1.session_pb2 import Session
from cache_sidecar.v1.session_service_pb2_grpc import SessionServiceStub
from tests.consistency.load import Load, Outcome
from tests.consistency.rulebook import SESSION_EXPIRY

DATASET = "session"
# Seconds between two uses: of who looks around, on average; and of who comes back just in time, from and to.
PAUSE, SELDOM = 0.3, (0.45 * SESSION_EXPIRY, 0.8 * SESSION_EXPIRY)
# Sessions of a user who comes back seldom: enough that a fault meets some.
DEVICES = 6
# The share of uses that only touch, and that are followed by a change.
TOUCHES, UPDATES = 0.2, 0.3
# Seconds that ended sessions are tried, longer than a failover takes that may bring them back; and between two tries, on average.
TRIED, TRY_EVERY = 6.0, 0.25


class SessionClient:
    """One user after the other."""

    def __init__(self, load: Load, channels: Mapping[int, grpc.aio.Channel], chance: random.Random, *, seldom: bool) -> None:
        """`seldom` says whether they come back as late as they may."""
        self._load = load
        self._rules = load.rules.sessions
        self._chance = chance
        self._seldom = seldom
        stubs: list[Any] = [SessionServiceStub(channels[sidecar]) for sidecar in sorted(channels)]  # type: ignore[no-untyped-call]
        self._uses = [(stub.GetSession, stub.TouchSession) for stub in stubs]
        self._updates = [stub.UpdateSession for stub in stubs]
        self._creates = [stub.CreateSession for stub in stubs]
        self._rotates = [stub.RotateSession for stub in stubs]
        self._deletes = [stub.DeleteSession for stub in stubs]
        self._deletes_all = [stub.DeleteUserSessions for stub in stubs]

    async def run(self) -> None:
        """Lives until it is stopped."""
        while not self._load.is_stopping:
            await self._life(str(uuid4()))

    async def _life(self, user_id: str) -> None:
        chance, load = self._chance, self._load
        created = [await self._create(user_id) for _ in range(DEVICES if self._seldom else chance.randint(1, 3))]
        ids = [id for id in created if id is not None]
        for _ in range(2 if self._seldom else chance.randint(1, 6)):
            if not await load.pause(chance.uniform(*SELDOM) if self._seldom else chance.expovariate(1 / PAUSE)):
                break
            found = await asyncio.gather(*(self.use(id) for id in ids))
            # What is gone is gone: it expired while nobody could use it, or has been found lost.
            self._rules.forget([id for id, is_there in zip(ids, found, strict=True) if not is_there])
            ids = [id for id, is_there in zip(ids, found, strict=True) if is_there]
            if ids and chance.random() < UPDATES:
                await self._update(chance.choice(ids))
        ended = await self._end(user_id, ids)
        await self._try(ended)
        self._rules.forget({*ids, *ended})

    async def _create(self, user_id: str) -> str | None:
        """Returns the session_id; None when the session of the first attempt had expired before another one was answered."""
        request = pb.CreateSessionRequest(user_id=user_id, attributes={"theme": "dark"}, request_id=str(uuid4()))
        outcome = await self._load.until_known(DATASET, self._creates, request, self._chance)
        if outcome.error is None:
            return self._is_new(outcome)
        if outcome.attempts > 1 and outcome.code is grpc.StatusCode.NOT_FOUND:
            return None
        raise outcome.error

    def _is_new(self, outcome: Outcome) -> str:
        id = str(outcome.reply.session_id)
        # The attempt that succeeded may be a late one; the session was certainly not used before it.
        self._rules.created(id, called=outcome.called, attempts=outcome.attempts)
        self._load.sessions.append(id)
        return id

    async def use(self, id: str, sidecar: int | None = None) -> bool:
        """Uses a session through a sidecar, or any; returns False when it is gone."""
        sidecar = self._chance.choice(self._load.busy) if sidecar is None else sidecar
        get, touch = self._uses[sidecar]
        if self._chance.random() < TOUCHES:
            outcome = await self._load.call(DATASET, sidecar, touch, pb.TouchSessionRequest(session_id=id))
        else:
            outcome = await self._load.call(DATASET, sidecar, get, pb.GetSessionRequest(session_id=id))
        if outcome.error is not None and outcome.code is not grpc.StatusCode.NOT_FOUND:
            return True
        cache = None if outcome.error is not None else outcome.reply.cache
        behind = self._rules.read(
            id,
            sidecar=outcome.process,
            called=outcome.called,
            replied=outcome.replied,
            version=None if cache is None else cache.version,
            stale=cache is not None and cache.stale,
        )
        outcome.tally.took(stale=cache is not None and cache.stale, behind=behind)
        return cache is not None

    async def _update(self, id: str) -> None:
        sidecar = self._chance.choice(self._load.busy)
        session = Session(session_id=id, attributes={"seen": str(self._chance.random())})
        request = pb.UpdateSessionRequest(session=session, request_id=str(uuid4()))
        outcome = await self._load.until_known(DATASET, self._updates, request, self._chance, first=sidecar)
        if outcome.error is not None:
            self._rules.not_there(id, replied=outcome.replied)
            return
        version = int(outcome.reply.session.etag, 16)
        self._rules.changed(id, version, sidecar=outcome.process, at=outcome.replied, called=outcome.called)
        await self.use(id, sidecar)

    # Ways to end them

    async def _end(self, user_id: str, ids: Sequence[str]) -> list[str]:
        """Ends sessions in one way or another, and returns all that are ended."""
        kind = self._chance.random()
        if kind < 0.3:
            ended = [await self._delete(id) for id in ids]
            return [id for id in ended if id]
        if kind < 0.5 and ids:
            return await self._rotate(ids[0])
        if kind < 0.75 or not ids:
            return await self._delete_all(user_id, ids)
        # Both at once: whichever comes first, none of them is left.
        ended, rotated = await asyncio.gather(self._delete_all(user_id, ids), self._rotate(ids[0], races=True))
        self._rules.ended(rotated, "DeleteUserSessions and RotateSession at once", sidecar=-1, at=time.monotonic())
        return [*ended, *rotated]

    async def _delete(self, id: str) -> str | None:
        request = pb.DeleteSessionRequest(session_id=id, request_id=str(uuid4()))
        outcome = await self._ending([id], self._deletes, request)
        if outcome.error is not None:
            self._rules.not_there(id, replied=outcome.replied)
            return None
        self._is_over([id], "DeleteSession", outcome, pending=outcome.reply.revocation_pending)
        return id

    async def _rotate(self, id: str, *, races: bool = False) -> list[str]:
        """Gives a session another id; returns the old one, or the new one if somebody else ends that."""
        request = pb.RotateSessionRequest(session_id=id, request_id=str(uuid4()))
        outcome = await self._ending([id], self._rotates, request)
        if outcome.error is not None:
            if not races:
                self._rules.not_there(id, replied=outcome.replied)
            return []
        new = self._is_new(outcome)
        if races:
            self._rules.ending([new], called=outcome.called)
            return [new]
        self._is_over([id], "RotateSession", outcome, pending=outcome.reply.revocation_pending)
        await self.use(new)
        self._rules.forget([new])
        return [id]

    async def _delete_all(self, user_id: str, ids: Sequence[str]) -> list[str]:
        request = pb.DeleteUserSessionsRequest(user_id=user_id, request_id=str(uuid4()))
        outcome = await self._ending(ids, self._deletes_all, request)
        if outcome.error is not None:
            raise outcome.error
        self._is_over(ids, "DeleteUserSessions", outcome)
        return list(ids)

    def _is_over(self, ids: Sequence[str], how: str, outcome: Outcome, *, pending: bool = False) -> None:
        self._rules.ended(ids, how, sidecar=outcome.process, at=outcome.replied, pending=pending)

    async def _ending(self, ids: Sequence[str], methods: Sequence[Any], request: Any) -> Outcome:
        self._rules.ending(ids, called=time.monotonic())
        return await self._load.until_known(DATASET, methods, request, self._chance)

    async def _try(self, ids: Sequence[str]) -> None:
        """Asks every sidecar about sessions that are over."""
        until = time.monotonic() + TRIED
        while ids and time.monotonic() < until:
            await asyncio.gather(*(self.use(self._chance.choice(ids), sidecar) for sidecar in self._load.busy))
            await asyncio.sleep(self._chance.expovariate(1 / TRY_EVERY))
