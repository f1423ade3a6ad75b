"""Two sidecars change one cart at the same time, one of them without Redis: the cart is what PostgreSQL's order makes of it."""

import asyncio
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cache_sidecar.devstack.valkey import ValkeyServer
from cache_sidecar.v1 import cart_service_pb2 as pb
from cache_sidecar.v1.cart_pb2 import Cart, CartItem
from tests.support.cart_model import ModelCart, lines_of
from tests.support.customers import Customer, item, new_request, new_user
from tests.support.launch import in_process, settings_for
from tests.support.proxy import Proxy


@dataclass(frozen=True)
class Step:
    """One change."""

    kind: str
    product: str
    quantity: int

    def line(self) -> CartItem:
        return item(self.product, self.quantity, f"{self.quantity}.50 EUR")


# The second change of each may find what it wants done by the other.
NOTHING_TO_CHANGE = ([Step("add", "a", 1), Step("set", "b", 1)], [Step("add", "b", 1), Step("set", "a", 1)])


@dataclass(frozen=True)
class Done:
    """A step that was acknowledged, with the cart it led to and the etag that it was based on."""

    step: Step
    cart: Cart
    etag: str


steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(["add", "set", "remove", "clear", "replace what was read"]),
        st.sampled_from(["a", "b", "c"]),
        st.integers(1, 5),
    ),
    min_size=1,
    max_size=6,
)


async def _make(customer: Customer, user: str, wanted: Sequence[Step]) -> list[Done]:
    """Makes changes one after the other; what is replaced is what the sidecar shows, up to date or not."""
    done = []
    for step in wanted:
        etag = ""
        try:
            if step.kind == "replace what was read":
                seen = await customer.cart(user)
                etag = seen.etag
                cart = await customer.replace(user, *seen.items[:1], step.line(), etag=etag)
            else:
                cart = (await _call(customer, user, step)).cart
        except AioRpcError as error:
            # A change that is refused changes nothing.
            assert error.code() in (StatusCode.NOT_FOUND, StatusCode.ABORTED, StatusCode.INVALID_ARGUMENT), error
            continue
        done.append(Done(step, cart, etag))
    return done


def _call(customer: Customer, user: str, step: Step) -> Any:
    match step.kind:
        case "add":
            request = pb.AddCartItemRequest(user_id=user, item=step.line(), request_id=new_request())
            return customer.carts.AddCartItem(request)
        case "set":
            wanted = pb.SetCartItemQuantityRequest(user_id=user, product_id=step.product, quantity=step.quantity)
            return customer.carts.SetCartItemQuantity(wanted)
        case "remove":
            return customer.carts.RemoveCartItem(pb.RemoveCartItemRequest(user_id=user, product_id=step.product))
        case _:
            return customer.carts.ClearCart(pb.ClearCartRequest(user_id=user))


def _replay(changes: Sequence[Done]) -> ModelCart:
    """Makes the changes in the order of their versions, and compares every reply with the model."""
    model, etag = ModelCart(), "0"
    for version, alike in groupby(sorted(changes, key=_version), key=_version):
        made = list(alike)
        if version:
            before, etag = etag, made[0].cart.etag
            model = _remade(model, made, before)
        # The others found the cart as they wanted it: they changed nothing, and were told the version that was there.
        for done in made:
            again = deepcopy(model)
            assert _apply(again, done, etag)
            assert again == model
            model.check(done.cart)
    return model


def _version(done: Done) -> int:
    return int(done.cart.etag, 16)


def _remade(model: ModelCart, made: list[Done], etag: str) -> ModelCart:
    """Returns the cart after the one of the changes that made their version, and takes that one out."""
    for done in made:
        after = deepcopy(model)
        if _apply(after, done, etag) and after != model and list(after.lines.items()) == list(lines_of(done.cart).items()):
            made.remove(done)
            return after
    raise AssertionError(f"none of {made} makes of {model} what they were told")


def _apply(model: ModelCart, done: Done, etag: str) -> bool:
    """Makes a change; False when it would have been refused with the cart as it is, at that etag."""
    step = done.step
    match step.kind:
        case "add":
            return model.add(step.line())
        case "set":
            return model.set_quantity(step.product, {}, step.quantity)
        case "remove":
            model.remove(step.product, {})
        case "clear":
            model.lines.clear()
        case _:
            if done.etag != etag:
                return False
            kept = dict(list(model.lines.items())[:1])
            model.lines.clear()
            model.lines.update(kept)
            return model.add(step.line())
    return True


async def _interleave(first: Customer, second: Customer, plans: tuple[list[Step], list[Step]]) -> None:
    user = new_user()
    done = await asyncio.gather(_make(first, user, plans[0]), _make(second, user, plans[1]))
    model = _replay([*done[0], *done[1]])
    for customer in (first, second):
        model.check(await customer.cart(user, bypass=True))


# The sidecars run in another thread than Hypothesis, and may use `random` while a plan is drawn: that is not the plan's.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning")
async def test_concurrent_changes_are_what_postgresqls_order_makes_of_them(
    valkey: ValkeyServer, database: str, namespace: str
) -> None:
    def sidecar(redis: str) -> Any:
        made = settings_for(redis, database, namespace, redis_mode="single", redis_timeout=0.5)
        return in_process(made)

    async with Proxy(valkey.address) as proxy, sidecar(proxy.address) as one, sidecar(valkey.address) as other:
        first, second = Customer(one), Customer(other)
        loop = asyncio.get_running_loop()

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None, print_blob=True)
        @given(st.tuples(steps, steps), st.booleans())
        @example(NOTHING_TO_CHANGE, False)
        def explore(plans: tuple[list[Step], list[Step]], is_partitioned: bool) -> None:
            async def interleave() -> None:
                if is_partitioned:
                    proxy.cut()
                try:
                    await _interleave(first, second, plans)
                finally:
                    await proxy.heal()

            asyncio.run_coroutine_threadsafe(interleave(), loop).result(60)

        await asyncio.to_thread(explore)
