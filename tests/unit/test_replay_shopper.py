"""What becomes of an invoice, and what is noticed on the pages that its shopper sees."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest

from cache_sidecar.core.errors import InputError
from cache_sidecar.replay.arm import Card, Customer, EndState, Page, PageFailed
from cache_sidecar.replay.order_file import LIST, MOST_PIECES, Shop, read_shop, spread
from cache_sidecar.replay.run import differences
from cache_sidecar.replay.shopper import Habits, Kind, Outcome, Prices, Shoppers, decide

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"


def orders(file: Path, invoices: int = 20) -> Path:
    """Invented orders, with what real ones have: cancellations, postage, codes in both cases, guests, large quantities."""
    chance = random.Random(5)
    lines = []
    for number in range(invoices):
        invoice = f"{'C' if number % 7 == 6 else ''}{536_000 + number}"
        customer = "" if number % 4 == 3 else str(17_000 + number % 5)
        for _ in range(chance.randint(2, 5)):
            code = f"{84_000 + chance.randrange(30)}{chance.choice(['', 'A', 'a'])}"
            pieces = chance.choice([1, 2, 6, 2_000])
            lines.append(f"{invoice},{code},KITE {code},{pieces},2011-03-01 09:{number:02}:00,2.50,{customer},Eire\n")
        lines.append(f"{invoice},POST,POSTAGE,1,2011-03-01 09:{number:02}:00,18.00,{customer},Eire\n")
    file.write_text(HEADER + "".join(lines))
    return file


@pytest.fixture
async def shop(tmp_path: Path) -> Shop:
    return await read_shop(str(orders(tmp_path / "orders.csv")))


async def test_the_shop_in_a_file(shop: Shop) -> None:
    assert len(shop.visits) == 18, "without the cancelled invoices"
    assert not any(product_id == "POST" or product_id.endswith("a") for product_id in shop.products)
    assert all(product.pence == 250 and product.title.startswith("KITE") for product in shop.products.values())
    assert max(quantity for visit in shop.visits for _, quantity in visit.lines) == MOST_PIECES
    assert all(
        product.stock > sum(dict(visit.lines).get(product.product_id, 0) for visit in shop.visits)
        for product in shop.products.values()
    )
    assert [visit.time for visit in shop.visits[:2]] == [0.0, 60.0]
    # As often as it was bought.
    assert shop.weights[-1] == len(shop.sales.sales)
    for product_id, others in shop.related.items():
        assert product_id not in others
        assert len(others) == LIST == len(set(others))
    assert shop.home.keys() == {visit.customer_id for visit in shop.visits} - {""}


async def test_files_that_cannot_be_replayed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*missing\.csv: No such file"):
        await read_shop(str(tmp_path / "missing.csv"))
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(InputError):
        await read_shop(str(other))
    empty = tmp_path / "empty.csv"
    empty.write_text(HEADER + "C1,84000,KITE,1,2011-03-01 09:00:00,2.50,,Eire\n")
    with pytest.raises(InputError, match="has no sales"):
        await read_shop(str(empty))


async def test_some_visits_are_spread_over_the_file(shop: Shop) -> None:
    assert spread(shop.visits, None) == spread(shop.visits, 1000) == shop.visits
    assert spread(shop.visits, 3) == [shop.visits[0], shop.visits[6], shop.visits[12]]


async def test_an_invoice_becomes_the_same_visit_each_time(shop: Shop) -> None:
    habits = Habits(views=10)
    visit = shop.visits[2]
    decision = decide(visit, shop, habits)
    assert decision == decide(visit, shop, habits)
    assert decision != decide(visit, shop, habits._replace(seed=2))
    kinds = Counter(step.kind for step in decision.steps)
    count = len(visit.lines)
    assert kinds[Kind.HOME] == kinds[Kind.CART] == 1
    assert kinds[Kind.ADD] == count
    assert kinds[Kind.CATEGORY] + kinds[Kind.PRODUCT] == 10 * count
    added = [(step.id, step.quantity) for step in decision.steps if step.kind is Kind.ADD]
    assert added == list(visit.lines)
    for before, step in zip(decision.steps, decision.steps[1:], strict=False):
        if step.kind is Kind.ADD:
            assert (before.kind, before.id) == (Kind.PRODUCT, step.id), "the product's page is looked at before"


async def test_what_is_bought_often_is_viewed_often(shop: Shop) -> None:
    views = Counter(
        step.id for visit in shop.visits for step in decide(visit, shop, Habits(views=200)).steps if step.kind is Kind.PRODUCT
    )
    bought = Counter(product_id for visit in shop.visits for product_id, _ in visit.lines)
    (often, most), *_, (_, least) = bought.most_common()
    assert most > 2 * least
    assert views[often] > 1.5 * views.total() / len(shop.products)


async def test_who_logs_in_and_who_leaves(shop: Shop) -> None:
    def decisions(**habits: object) -> list[tuple[bool, bool]]:
        return [decide(visit, shop, Habits(views=1)._replace(**habits))[1:3] for visit in shop.visits]

    assert [known for known, _ in decisions()] == [bool(visit.customer_id) for visit in shop.visits]
    assert decisions(known=1.0, abandoned=1.0) == [(True, True)] * len(shop.visits)
    assert decisions(known=0.0, abandoned=0.0) == [(False, False)] * len(shop.visits)
    users = [decide(visit, shop, Habits(known=0.0)).user_id for visit in shop.visits]
    assert len(set(users)) == len(users), "each guest has a cart of its own"


def test_how_old_a_price_is() -> None:
    prices = Prices({"a": 100, "b": 100})
    assert prices.next("a") == 101
    prices.note("a", 101, 10.0)
    prices.note("a", 102, 20.0)
    assert prices.now("a") == 102
    assert prices.age("a", 100, 12.5) == 2.5
    assert prices.age("a", 100, 9.0) == 0, "the page had begun before"
    assert prices.age("a", 101, 30.0) == 10.0
    assert prices.age("a", 102, 99.0) == prices.age("a", 103, 99.0) == prices.age("b", 100, 99.0) == 0


@dataclass
class Plain:
    """An arm in memory, which can be told to fail, and to show old prices."""

    name: str = "plain"
    bound: float = 0.0
    fails: list[str] = field(default_factory=list)
    "The errors of the next home pages."
    refuses: list[str] = field(default_factory=list)
    "Those of the next reservations."
    is_old: bool = False
    sessions: int = 0
    prices: dict[str, int] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    async def log_in(self, user_id: str, *, is_known: bool, request_id: UUID) -> Customer:
        self.sessions += 1
        return Customer(user_id, f"session {self.sessions}", is_known)

    async def home_page(self, customer: Customer) -> Page:
        if self.fails:
            raise PageFailed(self.fails.pop(0))
        return Page(0)

    async def category_page(self, customer: Customer, category: str) -> Page:
        return Page(0, [Card("a", "a", 1)])

    async def product_page(self, customer: Customer, product_id: str) -> Page:
        return Page(0, [Card("a", "a", 1)], 250 if self.is_old else self.prices.get(product_id, 250), 1)

    async def cart_page(self, customer: Customer) -> Page:
        return Page(0, [Card("a", "a", 1)])

    async def add_to_cart(self, customer: Customer, product_id: str, quantity: int, pence: int, request_id: UUID) -> None:
        self.calls.append(f"add {customer.session_id} {request_id}")

    async def reserve(self, customer: Customer, lines: Sequence[tuple[str, int]], request_id: UUID) -> str:
        self.calls.append(f"reserve {request_id}")
        if self.refuses:
            raise PageFailed(self.refuses.pop(0))
        return "reservation"

    async def check_out(self, customer: Customer, reservation_id: str, request_id: UUID) -> None:
        self.calls.append("check out")

    async def set_price(self, product_id: str, pence: int, request_id: UUID) -> None:
        self.prices[product_id] = pence

    async def add_stock(self, product_id: str, pieces: int, request_id: UUID) -> None:
        self.calls.append("stock")

    async def tiers(self) -> Counter[tuple[str, str]]:
        return Counter()

    async def end_state(self, *, orders: int) -> EndState:
        raise NotImplementedError


HABITS = Habits(views=3, abandoned=0.0, change_every=1, concurrency=1)


async def test_what_was_bought_is_what_the_database_has_to_hold(shop: Shop) -> None:
    shoppers = Shoppers(Plain(), shop, HABITS)
    record = await shoppers.run(shop.visits)
    outcome = shoppers.outcome()
    assert outcome.orders == len(shop.visits) == shoppers.done
    assert outcome.sold == sum((Counter(dict(visit.lines)) for visit in shop.visits), Counter())
    last = {decide(visit, shop, HABITS).user_id for visit in shop.visits}
    assert outcome.emptied == last
    assert outcome.delivered.total() == 100 * len(shop.visits)
    assert record.pages == sum(len(record.seconds[kind]) for kind in (Kind.HOME, Kind.CATEGORY, Kind.PRODUCT, Kind.CART))
    assert len(record.seconds[Kind.CHECK_OUT]) == outcome.orders
    assert not record.errors
    assert not record.beyond
    right = {id: (one.stock - outcome.sold[id] + outcome.delivered[id], 0) for id, one in shop.products.items()}
    assert not any(differences(shop, outcome, EndState(right, set(), outcome.orders, outcome.orders)).values())


async def test_whoever_leaves_may_keep_a_full_cart(shop: Shop) -> None:
    shoppers = Shoppers(Plain(), shop, HABITS._replace(abandoned=1.0))
    await shoppers.run(shop.visits)
    outcome = shoppers.outcome()
    assert (outcome.orders, outcome.sold, outcome.emptied) == (0, {}, set())


async def test_each_difference_is_told(shop: Shop) -> None:
    (first, *_) = shop.products
    right = {id: (one.stock, 0) for id, one in shop.products.items()}
    nothing = Outcome(Counter(), Counter(), 0, {"a", "b"})
    found = differences(shop, nothing, EndState(right | {first: (1, 0)}, {"b", "c"}, 1, 2))
    assert found == {
        "stock equals": f"1 products differ: {first} has (1, 0), not ({right[first][0]}, 0)",
        "carts empty after check-out": "1 are not, such as that of b",
        "orders complete": "1 instead of 0",
        "events complete": "2 instead of 0",
    }
    assert "events complete" not in differences(shop, nothing, EndState(right, set(), 0, None))


async def test_a_price_older_than_the_bound_is_noticed(shop: Shop) -> None:
    shoppers = Shoppers(Plain(is_old=True), shop, HABITS)
    record = await shoppers.run(shop.visits)
    assert record.beyond > 0
    assert record.oldest > 0


async def test_a_page_that_fails_is_counted_and_a_change_is_repeated(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_sidecar.replay.shopper.PAUSE", 0.0)
    arm = Plain(fails=["UNAVAILABLE"], refuses=["UNAVAILABLE", "UNAVAILABLE"])
    shoppers = Shoppers(arm, shop, HABITS)
    record = await shoppers.run(shop.visits[:1])
    assert record.errors == {"home: UNAVAILABLE": 1, "reserve: UNAVAILABLE": 2}
    assert len(record.failed[Kind.HOME]) == 1
    reserved = [call for call in arm.calls if call.startswith("reserve")]
    assert len(reserved) == 3
    assert len(set(reserved)) == 1, "always with the same request_id"
    assert (shoppers.outcome().orders, record.given_up) == (1, 0)
    assert len(record.seconds[Kind.HOME]) == 2, "the customer looks at the home page meanwhile"


async def test_whoever_is_forgotten_logs_in_again(shop: Shop) -> None:
    arm = Plain(fails=["SESSION_ENDED"])
    await Shoppers(arm, shop, HABITS).run(shop.visits[:1])
    assert arm.sessions == 2
    assert all("session 2" in call for call in arm.calls if call.startswith("add"))


async def test_a_change_that_is_refused_for_good_ends_the_visit(shop: Shop) -> None:
    arm = Plain(refuses=["FAILED_PRECONDITION"])
    shoppers = Shoppers(arm, shop, HABITS)
    record = await shoppers.run(shop.visits[:1])
    assert record.given_up == 1
    assert shoppers.outcome().orders == 0
    assert "check out" not in arm.calls
