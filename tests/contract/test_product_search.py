"""SearchProducts: what is found, filtered and counted. How results are cached is in `test_product_search_cached.py`."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import pytest

from cache_sidecar.relay.product_search import ProductIndex
from cache_sidecar.services import product_search
from cache_sidecar.store import product_search as store
from cache_sidecar.store.database import Database
from cache_sidecar.store.outbox import Outbox
from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.cache_pb2 import ReadOptions
from tests.support.customers import money
from tests.support.databases import RELAY, as_role, open_database, run
from tests.support.shop import Shop, admitted, new_id, refused

ANEW = ReadOptions(bypass=True)


class Catalogue:
    """Products of one brand, which every search here asks for: the database has others'."""

    def __init__(self, shop: Shop, database: Database) -> None:
        self.shop = shop
        self.database = database
        self.brand = new_id("brand")

    async def add(self, name: str, title: str, **fields: Any) -> None:
        await self.shop.create(f"{self.brand}-{name}", title=title, brand=self.brand, **fields)

    async def search(self, query: str, **fields: Any) -> pb.SearchProductsResponse:
        request = pb.SearchProductsRequest(query=query, **{"brands": [self.brand], "options": ANEW} | fields)
        reply: pb.SearchProductsResponse = await admitted(lambda: self.shop.products.SearchProducts(request))
        return reply

    async def names(self, query: str, **fields: Any) -> list[str]:
        """Returns the names of the products that a search finds, in the order of their relevance."""
        return [one.product_id.rpartition("-")[2] for one in (await self.search(query, **fields)).products]

    async def found(self, query: str, **fields: Any) -> set[str]:
        return set(await self.names(query, **fields))

    async def index(self) -> None:
        """Does what a relay does after changes."""
        await Outbox(self.database).sequence()
        await ProductIndex(store.ProductSearchStore(self.database)).step()


Make = Callable[[], Catalogue]


@pytest.fixture(scope="package")
async def make(shops: tuple[Shop, Shop], shared_database: str) -> AsyncIterator[Make]:
    async with open_database(as_role(RELAY, shared_database)) as database:
        yield lambda: Catalogue(shops[0], database)


@pytest.fixture(scope="package")
async def goods(make: Make) -> Catalogue:
    made = make()
    mugs, tables = ["kitchen/mugs", "gifts"], ["furniture"]
    await made.add("old", "An old coffee mug", categories=mugs, active=False)
    red = {"attributes": {"color": "red", "size": "small"}, "price": money("12.50 EUR")}
    await made.add("red", "Red coffee mug", categories=mugs, **red)
    await made.add("blue", "Blue coffee mug", categories=mugs[:1], attributes={"color": "blue"}, price=money("8.00 EUR"))
    await made.add("cup", "Teacup", description="A mug for tea", attributes={"color": "red"}, price=money("5.00 EUR"))
    await made.add("shoes", "Running shoes", price=money("90.00 EUR"))
    await made.add("solid", "Solid oak table", categories=tables, price=money("300.00 EUR"))
    await made.add("other", "Oak table, not solid", categories=tables, price=money("300.00 USD"))
    await made.add("last", "Zebra-striped rug; it's 100% wool", categories=tables)
    await made.index()
    return made


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("coffee mug", "red blue"),
        ("  COFFEE\t mUg ", "red blue"),
        ("mugs", "red blue cup"),
        ("run shoe", "shoes"),
        ('"solid oak"', "solid"),
        ("solid oak", "solid other"),
        ("coffee or oak -blue", "red solid other blue"),
        ("mug -blue", "red cup"),
        ('coffee -"red coffee"', "blue"),
        ("kitchen", "red blue"),
        ("small", "red"),
        ("zebra-striped", "last"),
        ("it's wool", "last"),
        ("mug - blue", "blue"),
        ("mug --blue", "red cup"),
        ("coffee shoes", ""),
        ("the", ""),
        ("-coffee", ""),
        (" ", ""),
        ("coffee & ! | ( ) : * ' \\ <->", "red blue"),
        ("💥", ""),
    ],
)
async def test_the_syntax_is_that_of_the_web(goods: Catalogue, query: str, wanted: str) -> None:
    assert await goods.found(query) == set(wanted.split())


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("cof", "red blue"),
        ("c", "red blue cup"),
        ("blue cof", "blue"),
        ("runni", "shoes"),
        ("t", "cup solid other"),
        ("oak or sho", "solid other shoes"),
        ("oak or red cof", "solid other red"),
        ("coffee -bl", "red blue"),
        ("coffee -blue m", "red"),
        ("cof ", ""),
        ('"cof', ""),
        ("zebra-str", "last"),
        ("the", ""),
        ("it'", "last"),
        ("x\\", ""),
        ("')", ""),
    ],
)
async def test_the_last_word_may_be_a_beginning(goods: Catalogue, query: str, wanted: str) -> None:
    assert await goods.found(query, prefix=True) == set(wanted.split())


