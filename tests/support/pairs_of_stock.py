"""Mutations of a product's stock: of the stock itself, or of a reservation."""

from collections.abc import Callable, Collection
from typing import Any, ClassVar, NamedTuple

from cache_sidecar.store.bulk import BulkInventory
from cache_sidecar.store.inventory import row_ids
from cache_sidecar.v1 import inventory_pb2
from tests.support import inside
from tests.support.pairs import Next, Op, Resource, Through, Told, refused
from tests.support.shop import new_id
from tests.support.stockroom import moment

BUCKETS, MOST_BUCKETS, PIECES, HELD = 2, 5, 100, 5
_STATES = {number: name.removeprefix("RESERVATION_STATE_").lower() for name, number in inventory_pb2.ReservationState.items()}


class State(NamedTuple):
    """A stock and its reservation, if there is one."""

    available: int
    reserved: int
    buckets: int
    reservation: str | None
    is_extended: bool
    by: str

    @property
    def stock(self) -> tuple[int, int, int]:
        """The part that replies show."""
        return self.available, self.reserved, self.buckets


class Scene(NamedTuple):
    """Which stock, and which reservation."""

    product_id: str
    reservation_id: str
    due: Any
    etag: str


def _set(available: int, *, buckets: int | None = None, as_read: bool = False) -> Callable[[State, str], Next]:
    def set(state: State, by: str) -> Next:
        if as_read and state.by != "before":
            return [(state, refused("ETAG_MISMATCH"))]
        after = state._replace(available=available, buckets=buckets or state.buckets, by=by)
        done = (after, Told(after.stock, by))
        if buckets is not None and buckets < state.buckets and state.reserved:
            # It depends on which of the buckets the reserved pieces came from.
            return [done, (state, refused("BUCKETS_IN_USE"))]
        return [done]

    return set


def _adjust(delta: int) -> Callable[[State, str], Next]:
    def adjust(state: State, by: str) -> Next:
        if state.available + delta < 0:
            return [(state, refused("OUT_OF_STOCK"))]
        after = state._replace(available=state.available + delta, by=by)
        return [(after, Told(after.stock, by))]

    return adjust


def _reserve(pieces: int) -> Callable[[State, str], Next]:
    def reserve(state: State, by: str) -> Next:
        if state.available < pieces:
            return [(state, refused("OUT_OF_STOCK"))]
        after = state._replace(available=state.available - pieces, reserved=state.reserved + pieces, by=by)
        return [(after, Told("held"))]

    return reserve


def _end(outcome: str, *, fine: Collection[str]) -> Callable[[State, str], Next]:
    def end(state: State, by: str) -> Next:
        if state.reservation == "held":
            after = _ended(state, outcome, by)
            return [(after, Told(outcome))]
        return [(state, Told(state.reservation) if state.reservation in fine else refused("RESERVATION_ENDED"))]

    return end


def _ended(state: State, outcome: str, by: str) -> State:
    given_back = 0 if outcome == "committed" else HELD
    return state._replace(available=state.available + given_back, reserved=state.reserved - HELD, reservation=outcome, by=by)


def _extend(state: State, _by: str) -> Next:
    if state.reservation != "held":
        return [(state, refused("RESERVATION_ENDED"))]
    return [(state._replace(is_extended=True), Told("held"))]


def _expire(state: State, by: str) -> Next:
    if state.reservation != "held" or state.is_extended:
        return [(state, Told(False))]
    return [(_ended(state, "expired", by), Told(True))]


def _import(state: State, by: str) -> Next:
    if state.available == 70:
        return [(state, Told(0))]
    return [(state._replace(available=70, by=by), Told(1))]


def _call_set(available: int, *, buckets: int = 0, as_read: bool = False) -> Any:
    async def call(scene: Scene, through: Through) -> Any:
        etag = scene.etag if as_read else ""
        return await through.stock.set(
            scene.product_id, available, bucket_count=buckets, etag=etag, request_id=through.request_id()
        )

    return call


def _call_end(method: str) -> Any:
    return lambda scene, through: getattr(through.stock, method)(scene.reservation_id, request_id=through.request_id())


async def _call_import(scene: Scene, through: Through) -> int:
    bulk = BulkInventory("")

    async def upsert(connection: Any) -> int:
        inside.set_connection(bulk, connection)
        return await bulk.upsert(["product_id", "available"], [[scene.product_id, 70]])

    return int(await through.sql(upsert))


async def _call_expire(scene: Scene, through: Through) -> bool:
    async def expire(connection: Any) -> bool:
        # Without a limit: the other call may be held at a gate.
        cursor = await connection.execute("SELECT * FROM cache_sidecar.expire_hold(%s, '0')", [scene.due])
        rows = await cursor.fetchall()
        assert not any(refused for _, refused, _ in rows), rows
        return bool(rows)

    return bool(await through.sql(expire))


