"""Mutations of sessions: of one, or of all of a user's."""

from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, NamedTuple

from grpc.aio import AioRpcError

from cache_sidecar.services.session import hash_of
from cache_sidecar.store.bulk import BulkSessions
from cache_sidecar.v1 import session_service_pb2 as pb
from cache_sidecar.v1.session_pb2 import Session
from tests.support import inside
from tests.support.customers import new_request, new_user
from tests.support.pairs import Next, Op, Resource, Through, Told, refused

NOT_FOUND = refused("NOT_FOUND")


class State(NamedTuple):
    """The live sessions, each as name, user and note; one that a call created has that call's name."""

    alive: frozenset[tuple[str, str, str]]
    issued: str
    "The session that a repeated creation returns."
    by: str
    "What last changed `old`."

    def find(self, name: str) -> tuple[str, str] | None:
        """Returns user and note of a session that is alive."""
        return next(((user, note) for found, user, note in self.alive if found == name), None)

    def put(self, name: str, user: str, note: str, *, instead_of: str = "") -> "State":
        """Returns the state with a session as it is from now on."""
        others = {session for session in self.alive if session[0] not in (name, instead_of)}
        return self._replace(alive=frozenset(others | {(name, user, note)}))


class Scene(NamedTuple):
    """Two users, and the sessions by name."""

    user: str
    other: str
    request_id: str
    etag: str
    ids: dict[str, str]

    def name(self, user: str) -> str:
        """Returns the model's name of a user."""
        return {self.user: "user", self.other: "other"}.get(user, "")


def _create(state: State, by: str) -> Next:
    return [(state.put(by, "user", ""), Told(("issued", "user", "")))]


def _repeat_creation(state: State, by: str) -> Next:
    return _go_on(state, state.issued, by, issued=by)


def _rotate(name: str) -> Callable[[State, str], Next]:
    return lambda state, by: _go_on(state, name, by, issued=state.issued)


def _go_on(state: State, name: str, by: str, *, issued: str) -> Next:
    found = state.find(name)
    if found is None:
        return [(state, NOT_FOUND)]
    return [(state.put(by, *found, instead_of=name)._replace(issued=issued), Told(("issued", *found)))]


def _update(name: str, *, user: str | None = None) -> Callable[[State, str], Next]:
    def update(state: State, by: str) -> Next:
        found = state.find(name)
        if found is None:
            return [(state, NOT_FOUND)]
        if user is None and state.by != "before":
            return [(state, refused("ETAG_MISMATCH"))]
        owner, note = (found[0], "new") if user is None else (user, found[1])
        after = state.put(name, owner, note)
        return [(after._replace(by=by) if name == "old" else after, Told(("session", owner, note), by))]

    return update


def _delete(state: State, _by: str) -> Next:
    if state.find("old") is None:
        return [(state, NOT_FOUND)]
    return [(state._replace(alive=frozenset(s for s in state.alive if s[0] != "old")), Told("deleted"))]


def _log_out(state: State, _by: str) -> Next:
    left = frozenset(session for session in state.alive if session[1] != "user")
    return [(state._replace(alive=left), Told(("ended", len(state.alive) - len(left))))]


def _import(state: State, _by: str) -> Next:
    if state.find("imported"):
        return [(state, Told(0))]
    return [(state.put("imported", "user", ""), Told(1))]


def _told_issued(scene: Scene, reply: Any, by: str) -> Told:
    scene.ids[by] = reply.session_id
    return Told(("issued", *_content(scene, reply.session)))


def _told_session(scene: Scene, reply: Any, _by: str) -> Told:
    return Told(("session", *_content(scene, reply.session)), reply.session.etag)


def _content(scene: Scene, session: Session) -> tuple[str, str]:
    return scene.name(session.user_id), session.attributes.get("note", "")


def _call_create(scene: Scene, through: Through, request_id: str = "") -> Any:
    request = pb.CreateSessionRequest(user_id=scene.user, request_id=request_id or through.request_id())
    return through.customer.sessions.CreateSession(request)


def _call_repeat(scene: Scene, through: Through) -> Any:
    return _call_create(scene, through, scene.request_id)


def _call_rotate(name: str) -> Any:
    return lambda scene, through: through.customer.sessions.RotateSession(
        pb.RotateSessionRequest(session_id=scene.ids[name], request_id=through.request_id())
    )