async def test_titles_count_more_than_descriptions(goods: Catalogue) -> None:
    assert (await goods.names("mug"))[-1] == "cup"
    assert await goods.names(f"{goods.brand}-cup") == ["cup"], "by its id"


async def test_only_active_products_are_found(goods: Catalogue) -> None:
    assert await goods.found("old") == set()


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"categories": ["gifts"]}, "red"),
        ({"categories": ["gifts", "kitchen/mugs"]}, "red blue"),
        ({"categories": ["kitchen"]}, ""),
        ({"brands": ["none"]}, ""),
        ({"min_price": "8.00 EUR"}, "red blue"),
        ({"min_price": "8.01 EUR"}, "red"),
        ({"max_price": "8.00 EUR"}, "blue cup"),
        ({"min_price": "5.01 EUR", "max_price": "12.49 EUR"}, "blue"),
        ({"max_price": "900.00 USD"}, ""),
        ({"attributes": [{"name": "color", "values": ["red"]}]}, "red cup"),
        ({"attributes": [{"name": "color", "values": ["blue", "red"]}]}, "red blue cup"),
        ({"attributes": [{"name": "color", "values": ["red"]}, {"name": "size", "values": ["small"]}]}, "red"),
        ({"attributes": [{"name": "none", "values": ["red"]}]}, ""),
        ({"categories": ["gifts"], "max_price": "12.00 EUR"}, ""),
    ],
)
async def test_filters_restrict_what_is_found_and_counted(goods: Catalogue, filters: dict[str, Any], wanted: str) -> None:
    prices = {name: money(value) for name, value in filters.items() if name.endswith("price")}
    assert await goods.found("mug", **filters | prices) == set(wanted.split())
    assert (await goods.search("mug", **filters | prices)).total_size == len(wanted.split())


async def test_facets_count_the_matches_by_value(goods: Catalogue) -> None:
    wanted = ["attributes.color", "categories", "brand", "attributes.none"]
    reply = await goods.search("mug", facets=wanted, page_size=1)
    assert [facet.name for facet in reply.facets] == wanted
    counted = [{value.value: value.count for value in facet.values} for facet in reply.facets]
    assert counted == [{"red": 2, "blue": 1}, {"kitchen/mugs": 2, "gifts": 1}, {goods.brand: 3}, {}]
    assert [value.value for value in reply.facets[0].values] == ["red", "blue"], "the most frequent first"
    assert (reply.total_size, reply.has_more_matches, len(reply.products)) == (3, False, 1)
    assert not (await goods.search("nothing", facets=wanted)).facets[0].values


async def test_pages_have_every_product_once_in_order(goods: Catalogue) -> None:
    whole, found, token = await goods.names("mug or table"), [], ""
    for _ in range(len(whole)):
        reply = await goods.search("mug or table", page_size=2, page_token=token)
        found += [one.product_id.rpartition("-")[2] for one in reply.products]
        if not (token := reply.next_page_token):
            break
    assert not token
    assert found == whole
    assert len(set(found)) == 5