def _told_stock(_scene: Scene, reply: Any, _by: str) -> Told:
    return Told((reply.available, reply.reserved, reply.bucket_count), reply.etag)


def _told_state(_scene: Scene, reply: Any, _by: str) -> Told:
    return Told(_STATES[reply.state])


def _told_as_is(_scene: Scene, reply: Any, _by: str) -> Told:
    return Told(reply)


OPS = (
    Op("set as read", _call_set(45, as_read=True), _set(45, as_read=True), _told_stock),
    Op("set to 5 buckets", _call_set(80, buckets=MOST_BUCKETS), _set(80, buckets=MOST_BUCKETS), _told_stock),
    Op("set to 1 bucket", _call_set(60, buckets=1), _set(60, buckets=1), _told_stock),
    Op(
        "add",
        lambda scene, through: through.stock.adjust(scene.product_id, 1, request_id=through.request_id()),
        _adjust(1),
        _told_stock,
    ),
    Op(
        "take away",
        lambda scene, through: through.stock.adjust(scene.product_id, -70, request_id=through.request_id()),
        _adjust(-70),
        _told_stock,
    ),
    Op(
        "reserve",
        lambda scene, through: through.stock.reserve({scene.product_id: 10}, request_id=through.request_id()),
        _reserve(10),
        _told_state,
    ),
    Op(
        "reserve most",
        lambda scene, through: through.stock.reserve({scene.product_id: 85}, request_id=through.request_id()),
        _reserve(85),
        _told_state,
    ),
    Op(
        "extend",
        lambda scene, through: through.stock.extend(scene.reservation_id, 1800, request_id=through.request_id()),
        _extend,
        _told_state,
    ),
    Op("commit", _call_end("commit"), _end("committed", fine={"committed"}), _told_state),
    Op("release", _call_end("release"), _end("released", fine={"released", "expired"}), _told_state),
    Op("expire", _call_expire, _expire, _told_as_is, is_sql=True),
    Op("import", _call_import, _import, _told_as_is, is_sql=True),
)
_OF_A_RESERVATION = {"extend", "commit", "release", "expire"}


class Stock(Resource):
    """The stock of a product in two buckets, and, where a call is about it, a reservation that is held."""

    ops: ClassVar = {op.name: op for op in OPS}
    starts: ClassVar = {"in two buckets": ops}

    async def scene(self, start: str, ops: Collection[str], through: Through) -> Scene:
        product_id = new_id()
        has_reservation = not _OF_A_RESERVATION.isdisjoint(ops)
        etag = (await through.stock.set(product_id, PIECES + HELD * has_reservation, bucket_count=BUCKETS)).etag
        if not has_reservation:
            return Scene(product_id, "", None, etag)
        # The oldest expires: let that be the new one.
        await through.rows(
            "UPDATE cache_sidecar.reservations SET state = 'released', end_time = now() WHERE state = 'held' RETURNING 1"
        )
        held = await through.stock.reserve({product_id: HELD}, hold=900)
        etag = (await through.stock.get(product_id)).etag
        return Scene(product_id, held.reservation_id, moment(held.expire_time), etag)

    def model(self, start: str, ops: Collection[str]) -> State:
        has_reservation = not _OF_A_RESERVATION.isdisjoint(ops)
        return State(
            PIECES, HELD * has_reservation, BUCKETS, "held" if has_reservation else None, is_extended=False, by="before"
        )

    async def stored(self, scene: Scene, through: Through) -> Any:
        ((*stock, state),) = await through.rows(
            """SELECT sum(available)::bigint, sum(reserved)::bigint, count(*),
                      (SELECT state FROM cache_sidecar.reservations WHERE reservation_id::text = %s)
               FROM cache_sidecar.inventory WHERE product_id = %s""",
            scene.reservation_id,
            scene.product_id,
        )
        return tuple(stock), state

    async def seen(self, scene: Scene, through: Through) -> tuple[Any, str]:
        stock = await through.stock.get(scene.product_id)
        state = None
        if scene.reservation_id:
            state = _STATES[(await through.stock.reservation(scene.reservation_id)).state]
        return ((stock.available, stock.reserved, stock.bucket_count), state), stock.etag

    def shown(self, state: State) -> tuple[Any, str]:
        return (state.stock, state.reservation), state.by

    def etag(self, scene: Scene) -> str:
        return scene.etag

    async def forget(self, scene: Scene, through: Through) -> None:
        await through.forget("inventory", row_ids(scene.product_id, MOST_BUCKETS))
