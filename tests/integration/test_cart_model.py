"""CartService against a model in plain Python, through two sidecars, while Redis loses everything and sidecars restart."""

from collections import defaultdict
from typing import Any

import pytest
from grpc.aio import AioRpcError
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.v1 import cart_service_pb2 as pb
from cache_sidecar.v1.cart_pb2 import Cart, CartChange
from tests.support.cart_model import ModelCart
from tests.support.customers import item, new_request, new_user
from tests.support.world import World, explore

sidecars = st.integers(0, 1)
users = st.integers(0, 2)
products = st.sampled_from(["a", "b", "{c}"])
options = st.sampled_from([{}, {"size": "M"}])
quantities = st.sampled_from([1, 2, 500, 999])
items = st.builds(
    lambda product, quantity, price, of: item(product, quantity, price, **of),
    products,
    quantities,
    st.sampled_from(["29.99 EUR", "0.000000001 EUR", "7.00 USD"]),
    options,
)


class CartMachine(RuleBasedStateMachine):
    """Random changes of three carts through either sidecar."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.users: list[str] = []
        self.carts: dict[str, ModelCart] = defaultdict(ModelCart)
        self.etags: dict[str, list[str]] = {}
        self.done: tuple[str, Any, Any] | None = None
        "The last change: method, request, reply."
        self.is_restarted = False
        "One restart in a life: it takes as long as thirty calls, and forgets no more the second time."

    @initialize()
    def begin(self) -> None:
        self.users = [new_user() for _ in range(3)]
        self.etags = {user: ["0"] for user in self.users}

    def call(self, sidecar: int, method: str, request: Any) -> Any:
        """Returns the reply, or the name of the status code."""
        try:
            return self.world.do(lambda: getattr(self.world.customers[sidecar].carts, method)(request))
        except AioRpcError as error:
            return error.code().name

    def change(self, sidecar: int, method: str, request: Any, user: str) -> None:
        """Makes a change that the model made, and compares."""
        reply = self.call(sidecar, method, request)
        self.carts[user].check(reply.cart)
        self.etags[user].append(reply.cart.etag)
        self.done = (method, request, reply)

    @rule(sidecar=sidecars, user=users, new=items)
    def add(self, sidecar: int, user: int, new: Any) -> None:
        name = self.users[user]
        request = pb.AddCartItemRequest(user_id=name, item=new, request_id=new_request())
        if self.carts[name].add(new):
            self.change(sidecar, "AddCartItem", request, name)
        else:
            assert self.call(sidecar, "AddCartItem", request) == "FAILED_PRECONDITION"

    @rule(sidecar=sidecars, user=users, product=products, of=options, quantity=st.sampled_from([0, 1, 999]))
    def set_quantity(self, sidecar: int, user: int, product: str, of: dict[str, str], quantity: int) -> None:
        name = self.users[user]
        request = pb.SetCartItemQuantityRequest(user_id=name, product_id=product, options=of, quantity=quantity)
        if self.carts[name].set_quantity(product, of, quantity):
            self.change(sidecar, "SetCartItemQuantity", request, name)
        else:
            assert self.call(sidecar, "SetCartItemQuantity", request) == "NOT_FOUND"

    @rule(sidecar=sidecars, user=users, product=products, of=options)
    def remove(self, sidecar: int, user: int, product: str, of: dict[str, str]) -> None:
        name = self.users[user]
        self.carts[name].remove(product, of)
        self.change(sidecar, "RemoveCartItem", pb.RemoveCartItemRequest(user_id=name, product_id=product, options=of), name)

    @rule(sidecar=sidecars, user=users)
    def clear(self, sidecar: int, user: int) -> None:
        name = self.users[user]
        self.carts[name] = ModelCart()
        self.change(sidecar, "ClearCart", pb.ClearCartRequest(user_id=name, request_id=new_request()), name)

    @rule(sidecar=sidecars, user=users, new=st.lists(items, max_size=3), age=st.integers(0, 3))
    def replace(self, sidecar: int, user: int, new: list[Any], age: int) -> None:
        name = self.users[user]
        known = self.etags[name]
        etag = known[max(0, len(known) - 1 - age)]
        replaced = ModelCart()
        distinct = [one for number, one in enumerate(new) if not any(_same(one, other) for other in new[:number])]
        for one in distinct:
            replaced.add(one)
        request = pb.ReplaceCartRequest(cart=Cart(user_id=name, items=distinct, etag=etag), request_id=new_request())
        if etag == known[-1]:
            self.carts[name] = replaced
            self.change(sidecar, "ReplaceCart", request, name)
        else:
            assert self.call(sidecar, "ReplaceCart", request) == "ABORTED"

    @rule(sidecar=sidecars, user=users, guest=users)
    def merge(self, sidecar: int, user: int, guest: int) -> None:
        name, other = self.users[user], self.users[guest]
        request = pb.MergeCartsRequest(user_id=name, guest_user_id=other, request_id=new_request())
        if name == other:
            assert self.call(sidecar, "MergeCarts", request) == "INVALID_ARGUMENT"
            return
        self.carts[name].merge(self.carts[other])
        self.change(sidecar, "MergeCarts", request, name)
        self.etags[other].append(self.call(sidecar, "GetCart", pb.GetCartRequest(user_id=other)).cart.etag)

    @rule(sidecar=sidecars, user=users, first=items, product=products, of=options)
    def apply(self, sidecar: int, user: int, first: Any, product: str, of: dict[str, str]) -> None:
        name = self.users[user]
        wanted = ModelCart(dict(self.carts[name].lines))
        fits = wanted.add(first) and wanted.set_quantity(product, of, 3)
        quantity = CartChange.SetItemQuantity(product_id=product, options=of, quantity=3)
        changes = [CartChange(add_item=first), CartChange(set_item_quantity=quantity)]
        request = pb.ApplyCartChangesRequest(user_id=name, changes=changes, request_id=new_request())
        if fits:
            self.carts[name] = wanted
            self.change(sidecar, "ApplyCartChanges", request, name)
        else:
            assert self.call(sidecar, "ApplyCartChanges", request) in {"NOT_FOUND", "FAILED_PRECONDITION"}

    @precondition(lambda self: self.done is not None and self.done[1].request_id)
    @rule(sidecar=sidecars)
    def repeat(self, sidecar: int) -> None:
        assert self.done is not None
        method, request, reply = self.done
        assert self.call(sidecar, method, request) == reply

    @rule()
    def redis_loses_everything(self) -> None:
        self.world.flush_redis()

    @precondition(lambda self: not self.is_restarted)
    @rule(sidecar=sidecars)
    def restart(self, sidecar: int) -> None:
        self.is_restarted = True
        self.world.restart(sidecar)

    @invariant()
    def both_sidecars_show_the_cart_of_the_model(self) -> None:
        for user in self.users:
            for sidecar in (0, 1):
                cart = self.call(sidecar, "GetCart", pb.GetCartRequest(user_id=user)).cart
                self.carts[user].check(cart)
                assert cart.etag == self.etags[user][-1]


def _same(one: Any, other: Any) -> bool:
    return one.product_id == other.product_id and one.options == other.options


@pytest.mark.timeout(900)  # a thousand calls and more, one after the other: minutes on a busy machine
async def test_carts_are_what_the_model_says(valkey: ValkeyServer, database: str, namespace: str) -> None:
    world = World(valkey.address, database, namespace)
    await world.start()
    try:
        await explore(lambda: CartMachine(world), examples=20, steps=20)
    finally:
        await world.stop()
