"""Mutations of a product."""

from collections.abc import Callable, Collection
from typing import Any, ClassVar, NamedTuple

from grpc.aio import AioRpcError

from cache_sidecar.store.bulk import BulkProducts
from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.product_pb2 import Product
from tests.support import inside
from tests.support.customers import money
from tests.support.pairs import Next, Op, Resource, Through, Told, refused
from tests.support.shop import new_id, product


class State(NamedTuple):
    """A product, or none: title, price, and what last changed it."""

    content: tuple[str, int] | None
    by: str | None


class Scene(NamedTuple):
    """Which product."""

    product_id: str
    etag: str


def _create(state: State, by: str) -> Next:
    if state.content is not None:
        return [(state, refused("ALREADY_EXISTS"))]
    return _now(("created", 1), by)


def _now(content: tuple[str, int], by: str) -> Next:
    return [(State(content, by), Told(content, by))]


def _update(change: Callable[[str, int], tuple[str, int]], *, as_read: bool = False) -> Callable[[State, str], Next]:
    def update(state: State, by: str) -> Next:
        if state.content is None:
            return [(state, refused("NOT_FOUND"))]
        if as_read and state.by != "before":
            return [(state, refused("ETAG_MISMATCH"))]
        return _now(change(*state.content), by)

    return update


def _delete(state: State, _by: str) -> Next:
    if state.content is None:
        return [(state, refused("NOT_FOUND"))]
    return [(State(None, None), Told("deleted"))]


def _import(state: State, by: str) -> Next:
    if state.content == ("imported", 9):
        return [(state, Told(0))]
    return [(State(("imported", 9), by), Told(1))]


def _call_create(scene: Scene, through: Through) -> Any:
    new = product(scene.product_id, title="created", price=money("1.00 EUR"))
    return through.products.CreateProduct(pb.CreateProductRequest(product=new, request_id=through.request_id()))


def _call_update(*, as_read: bool = False, **fields: Any) -> Any:
    def call(scene: Scene, through: Through) -> Any:
        changed = Product(product_id=scene.product_id, etag=scene.etag if as_read else "", **fields)
        return through.products.UpdateProduct(pb.UpdateProductRequest(product=changed, request_id=through.request_id()))

    return call


def _call_delete(scene: Scene, through: Through) -> Any:
    request = pb.DeleteProductRequest(product_id=scene.product_id, request_id=through.request_id())
    return through.products.DeleteProduct(request)


async def _call_import(scene: Scene, through: Through) -> int:
    bulk = BulkProducts("")
    row = {"product_id": scene.product_id, "title": "imported", "price_units": 9, "currency_code": "EUR"}

    async def upsert(connection: Any) -> int:
        inside.set_connection(bulk, connection)
        return await bulk.upsert(list(row), [list(row.values())])

    return int(await through.sql(upsert))


def _told(_scene: Scene, reply: Any, _by: str) -> Told:
    return Told((reply.product.title, reply.product.price.units), reply.product.etag)


OPS = (
    Op("create", _call_create, _create, _told),
    Op("retitle", _call_update(title="new"), _update(lambda _, price: ("new", price)), _told),
    Op("reprice", _call_update(price=money("7.00 EUR")), _update(lambda title, _: (title, 7)), _told),
    Op(
        "retitle as read",
        _call_update(title="as read", as_read=True),
        _update(lambda _, price: ("as read", price), as_read=True),
        _told,
    ),
    Op("delete", _call_delete, _delete, lambda *_: Told("deleted")),
    Op("import", _call_import, _import, lambda _, reply, __: Told(reply), is_sql=True),
)


class Products(Resource):
    """A product."""

    is_in_memory = True
    ops: ClassVar = {op.name: op for op in OPS}
    starts: ClassVar = {"there": ops, "absent": ("create", "retitle", "delete", "import")}

    async def scene(self, start: str, ops: Collection[str], through: Through) -> Scene:
        id, etag = new_id(), "before"
        if start == "there":
            made = await through.products.CreateProduct(pb.CreateProductRequest(product=product(id, title="first")))
            etag = made.product.etag
        return Scene(id, etag)

    def model(self, start: str, ops: Collection[str]) -> State:
        return State(("first", product("").price.units), "before") if start == "there" else State(None, None)

    async def stored(self, scene: Scene, through: Through) -> Any:
        query = "SELECT title, price_units FROM cache_sidecar.products WHERE product_id = %s"
        return next(iter(await through.rows(query, scene.product_id)), None)

    async def seen(self, scene: Scene, through: Through) -> tuple[Any, Any]:
        try:
            found = (await through.products.GetProduct(pb.GetProductRequest(product_id=scene.product_id))).product
        except AioRpcError as error:
            assert error.code().name == "NOT_FOUND", error
            return None, None
        return (found.title, found.price.units), found.etag

    def shown(self, state: State) -> tuple[Any, Any]:
        return state

    def etag(self, scene: Scene) -> str:
        return scene.etag

    async def forget(self, scene: Scene, through: Through) -> None:
        await through.forget("product", [scene.product_id])
