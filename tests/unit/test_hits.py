"""Replies made from the bytes of a request, without parsing it."""

from collections.abc import Callable

import pytest

from cache_sidecar.config.policy import default
from cache_sidecar.server.middleware import Middleware
from cache_sidecar.services.shared import fast_path
from cache_sidecar.tiers.memory.clock import ClockL1
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.path.tiers import Tiers
from cache_sidecar.tiers.ports import PARTITIONS, Record, Source, partition_of
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.l2 import RedisL2
from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.cache_pb2 import SOURCE_L1
from cache_sidecar.v1.product_pb2 import Product
from cache_sidecar.v1.product_service_pb2_grpc import add_ProductServiceServicer_to_server
from tests.support.clocks import ManualClock
from tests.support.dataset_case import redis_settings

NOW = 1_000_000.0
POLICY = default()["product"]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def l1() -> ClockL1:
    memory = ClockL1(max_bytes=1 << 20, max_entries=100)
    for partition in range(PARTITIONS):
        memory.set_trusted(partition, True, now=NOW)
    return memory


@pytest.fixture
def dataset(l1: ClockL1, clock: ManualClock) -> Dataset:
    nobody = RedisL2(RedisClient(redis_settings("127.0.0.1:1")), KeyNames("test"))
    return Dataset(Tiers(name="product", l1=l1, l2=nobody, load=None, l2_guard=None, policy=lambda: POLICY, clock=clock))  # type: ignore[arg-type]


@pytest.fixture
def answer(dataset: Dataset) -> Callable[[bytes], bytes | None]:
    return fast_path.by_id(dataset)


def keep(l1: ClockL1, id: str, version: int = 7) -> None:
    value = pb.GetProductResponse(product=Product(product_id=id, title="a mug")).SerializeToString()
    assert l1.put(id, Record(version, NOW - 1.5, value), generation=l1.generation(id), expires_from=NOW)


def asking(id: str) -> bytes:
    return pb.GetProductRequest(product_id=id).SerializeToString()


@pytest.mark.parametrize("id", ["a", "Tasse-größe-7", "x" * 127])
def test_a_hit_is_the_reply_with_its_metadata(l1: ClockL1, dataset: Dataset, answer: Callable, id: str) -> None:
    keep(l1, id)
    reply = pb.GetProductResponse.FromString(answer(asking(id)))
    assert reply.product == Product(product_id=id, title="a mug")
    assert (reply.cache.source, reply.cache.version, reply.cache.stale) == (SOURCE_L1, 7, False)
    assert reply.cache.age.ToNanoseconds() == 1_500_000_000
    assert dataset.stats()[Source.L1].counters.hits == 1


def test_each_reply_has_metadata_of_its_own(l1: ClockL1, clock: ManualClock, answer: Callable) -> None:
    keep(l1, "a", version=7)
    keep(l1, "b", version=8)
    first = answer(asking("a"))
    clock.advance(10.25)
    second = answer(asking("b"))
    caches = [pb.GetProductResponse.FromString(reply).cache for reply in (first, second)]
    assert [(cache.version, cache.age.ToNanoseconds()) for cache in caches] == [(7, 1_500_000_000), (8, 11_750_000_000)]


def test_a_clock_that_was_set_back_makes_no_negative_age(l1: ClockL1, clock: ManualClock, answer: Callable) -> None:
    keep(l1, "a")
    clock.advance(-10)
    assert pb.GetProductResponse.FromString(answer(asking("a"))).cache.age.ToNanoseconds() == 0


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x0a", id="half a tag"),
        pytest.param(b"\x0a\x00", id="an empty id"),
        pytest.param(asking("b"), id="another id"),
        pytest.param(asking("a") + b"\x12\x00", id="options, empty"),
        pytest.param(asking("a") + b"\x12\x02\x10\x01", id="options"),
        pytest.param(asking("a") + asking("b"), id="an id twice"),
        pytest.param(asking("a")[:-1], id="cut off"),
        pytest.param(b"\x12" + asking("a")[1:], id="another field"),
        pytest.param(b"\x0a\x01\xff", id="no UTF-8"),
        pytest.param(asking("x" * 128), id="a length of two bytes"),
        # Read as one byte, the length would fit.
        pytest.param(b"\x0a\x82\x01" + b"x" * 129, id="a length that looks like one byte"),
    ],
)
def test_anything_else_takes_the_whole_way(l1: ClockL1, dataset: Dataset, answer: Callable, request_: bytes) -> None:
    keep(l1, "a")
    keep(l1, "x" * 128)
    keep(l1, "\x01" + "x" * 129)
    assert answer(request_) is None
    assert dataset.stats()[Source.L1].counters.hits == 0


def test_what_is_to_be_refreshed_stale_deleted_or_unknown_takes_the_whole_way(
    l1: ClockL1, dataset: Dataset, clock: ManualClock, answer: Callable
) -> None:
    for id, version in (("deleted", 3), ("unknown", 0)):
        assert l1.put(id, Record(version, NOW, None), generation=l1.generation(id), expires_from=NOW)
        assert answer(asking(id)) is None
    keep(l1, "a")
    l1.set_trusted(partition_of("a"), False, now=NOW)
    assert answer(asking("a")) is None
    l1.set_trusted(partition_of("a"), True, now=NOW)
    clock.advance(POLICY.l1_soft_ttl - 0.001)
    assert answer(asking("a")) is not None
    clock.advance(0.001)
    assert answer(asking("a")) is None
    assert dataset.stats()[Source.L1].counters.hits == 1


class Whole:
    """A service whose every method says what it got."""

    async def GetProduct(self, request: object, context: object) -> bytes:
        return type(request).__name__.encode()

    BatchGetProducts = ListProducts = GetCategories = SearchProducts = CreateProduct = UpdateProduct = DeleteProduct = (
        WatchProducts
    ) = GetProduct


class Engine:
    """Keeps what is registered."""

    def __init__(self) -> None:
        self.handlers: dict = {}

    def add_registered_method_handlers(self, _service: str, handlers: dict) -> None:
        self.handlers.update(handlers)


async def test_the_stack_asks_first_and_only_for_the_methods_named() -> None:
    engine = Engine()
    # The same bytes are a request for one product and for a batch of one.
    known = {asking("a"): b"a hit"}
    Middleware(max_calls=1, max_calls_each=1, max_streams=1, max_streams_each=1, max_reply=1 << 20).register(
        add_ProductServiceServicer_to_server, Whole(), engine, fast_path={"GetProduct": known.get}
    )
    get, batch_get = engine.handlers["GetProduct"].unary_unary, engine.handlers["BatchGetProducts"].unary_unary
    assert await get(asking("a"), None) == b"a hit"
    assert await get(asking("b"), None) == b"GetProductRequest"
    assert await batch_get(asking("a"), None) == b"BatchGetProductsRequest"