def _call_update(name: str, *, user: Callable[[Scene], str] | None = None) -> Any:
    def call(scene: Scene, through: Through) -> Any:
        session = Session(session_id=scene.ids[name], etag=scene.etag if user is None else "")
        if user is None:
            session.attributes["note"] = "new"
        else:
            session.user_id = user(scene)
        return through.customer.sessions.UpdateSession(
            pb.UpdateSessionRequest(session=session, request_id=through.request_id())
        )

    return call


def _call_delete(scene: Scene, through: Through) -> Any:
    request = pb.DeleteSessionRequest(session_id=scene.ids["old"], request_id=through.request_id())
    return through.customer.sessions.DeleteSession(request)


def _call_log_out(scene: Scene, through: Through) -> Any:
    request = pb.DeleteUserSessionsRequest(user_id=scene.user, request_id=through.request_id())
    return through.customer.sessions.DeleteUserSessions(request)


async def _call_import(scene: Scene, through: Through) -> int:
    bulk, now = BulkSessions(""), datetime.now(UTC)
    row = {
        "session_hash": hash_of(scene.ids["imported"]),
        "user_id": scene.user,
        "use_time": now,
        "end_time": now + timedelta(days=1),
    }

    async def upsert(connection: Any) -> int:
        inside.set_connection(bulk, connection)
        return await bulk.upsert(list(row), [list(row.values())])

    return int(await through.sql(upsert))


OPS = (
    Op("create", _call_create, _create, _told_issued),
    Op("repeat creation", _call_repeat, _repeat_creation, _told_issued),
    Op("rotate", _call_rotate("old"), _rotate("old"), _told_issued),
    Op("rotate guest", _call_rotate("guest"), _rotate("guest"), _told_issued),
    Op("update as read", _call_update("old"), _update("old"), _told_session),
    Op("give away", _call_update("old", user=lambda scene: scene.other), _update("old", user="other"), _told_session),
    Op("log in", _call_update("guest", user=lambda scene: scene.user), _update("guest", user="user"), _told_session),
    Op("delete", _call_delete, _delete, lambda *_: Told("deleted")),
    Op("log out everywhere", _call_log_out, _log_out, lambda _, reply, __: Told(("ended", reply.deleted))),
    Op("import", _call_import, _import, lambda _, reply, __: Told(reply), is_sql=True),
)


_OF_A_GUEST = {"rotate guest", "log in"}


class Sessions(Resource):
    """A session of a user, and an anonymous one for the calls that need it."""

    ops: ClassVar = {op.name: op for op in OPS}
    starts: ClassVar = {"used": ops}

    async def scene(self, start: str, ops: Collection[str], through: Through) -> Scene:
        user, request_id, sessions = new_user(), new_request(), through.customer.sessions
        old = await sessions.CreateSession(pb.CreateSessionRequest(user_id=user, request_id=request_id))
        ids = {"old": old.session_id}
        if not _OF_A_GUEST.isdisjoint(ops):
            ids["guest"] = await through.customer.create()
        if "import" in ops:
            ids["imported"] = new_request()
        return Scene(user, new_user(), request_id, old.session.etag, ids)

    def model(self, start: str, ops: Collection[str]) -> State:
        guest = set() if _OF_A_GUEST.isdisjoint(ops) else {("guest", "", "")}
        return State(frozenset({("old", "user", "")} | guest), "old", "before")

    async def stored(self, scene: Scene, through: Through) -> Any:
        names = {hash_of(id): name for name, id in scene.ids.items()}
        rows = await through.rows(
            """SELECT session_hash, user_id, attributes FROM cache_sidecar.sessions
               WHERE delete_time IS NULL AND (user_id = ANY(%s) OR session_hash = ANY(%s))""",
            [scene.user, scene.other],
            list(names),
        )
        return frozenset((names[hash], scene.name(user), attributes.get("note", "")) for hash, user, attributes in rows)

    async def seen(self, scene: Scene, through: Through) -> tuple[Any, Any]:
        found, etag = set(), None
        for name, id in scene.ids.items():
            try:
                session = (await through.customer.session(id)).session
            except AioRpcError as error:
                assert error.code().name == "NOT_FOUND", error
                continue
            found.add((name, *_content(scene, session)))
            etag = session.etag if name == "old" else etag
        return frozenset(found), etag

    def shown(self, state: State) -> tuple[Any, Any]:
        return state.alive, state.by if state.find("old") else None

    def etag(self, scene: Scene) -> str:
        return scene.etag

    async def forget(self, scene: Scene, through: Through) -> None:
        """Does nothing: an imported session is in no cache."""
