"""Mutations of carts."""

from collections.abc import Collection
from typing import Any, ClassVar, NamedTuple

from cache_sidecar.v1 import cart_service_pb2 as pb
from cache_sidecar.v1.cart_pb2 import Cart, CartChange
from tests.support.customers import item, lines, new_user
from tests.support.pairs import Next, Op, Resource, Through, Told, refused

Lines = tuple[tuple[str, int], ...]


class State(NamedTuple):
    """Two carts, and what last changed them: `before`, or a call."""

    mine: Lines
    guest: Lines
    by: str


class Scene(NamedTuple):
    """Whose they are."""

    user: str
    guest: str
    etag: str


def _changed(state: State, lines: Lines, by: str) -> Next:
    after = state if lines == state.mine else state._replace(mine=lines, by=by)
    return [(after, Told(after.mine, after.by))]


def _add(lines: Lines, product: str, quantity: int) -> Lines:
    found = dict(lines)
    found[product] = found.get(product, 0) + quantity
    return tuple(found.items())


def _without(lines: Lines, product: str) -> Lines:
    return tuple(line for line in lines if line[0] != product)


def _set(state: State, by: str) -> Next:
    if "a" not in dict(state.mine):
        return [(state, refused("NOT_FOUND"))]
    return _changed(state, tuple((product, 7 if product == "a" else n) for product, n in state.mine), by)


def _merge(state: State, by: str) -> Next:
    merged = state.mine
    for product, quantity in state.guest:
        merged = _add(merged, product, quantity)
    return _changed(state._replace(guest=()), merged, by)


def _merge_away(state: State, by: str) -> Next:
    merged = state.guest
    for product, quantity in state.mine:
        merged = _add(merged, product, quantity)
    # The reply has the other cart; its etag is not compared.
    after = state._replace(guest=merged) if not state.mine else State((), merged, by)
    return [(after, Told(merged))]


def _replaced_as_read(state: State, by: str) -> Next:
    if state.by != "before":
        return [(state, refused("ETAG_MISMATCH"))]
    return _changed(state, (("d", 4),), by)


def _told(_scene: Scene, reply: Any, _by: str) -> Told:
    return Told(tuple(lines(reply.cart).items()), reply.cart.etag)


def _told_of_guest(_scene: Scene, reply: Any, _by: str) -> Told:
    return Told(tuple(lines(reply.cart).items()))


def _call(method: str, **fields: Any) -> Any:
    async def call(scene: Scene, through: Through) -> Any:
        request = getattr(pb, f"{method}Request")(user_id=scene.user, request_id=through.request_id(), **fields)
        return await getattr(through.customer.carts, method)(request)

    return call


def _replace_as_read(scene: Scene, through: Through) -> Any:
    cart = Cart(user_id=scene.user, items=[item("d", 4)], etag=scene.etag)
    return through.customer.carts.ReplaceCart(pb.ReplaceCartRequest(cart=cart, request_id=through.request_id()))


def _merging(user: str, guest: str) -> Any:
    async def call(scene: Scene, through: Through) -> Any:
        whose = {"user": scene.user, "guest": scene.guest}
        request = pb.MergeCartsRequest(user_id=whose[user], guest_user_id=whose[guest], request_id=through.request_id())
        return await through.customer.carts.MergeCarts(request)

    return call


_CHANGES = [CartChange(add_item=item("c", 3)), CartChange(remove_item=CartChange.RemoveItem(product_id="a"))]
OPS = (
    Op("add", _call("AddCartItem", item=item("a", 2)), lambda s, by: _changed(s, _add(s.mine, "a", 2), by), _told),
    Op("set quantity", _call("SetCartItemQuantity", product_id="a", quantity=7), _set, _told),
    Op("remove", _call("RemoveCartItem", product_id="a"), lambda s, by: _changed(s, _without(s.mine, "a"), by), _told),
    Op("clear", _call("ClearCart"), lambda s, by: _changed(s, (), by), _told),
    Op("replace as read", _replace_as_read, _replaced_as_read, _told),
    Op(
        "apply",
        _call("ApplyCartChanges", changes=_CHANGES),
        lambda s, by: _changed(s, _without(_add(s.mine, "c", 3), "a"), by),
        _told,
    ),
    Op("merge", _merging("user", "guest"), _merge, _told),
    Op("merge away", _merging("guest", "user"), _merge_away, _told_of_guest),
)


_MERGING = {"merge", "merge away"}


class Carts(Resource):
    """Carts of a user and of a guest."""

    ops: ClassVar = {op.name: op for op in OPS}
    # Of the methods that change one cart, one is enough to find the first change of a cart in another's way.
    starts: ClassVar = {"filled": ops, "new": ("add", "replace as read", "merge", "merge away")}

    async def scene(self, start: str, ops: Collection[str], through: Through) -> Scene:
        user, guest, etag = new_user(), "" if _MERGING.isdisjoint(ops) else new_user(), "0"
        if start == "filled":
            etag = (await through.customer.replace(user, item("a", 1), item("b", 2))).etag
            if guest:
                await through.customer.replace(guest, item("b", 3))
        return Scene(user, guest, etag)

    def model(self, start: str, ops: Collection[str]) -> State:
        if start == "new":
            return State((), (), "before")
        return State((("a", 1), ("b", 2)), () if _MERGING.isdisjoint(ops) else (("b", 3),), "before")

    async def stored(self, scene: Scene, through: Through) -> tuple[Lines, Lines]:
        rows = dict(
            await through.rows(
                "SELECT user_id, items FROM cache_sidecar.carts WHERE user_id = ANY(%s)", [scene.user, scene.guest]
            )
        )
        mine, guest = (
            tuple((line["product_id"], line["quantity"]) for line in rows.get(user, ())) for user in (scene.user, scene.guest)
        )
        return mine, guest

    async def seen(self, scene: Scene, through: Through) -> tuple[Any, str]:
        mine = await through.customer.cart(scene.user)
        guest = await through.customer.cart(scene.guest) if scene.guest else Cart()
        return (tuple(lines(mine).items()), tuple(lines(guest).items())), mine.etag

    def shown(self, state: State) -> tuple[Any, str]:
        return (state.mine, state.guest), state.by

    def etag(self, scene: Scene) -> str:
        return scene.etag

    async def forget(self, scene: Scene, through: Through) -> None:
        await through.forget("cart", [scene.user, scene.guest])
