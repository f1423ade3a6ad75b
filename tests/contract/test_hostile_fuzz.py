"""Thousands of random requests: no INTERNAL, no UNKNOWN, no long trailers, and a sidecar that serves on.

Once without access control, and once over mutual TLS with every kind of certificate name and token: what a caller may not call
is refused for that reason whatever the request holds, and everything else is served as before.
"""

import asyncio
import hashlib
import time
from collections import Counter
from contextlib import AsyncExitStack
from functools import lru_cache
from itertools import count, cycle
from itertools import product as every
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import grpc
import psutil
import pytest
from google.protobuf.message import Message
from grpc import StatusCode

from cache_sidecar.v1 import (
    admin_service_pb2,
    inventory_service_pb2,
    product_service_pb2,
    recommendation_service_pb2,
    session_service_pb2,
    storefront_service_pb2,
    user_event_service_pb2,
)
from cache_sidecar.v1 import cart_service_pb2 as carts
from cache_sidecar.v1.cart_pb2 import Cart, CartChange, CartItem
from cache_sidecar.v1.session_pb2 import Session
from tests.contract.fuzz import FUZZ, FUZZ_SEED, Fuzzer, Request
from tests.contract.test_tls import AUTHORITY, SERVER, credentials
from tests.support import inside
from tests.support.authority import listen
from tests.support.customers import Customer, item, money
from tests.support.databases import run
from tests.support.recorder import BUY, SEARCH, event, new_event_id
from tests.support.recorder import product as event_product
from tests.support.shop import Open, Refusal, product, refusal
from tests.support.stockroom import Stockroom
from tests.support.until import DEADLINE, until

ALLOWED = {
    StatusCode.OK,
    StatusCode.INVALID_ARGUMENT,
    StatusCode.NOT_FOUND,
    StatusCode.ALREADY_EXISTS,
    StatusCode.ABORTED,
    StatusCode.FAILED_PRECONDITION,
    StatusCode.OUT_OF_RANGE,
}
STREAMS = {
    "/cache_sidecar.v1.ProductService/WatchProducts",
    "/cache_sidecar.v1.CartService/WatchCart",
    "/cache_sidecar.v1.InventoryService/WatchInventory",
    "/cache_sidecar.v1.UserEventService/StreamUserEvents",
}
CALLERS = 16
IDS = [f"p-{number}" for number in range(6)]
# Stand for the ids that are known only then; as long as those, so that what is around them stays valid.
SESSION_ID, RESERVATION_ID = "s" * 43, "11111111-1111-1111-1111-111111111111"
# Requests until all that is kept is there; from then on memory may grow by so many bytes.
WARM_UP, GROWTH = 20_000, 64 * 1024 * 1024


