"""SessionService against a model in plain Python, through two sidecars, while time passes, Redis loses everything and
sidecars restart."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from grpc.aio import AioRpcError
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.v1 import session_service_pb2 as pb
from cache_sidecar.v1.session_pb2 import Session
from tests.support.customers import new_request, new_user
from tests.support.world import World, explore

TTL, WINDOW, LIFETIME = 1800.0, 300.0, 30 * 86400.0
# A record of Redis counts in milliseconds.
BLUR = 0.002
sidecars = st.integers(0, 1)


@dataclass
class ModelSession:
    """A session as plain Python would keep it."""

    user: int | None
    end: float
    until: float
    attributes: dict[str, str] = field(default_factory=dict)
    is_ended: bool = False
    was_refused: bool = False
    "Whether somebody was told that it is over: then it is, whatever happens."
    is_in_redis: bool = True
    "Whether Redis knows when it was last used."

    def must_go_on(self, now: float) -> bool:
        """Whether it has to be accepted."""
        return not self.is_ended and not self.was_refused and now < min(self.until, self.end) - BLUR

    def must_be_over(self, now: float) -> bool:
        """Whether it must not be accepted."""
        # When Redis lost it, PostgreSQL may give it 5 minutes more: it cannot know that it was not used.
        return self.is_ended or now > min(self.until + (0.0 if self.is_in_redis else WINDOW), self.end) + BLUR

    def may_be_listed(self, now: float) -> bool:
        """Whether PostgreSQL alone may take it for one that goes on."""
        return not self.is_ended and now <= min(self.until + WINDOW, self.end) + BLUR

    def use(self, now: float) -> None:
        """It is used."""
        self.until, self.is_in_redis = min(now + TTL, self.end), True


class SessionMachine(RuleBasedStateMachine):
    """Random lives of sessions of two users and of guests."""

    ids = Bundle("ids")

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.users: list[str] = []
        self.sessions: dict[str, ModelSession] = {}
        self.created: tuple[pb.CreateSessionRequest, str] | None = None
        self.is_restarted = False
        "One restart in a life: it takes as long as thirty calls, and forgets no more the second time."

    @initialize()
    def begin(self) -> None:
        self.users = [new_user(), new_user()]

    @property
    def now(self) -> float:
        return self.world.clock.now()

    def call(self, sidecar: int, method: str, request: Any) -> Any:
        """Returns the reply, or None when there is no such session."""
        try:
            return self.world.do(lambda: getattr(self.world.customers[sidecar].sessions, method)(request))
        except AioRpcError as error:
            assert error.code().name == "NOT_FOUND", error
            return None

    def used(self, id: str, reply: Any) -> bool:
        """Compares whether a session was accepted, and returns that."""
        session = self.sessions[id]
        if session.must_go_on(self.now):
            assert reply is not None
        if session.must_be_over(self.now):
            assert reply is None
        if reply is None:
            session.was_refused = True
            return False
        session.use(self.now)
        return True

    @rule(
        target=ids,
        sidecar=sidecars,
        user=st.sampled_from([None, 0, 1]),
        attributes=st.dictionaries(
            st.sampled_from("abc"), st.text(max_size=3).filter(lambda text: "\0" not in text), max_size=2
        ),
    )
    def create(self, sidecar: int, user: int | None, attributes: dict[str, str]) -> str:
        request = pb.CreateSessionRequest(attributes=attributes, request_id=new_request())
        if user is not None:
            request.user_id = self.users[user]
        id: str = self.call(sidecar, "CreateSession", request).session_id
        self.sessions[id] = ModelSession(user, self.now + LIFETIME, self.now + TTL, attributes)
        self.created = request, id
        return id

    @precondition(lambda self: self.created is not None)
    @rule(target=ids, sidecar=sidecars)
    def repeat_the_creation(self, sidecar: int) -> str:
        assert self.created is not None
        request, id = self.created
        old = self.sessions[id]
        reply = self.call(sidecar, "CreateSession", request)
        if old.must_go_on(self.now):
            assert reply is not None
        if not old.may_be_listed(self.now):  # only PostgreSQL is asked
            assert reply is None
        old.is_ended = True
        if reply is None:
            self.created = None
            return id
        self.sessions[reply.session_id] = ModelSession(old.user, old.end, old.until, dict(old.attributes))
        self.sessions[reply.session_id].use(self.now)
        self.created = request, reply.session_id
        return str(reply.session_id)

    @rule(id=ids, sidecar=sidecars)
    def get(self, id: str, sidecar: int) -> None:
        reply = self.call(sidecar, "GetSession", pb.GetSessionRequest(session_id=id))
        if self.used(id, reply):
            session = self.sessions[id]
            assert dict(reply.session.attributes) == session.attributes
            assert reply.session.user_id == ("" if session.user is None else self.users[session.user])
            expire = reply.session.expire_time
            assert abs(expire.seconds + expire.nanos / 1e9 - session.until) < BLUR

    @rule(id=ids, sidecar=sidecars)
    def touch(self, id: str, sidecar: int) -> None:
        self.used(id, self.call(sidecar, "TouchSession", pb.TouchSessionRequest(session_id=id)))

    @rule(
        id=ids,
        sidecar=sidecars,
        key=st.sampled_from("abc"),
        value=st.sampled_from(["", "1", "2"]),
        user=st.sampled_from([None, 0, 1]),
    )
    def update(self, id: str, sidecar: int, key: str, value: str, user: int | None) -> None:
        request = pb.UpdateSessionRequest(session=Session(session_id=id, attributes={key: value}), request_id=new_request())
        request.update_mask.paths.append("attributes")
        if user is not None:
            request.update_mask.paths.append("user_id")
            request.session.user_id = self.users[user]
        if self.used(id, self.call(sidecar, "UpdateSession", request)):
            self.sessions[id].attributes[key] = value
            self.sessions[id].user = self.sessions[id].user if user is None else user

    @rule(target=ids, id=ids, sidecar=sidecars)
    def rotate(self, id: str, sidecar: int) -> str:
        reply = self.call(sidecar, "RotateSession", pb.RotateSessionRequest(session_id=id, request_id=new_request()))
        if not self.used(id, reply):
            return id
        assert not reply.revocation_pending
        old = self.sessions[id]
        self.sessions[reply.session_id] = ModelSession(old.user, old.end, old.until, dict(old.attributes))
        old.is_ended = True
        return str(reply.session_id)

    @rule(id=consumes(ids), sidecar=sidecars)
    def delete(self, id: str, sidecar: int) -> None:
        if self.sessions[id].must_go_on(self.now):
            assert self.call(sidecar, "DeleteSession", pb.DeleteSessionRequest(session_id=id)) is not None
        else:
            self.call(sidecar, "DeleteSession", pb.DeleteSessionRequest(session_id=id))
        self.sessions[id].is_ended = True

    @rule(user=st.integers(0, 1), sidecar=sidecars)
    def log_out_everywhere(self, user: int, sidecar: int) -> None:
        self.call(sidecar, "DeleteUserSessions", pb.DeleteUserSessionsRequest(user_id=self.users[user]))
        for session in self.sessions.values():
            if session.user == user:
                session.is_ended = True

    @rule(seconds=st.sampled_from([1.0, 60.0, 299.0, 301.0, 1500.0, 1799.0, 1801.0, 2000.0, 86400.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    @rule()
    def redis_loses_everything(self) -> None:
        self.world.flush_redis()
        for session in self.sessions.values():
            session.is_in_redis = False

    @precondition(lambda self: not self.is_restarted)
    @rule(sidecar=sidecars)
    def restart(self, sidecar: int) -> None:
        self.is_restarted = True
        self.world.restart(sidecar)

    @invariant()
    def every_user_has_the_sessions_of_the_model(self) -> None:
        for number, user in enumerate(self.users):
            reply = self.call(number, "ListUserSessions", pb.ListUserSessionsRequest(user_id=user, page_size=1000))
            own = [session for session in self.sessions.values() if session.user == number]
            assert sum(session.must_go_on(self.now) for session in own) <= len(reply.sessions)
            assert len(reply.sessions) <= sum(session.may_be_listed(self.now) for session in own)

    def teardown(self) -> None:
        for id in self.sessions:
            self.used(id, self.call(0, "TouchSession", pb.TouchSessionRequest(session_id=id)))
            self.used(id, self.call(1, "TouchSession", pb.TouchSessionRequest(session_id=id)))


@pytest.mark.timeout(900)  # two thousand calls, one after the other: minutes on a busy machine
async def test_sessions_live_and_end_as_the_model_says(valkey: ValkeyServer, database: str, namespace: str) -> None:
    world = World(valkey.address, database, namespace)
    await world.start()
    try:
        await explore(lambda: SessionMachine(world), examples=30, steps=25)
    finally:
        await world.stop()