async def test_a_token_belongs_to_its_search(goods: Catalogue) -> None:
    token = (await goods.search("mug", page_size=1)).next_page_token
    assert len(await goods.names("MUG", page_token=token, facets=["brand"])) == 2
    for other in ({"query": "oak"}, {"query": "mug", "categories": ["gifts"]}, {"query": "mug", "prefix": True}):
        found = await refused(goods.search(**{"page_token": token} | other))  # type: ignore[arg-type]
        assert (found.code, list(found.violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_token"])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"query": ""}, "query"),
        ({"query": "a" * 257}, "query"),
        ({"query": "a\x00"}, "query"),
        ({"query": "-a " * 17}, "query"),
        ({"min_price": money("1.00 EUR"), "max_price": money("2.00 USD")}, "max_price"),
        ({"min_price": money("2.00 EUR"), "max_price": money("1.00 EUR")}, "max_price"),
        ({"facets": ["price"]}, "facets[0]"),
        ({"facets": ["attributes."]}, "facets[0]"),
        ({"facets": ["brand", "brand"]}, "facets"),
        ({"categories": ["x"] * 17}, "categories"),
        ({"attributes": [{"name": "color"}]}, "attributes[0].values"),
        ({"attributes": [{"name": "a", "values": ["v" * 1024] * 5}], "brands": ["\U0001f4a5" * 128] * 16}, ""),
        ({"attributes": [{"name": str(n), "values": ["v" * 1000]} for n in range(8)]}, "query"),
        ({"page_size": -1}, "page_size"),
    ],
)
async def test_a_request_that_breaks_a_rule_is_rejected(goods: Catalogue, fields: dict[str, Any], field: str) -> None:
    call = goods.search(**{"query": "mug"} | fields)
    if not field:
        assert not (await call).products, "equal values count once"
        return
    found = await refused(call)
    assert (found.code, list(found.violations)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


@pytest.mark.parametrize(
    "query",
    [
        "a " * 128,
        "or " * 85,
        '"' * 256,
        "-" * 256,
        "a or " * 51,
        "(" * 128 + ")" * 128,
        "\U0001f4a5" * 256,
        "word" * 64,
        "' || pg_sleep(9) --",
        "\\':*&!",
        "\u202e\ufeff\uffff",
        "%s %(a)s {x}",
    ],
)
@pytest.mark.parametrize("prefix", [False, True])
async def test_hostile_queries_find_nothing_and_harm_nobody(goods: Catalogue, query: str, prefix: bool) -> None:
    assert not (await goods.search(query, prefix=prefix, brands=["none"], facets=["brand", "attributes.' or true"])).products
    assert await goods.found("coffee") == {"red", "blue"}


async def test_a_changed_product_is_found_by_what_it_is_now(make: Make) -> None:
    made = make()
    await made.add("p", "A first title")
    await made.index()
    assert (await made.search("first")).total_size == 1
    id = f"{made.brand}-p"
    await made.shop.update(id, "title", title="A second title")
    await made.index()
    assert (await made.search("second")).total_size == 1
    assert not await made.found("first")
    await made.shop.update(id, "active", active=False)
    await made.index()
    assert (await made.search("second")).total_size == 0
    await made.shop.update(id, "active", active=True)
    await made.index()
    assert (await made.search("second")).total_size == 1
    await made.shop.delete(id)
    await made.index()
    assert (await made.search("second")).total_size == 0


async def insert(made: Catalogue, dsn: str, count: int, title: str, description: str = "") -> None:
    """Inserts and indexes products with numbers as names."""
    await run(
        dsn,
        """INSERT INTO cache_sidecar.products (product_id, title, description, brand, price_units, currency_code)
           SELECT %s || '-' || lpad(n::text, 3, '0'), %s, %s, %s, 1, 'EUR' FROM generate_series(0, %s - 1) AS n""",
        [made.brand, title, description, made.brand, count],
    )
    await made.index()


async def test_the_first_500_products_can_be_reached_and_all_are_counted(make: Make, shared_database: str) -> None:
    made = make()
    count = store.DEPTH + 20
    await insert(made, shared_database, count, "An equal title")
    found: list[str] = []
    token, sizes = "", []
    while True:
        reply = await made.search("equal", page_size=1000, page_token=token)
        found += [one.product_id for one in reply.products]
        sizes.append(len(reply.products))
        if not (token := reply.next_page_token):
            break
    assert reply.total_size == count
    assert found == [f"{made.brand}-{n:03}" for n in range(store.DEPTH)], "equally relevant, so by their ids"
    assert sizes == [product_search.MAX_SIZE] * 5


def _ids(products: Sequence[Any]) -> list[str]:
    return [one.product_id for one in products]


async def test_products_that_do_not_fit_are_on_the_next_page(make: Make, shared_database: str) -> None:
    made = make()
    # 16,000 characters of three bytes each: 100 of them exceed 4 MiB.
    await insert(made, shared_database, 90, "A long text", "語" * 16_000)
    first = await made.search("long", page_size=100)
    assert 0 < len(first.products) < 90
    second = await made.search("long", page_size=100, page_token=first.next_page_token)
    assert not second.next_page_token
    assert _ids([*first.products, *second.products]) == [f"{made.brand}-{n:03}" for n in range(90)]