def valid(session_id: str, reservation_id: str) -> dict[str, Message]:
    """Returns a good request for every method, by path."""
    file, admin, sessions, stock = product_service_pb2, admin_service_pb2, session_service_pb2, inventory_service_pb2
    events, recommendations, pages = user_event_service_pb2, recommendation_service_pb2, storefront_service_pb2
    bought = {"user_id": "p-1", "recommendations": [{"product_id": "p-2", "score": 0.5}]}
    # An id of its own for each: one that comes back with another request is refused.
    line, uuids = item("p-1"), (str(UUID(int=number)) for number in count(1))
    requests: list[Message] = [
        file.GetProductRequest(product_id="p-1"),
        file.BatchGetProductsRequest(product_ids=["p-1", "none"]),
        file.ListProductsRequest(page_size=3),
        file.GetCategoriesRequest(),
        file.SearchProductsRequest(
            query='mug or "a b" -c',
            prefix=True,
            categories=["a"],
            min_price=product("p").price,
            attributes=[{"name": "color", "values": ["red"]}],
            facets=["brand", "attributes.color"],
        ),
        file.CreateProductRequest(product=product("\u2028")),
        file.UpdateProductRequest(product=product("p-2"), update_mask={"paths": ["title", "categories"]}),
        file.DeleteProductRequest(product_id="p-3"),
        file.WatchProductsRequest(),
        admin.InvalidateRequest(dataset="product", ids=["p-1"]),
        admin.GetStatsRequest(),
        admin.InspectKeyRequest(dataset="product", id="p-1"),
        admin.GetPolicyRequest(),
        admin.UpdatePolicyRequest(policy=admin.DatasetPolicy(dataset="product", rollout=50), reset_mask={"paths": ["shadow"]}),
        admin.UpdateLogLevelRequest(level=admin.LOG_LEVEL_WARNING, duration={"seconds": 60}),
        carts.GetCartRequest(user_id="p-1"),
        carts.ReplaceCartRequest(cart=Cart(user_id="p-1", items=[line, CartItem(product_id="p-2", quantity=1)])),
        carts.AddCartItemRequest(user_id="p-1", item=line, request_id=next(uuids)),
        carts.SetCartItemQuantityRequest(user_id="p-1", product_id="p-1", quantity=2),
        carts.RemoveCartItemRequest(user_id="p-1", product_id="p-1"),
        carts.ClearCartRequest(user_id="p-1"),
        carts.MergeCartsRequest(user_id="p-1", guest_user_id="p-2", request_id=next(uuids)),
        carts.ApplyCartChangesRequest(user_id="p-1", changes=[CartChange(add_item=line)], request_id=next(uuids)),
        carts.ListAbandonedCartsRequest(idle_for={"seconds": 3600}),
        carts.WatchCartRequest(user_id="p-1"),
        sessions.CreateSessionRequest(user_id="p-1", attributes={"a": "b"}),
        sessions.GetSessionRequest(session_id=session_id),
        sessions.TouchSessionRequest(session_id=session_id),
        sessions.UpdateSessionRequest(
            session=Session(session_id=session_id, attributes={"c": "d"}), update_mask={"paths": ["attributes"]}
        ),
        sessions.DeleteSessionRequest(session_id=session_id[::-1]),
        sessions.RotateSessionRequest(session_id=session_id[::-1]),
        sessions.ListUserSessionsRequest(user_id="p-1"),
        sessions.DeleteUserSessionsRequest(user_id="p-2"),
        stock.GetInventoryRequest(product_id="p-1"),
        stock.BatchGetInventoryRequest(product_ids=["p-1", "none"]),
        stock.SetInventoryRequest(product_id="p-2", available=1000),
        stock.AdjustInventoryRequest(product_id="p-2", delta=5, reason="counted", request_id=next(uuids)),
        stock.ReserveInventoryRequest(items=[{"product_id": "p-1", "quantity": 1}], user_id="p-1", request_id=next(uuids)),
        stock.ExtendReservationRequest(reservation_id=reservation_id, hold_duration={"seconds": 60}),
        stock.CommitReservationRequest(reservation_id=next(uuids)),
        stock.ReleaseReservationRequest(reservation_id=next(uuids)),
        stock.GetReservationRequest(reservation_id=reservation_id),
        stock.ListReservationsRequest(user_id="p-1"),
        stock.WatchInventoryRequest(product_ids=["p-1"]),
        events.WriteUserEventsRequest(events=[event("p-1", BUY, event_product("p-2", 2, "1.00 EUR"), value=money("2.00 EUR"))]),
        events.StreamUserEventsRequest(events=[event("p-1", SEARCH, search_query="a", event_id=new_event_id(time.time()))]),
        events.PurgeUserEventsRequest(user_id="p-1"),
        recommendations.GetRecommendationsRequest(user_id="p-1", cart_product_ids=["p-2"], page_size=5),
        recommendations.ImportRecommendationsRequest(batch_id="p-3", lists=[bought]),
        recommendations.DeleteRecommendationsRequest(product_id="p-1"),
        pages.GetHomePageRequest(user_id="p-1", session_id=session_id, recommendation_count=3),
        pages.GetCategoryPageRequest(page_size=3, user_id="p-1"),
        pages.GetProductPageRequest(product_id="p-1", user_id="p-1", session_id=session_id),
        pages.GetCartPageRequest(user_id="p-1", session_id=session_id),
        pages.GetCheckoutPageRequest(user_id="p-1", recommendation_count=0),
    ]
    made = {request.DESCRIPTOR.name: request for request in requests}
    return {
        f"/{service.full_name}/{method.name}": made[method.input_type.name]
        for described in (file, admin, carts, sessions, stock, events, recommendations, pages)
        for service in described.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


async def outcome(channel: grpc.aio.Channel, path: str, data: bytes, *, wait: float = 0.05, **more: Any) -> Refusal | None:
    """Sends a request; returns how it was refused, None if it was served, as is a watch that says nothing within `wait`.

    What is refused for overload is sent again, as clients do: a few of the largest requests are all that a connection may have at
    hand, and a busy machine lets calls wait.
    """
    while (refused := await _once(channel, path, data, wait, **more)) and refused.reason == "OVERLOADED":
        await asyncio.sleep(refused.retry_after or 0)
    return refused


async def _once(channel: grpc.aio.Channel, path: str, data: bytes, wait: float, **more: Any) -> Refusal | None:
    try:
        if path in STREAMS:
            await channel.unary_stream(path)(data, timeout=wait, **more).read()
        else:
            await channel.unary_unary(path)(data, **more)
    except grpc.aio.AioRpcError as error:
        if path in STREAMS and error.code() == StatusCode.DEADLINE_EXCEEDED:
            return None
        found = refusal(error)
        assert found.trailer_bytes < 8192, (path, data)
        assert found.reason, (path, data, error)
        return found
    return None


@lru_cache(maxsize=1)
def generated(count: int, seed: int) -> list[Request]:
    """Returns the same requests for each engine."""
    return Fuzzer(valid(SESSION_ID, RESERVATION_ID), [*IDS, SESSION_ID, RESERVATION_ID]).requests(count, chosen=seed)


async def test_nothing_random_is_our_fault(open_shop: Open, database: str, request: pytest.FixtureRequest) -> None:
    wanted: int = request.config.getoption("--fuzz", FUZZ)
    seed: int = request.config.getoption("--fuzz-seed", FUZZ_SEED)
    requests, made = valid(SESSION_ID, RESERVATION_ID), iter(generated(wanted, seed))
    await run(database, "SELECT cache_sidecar.index_products(1)")
    async with open_shop() as shop:
        for id in IDS:
            await shop.create(id)
        customer, stock = Customer(shop.sidecar), Stockroom(shop.channel)
        await stock.set("p-1", 1_000_000)
        session_id = await customer.create("somebody")
        reservation_id = (await stock.reserve({"p-1": 1})).reservation_id
        assert (len(session_id), len(reservation_id)) == (len(SESSION_ID), len(RESERVATION_ID))
        seen: Counter[tuple[str, StatusCode]] = Counter()
        sizes: dict[int, int] = {}

        async def call() -> None:
            for path, template in made:
                data = template.replace(SESSION_ID.encode(), session_id.encode())
                data = data.replace(RESERVATION_ID.encode(), reservation_id.encode())
                refused = await outcome(shop.channel, path, data)
                code = refused.code if refused else StatusCode.OK
                seen[path, code] += 1
                if seen.total() % WARM_UP == 0:
                    sizes[seen.total()] = psutil.Process().memory_info().rss
                assert code in ALLOWED, f"seed {seed}: {path} answered {code} to {data!r}"

        await asyncio.gather(*(call() for _ in range(CALLERS)))
        assert seen.total() >= wanted
        for path in requests:
            assert any(seen[path, code] for code in ALLOWED - {StatusCode.INVALID_ARGUMENT}), f"{path} was never served"
            if path.split("/")[-1] != "GetPolicy":
                assert seen[path, StatusCode.INVALID_ARGUMENT], path
        assert max(sizes.values(), default=0) - min(sizes.values(), default=0) < GROWTH, sizes
        created = await shop.create("after")
        assert (await shop.get("after", bypass=True)).product == created
        await until(lambda: inside.stack_of(shop.app.server).admission.inside == 0)


ADMIN = "/cache_sidecar.v1.AdminService/"
NEEDS = {
    f"{ADMIN}GetStats": "read",
    f"{ADMIN}InspectKey": "read",
    f"{ADMIN}GetPolicy": "read",
    f"{ADMIN}Invalidate": "admin",
    f"{ADMIN}UpdatePolicy": "admin",
    f"{ADMIN}UpdateLogLevel": "admin",
}
# Names of certificates and tokens, and the roles that they are given; one is given none, and one is not listed at all.
ROLES = {
    "cart": "app",
    "board": "read",
    "ops": "admin",
    "worker": "app read",
    "all": "app read admin",
    "plain": "",
    "stranger": None,
}
NO_TOKEN, NOT_BEARER, TWO_TOKENS = "no token", "not a bearer token", "a wrong token, then the right one"


def token(name: str) -> str:
    """Returns the token of a name: always the same, so that a seed is enough to repeat a run."""
    return hashlib.sha256(name.encode()).hexdigest()


class Identity(NamedTuple):
    """What a caller shows."""

    certificate: str
    token: str

    def metadata(self) -> list[tuple[str, str]]:
        """Returns the metadata of its calls."""
        given = {
            NO_TOKEN: [],
            NOT_BEARER: [f"Basic {token('all')}"],
            TWO_TOKENS: [f"Bearer {token('stranger')}", f"bearer {token('all')}"],
        }
        return [("authorization", value) for value in given.get(self.token, [f"Bearer {token(self.token)}"])]

    def refusal(self, path: str) -> str:
        """Returns the reason for which it may not call a method, empty if it may."""
        of_token = ROLES.get("all" if self.token == TWO_TOKENS else self.token)
        of_name = ROLES[self.certificate]
        if of_token is None:
            return "INVALID_TOKEN"
        if of_name is None:
            return "CLIENT_NOT_ALLOWED"
        given = [set(roles.split()) | ({"read"} if "admin" in roles else set()) for roles in (of_token, of_name) if roles]
        # Without any role: the data services, and over loopback what only reads.
        has = set.intersection(*given) if given else {"app", "read"}
        return "" if NEEDS.get(path, "app") in has else "ROLE_MISSING"


IDENTITIES = [Identity(*both) for both in every(ROLES, [*ROLES, NO_TOKEN, NOT_BEARER, TWO_TOKENS])]


async def test_what_a_caller_may_not_call_is_refused_whatever_it_sends(
    open_shop: Open, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    wanted: int = request.config.getoption("--fuzz", FUZZ)
    seed: int = request.config.getoption("--fuzz-seed", FUZZ_SEED)
    listed = {name: roles for name, roles in ROLES.items() if roles is not None}
    tokens = tmp_path / "tokens"
    tokens.write_text(
        "".join(
            f"{name} {roles.replace(' ', ',')} {token(name)}\n" if roles else f"{token(name)}\n"
            for name, roles in listed.items()
        )
    )
    tokens.chmod(0o600)
    settings = listen(tmp_path, SERVER, AUTHORITY.cert) | {
        "access_tokens_file": str(tokens),
        "allowed_clients": ", ".join(f"{name}.shop {roles.replace(' ', '+')}".rstrip() for name, roles in listed.items()),
        "local_admin": False,
    }
    of_all = credentials(AUTHORITY.client("all.shop"))
    async with AsyncExitStack() as stack:
        # What there is to find is made at a sidecar of its own, as tests of other subjects make it: without certificates.
        plain, shop = (
            await stack.enter_async_context(open_shop()),
            await stack.enter_async_context(open_shop(credentials=of_all, **settings)),
        )
        for id in IDS:
            await plain.create(id)
        customer, stock = Customer(plain.sidecar), Stockroom(plain.channel)
        await stock.set("p-1", 1_000_000)
        session_id, reservation_id = await customer.create("somebody"), (await stock.reserve({"p-1": 1})).reservation_id
        channels = {
            name: await stack.enter_async_context(
                grpc.aio.secure_channel(shop.address, credentials(AUTHORITY.client(f"{name}.shop")))
            )
            for name in ROLES
        }
        made, callers = iter(generated(wanted, seed)), cycle(IDENTITIES)
        seen: Counter[tuple[Identity, str]] = Counter()

        async def call() -> None:
            for (path, template), identity in zip(made, callers, strict=False):
                data = template.replace(SESSION_ID.encode(), session_id.encode())
                data = data.replace(RESERVATION_ID.encode(), reservation_id.encode())
                expected, more = identity.refusal(path), {"metadata": identity.metadata()}
                refused = await outcome(channels[identity.certificate], path, data, wait=DEADLINE if expected else 0.05, **more)
                reason = refused.reason if refused else ""
                seen[identity, expected] += 1
                case = f"seed {seed}: {identity} at {path}: {refused} to {data!r}"
                if expected or reason in {"INVALID_TOKEN", "CLIENT_NOT_ALLOWED", "ROLE_MISSING"}:
                    assert reason == expected, case
                else:
                    assert refused is None or refused.code in ALLOWED, case

        await asyncio.gather(*(call() for _ in range(CALLERS)))
        assert {identity for identity, _ in seen} == set(IDENTITIES)
        assert {reason for _, reason in seen} == {"", "INVALID_TOKEN", "CLIENT_NOT_ALLOWED", "ROLE_MISSING"}
        await until(lambda: inside.stack_of(shop.app.server).admission.inside == 0)
