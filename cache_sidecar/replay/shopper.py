"""A shopper: what becomes of an invoice, page by page, and what is measured of it. It is the same in every arm."""

import asyncio
import random
import time
from array import array
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple, TypeVar
from uuid import NAMESPACE_OID, UUID, uuid5

from cache_sidecar.replay.arm import Arm, Customer, Page, PageFailed
from cache_sidecar.replay.order_file import Shop, Visit

# Of the views for a line, one in so many is a category.
_CATEGORY_EVERY = 8
# Seconds between two attempts of a change, and after which a visit is given up.
PAUSE, PATIENCE = 0.2, 120.0
_DELIVERY = 100
# Errors by which a session has ended, and after which a change is not tried again.
_ENDED = {"SESSION_ENDED", "NOT_FOUND"}
_FINAL = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "CheckViolation"}
T = TypeVar("T")


class Kind(StrEnum):
    """What is measured: pages, and changes."""

    HOME = "home"
    CATEGORY = "category"
    PRODUCT = "product"
    CART = "cart"
    LOG_IN = "log in"
    ADD = "add to cart"
    RESERVE = "reserve"
    CHECK_OUT = "check out"
    PRICE = "set price"
    STOCK = "add stock"


PAGES = (Kind.HOME, Kind.CATEGORY, Kind.PRODUCT, Kind.CART)


class Step(NamedTuple):
    """What a shopper does next."""

    kind: Kind
    id: str = ""
    "The product, or the category."
    quantity: int = 0


class Habits(NamedTuple):
    """How shoppers behave."""

    views: int = 20
    "Pages for each line of an invoice."
    abandoned: float = 0.1
    "The share of visits that end with a full cart."
    known: float | None = None
    "The share of visitors who log in; as the file says if None."
    change_every: int = 10
    "After so many visits a price and a stock change; 0 for never."
    concurrency: int = 4
    speed_up: float = 0.0
    "How many times faster than in the file visits begin; 0 for as fast as the shoppers are served."
    seed: int = 1


class Decision(NamedTuple):
    """What is decided of a visit before it begins, the same in every arm."""

    user_id: str
    is_known: bool
    abandons: bool
    steps: list[Step]


def decide(visit: Visit, shop: Shop, habits: Habits) -> Decision:
    """Returns what a shopper will do: the same for the same visit and seed."""
    chance = random.Random(f"{habits.seed} {visit.invoice}")  # noqa: S311  # reproducible on purpose
    is_known = bool(visit.customer_id) if habits.known is None else chance.random() < habits.known
    user_id = (visit.customer_id or f"customer {visit.invoice}") if is_known else f"guest {visit.invoice}"
    abandons = chance.random() < habits.abandoned
    return Decision(user_id, is_known, abandons, list(_steps(visit, shop, habits, chance)))


def _steps(visit: Visit, shop: Shop, habits: Habits, chance: random.Random) -> Iterator[Step]:
    ids = shop.ids
    yield Step(Kind.HOME)
    for product_id, quantity in visit.lines:
        for number in range(1, habits.views):
            viewed = ids[bisect(shop.weights, chance.random() * shop.weights[-1])]
            if number % _CATEGORY_EVERY == 1:
                yield Step(Kind.CATEGORY, shop.products[viewed].category)
            else:
                yield Step(Kind.PRODUCT, viewed)
        yield Step(Kind.PRODUCT, product_id)
        yield Step(Kind.ADD, product_id, quantity)
    yield Step(Kind.CART)


class Prices:
    """The prices that were set, to tell how old a price on a page is. Each price of a product is greater than the last one."""

    def __init__(self, first: dict[str, int]) -> None:
        self._now = dict(first)
        self._set: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)

    def next(self, product_id: str) -> int:
        """Returns the price to set."""
        return self._now[product_id] + 1

    def note(self, product_id: str, pence: int, moment: float) -> None:
        """Notes that a price was acknowledged."""
        self._now[product_id] = pence
        self._set[product_id].append((pence, moment))

    def now(self, product_id: str) -> int:
        """Returns the last price that was acknowledged."""
        return self._now[product_id]

    def age(self, product_id: str, pence: int, begun: float) -> float:
        """Returns for how many seconds a price had been replaced when a page began that shows it; 0 if it had not been."""
        for later, moment in self._set.get(product_id, ()):
            if later > pence:
                return max(0.0, begun - moment)
        return 0.0


class Record:
    """What was measured, in seconds since `begin`."""

    def __init__(self, begin: float) -> None:
        self.begin = begin
        self.begun: dict[Kind, array[float]] = {kind: array("d") for kind in Kind}
        self.seconds: dict[Kind, array[float]] = {kind: array("d") for kind in Kind}
        self.failed: dict[Kind, list[float]] = {kind: [] for kind in Kind}
        "When each one that failed began; attempts that were repeated, too."
        self.errors: Counter[str] = Counter()
        self.marked_stale = 0
        self.oldest = 0.0
        "The greatest age of a price that was not marked stale."
        self.beyond = 0
        "Pages with a price older than the arm's bound."
        self.wrong: list[str] = []
        "Pages that did not show what they had to."
        self.given_up = 0

    @property
    def pages(self) -> int:
        """Pages that were shown."""
        return sum(len(self.seconds[kind]) for kind in PAGES)


class Outcome(NamedTuple):
    """What PostgreSQL has to hold at the end."""

    sold: Counter[str]
    delivered: Counter[str]
    orders: int
    emptied: set[str]
    "Users whose last visit ended with a check-out."


class Shoppers:
    """All shoppers of an arm, over several runs."""

    def __init__(self, arm: Arm, shop: Shop, habits: Habits) -> None:
        self.arm = arm
        self.prices = Prices({id: product.pence for id, product in shop.products.items()})
        self.record = Record(time.perf_counter())
        self.records: list[Record] = []
        self.done = 0
        "Visits that have ended."
        self._ended = asyncio.Condition()
        self._shop = shop
        self._habits = habits
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._office = asyncio.Lock()
        self._sold: Counter[str] = Counter()
        self._delivered: Counter[str] = Counter()
        self._orders = 0
        self._ended_empty: dict[str, bool] = {}

    async def run(self, visits: Sequence[Visit], *, progress: "Callable[[Shoppers], None]" = lambda _: None) -> Record:
        """Has so many shoppers at once as `habits` says make these visits, and returns what was measured."""
        self.record = record = Record(time.perf_counter())
        self.records.append(record)
        waiting = iter(visits)
        first = visits[0].time if visits else 0.0

        async def shopper() -> None:
            for visit in waiting:
                if self._habits.speed_up:
                    due = record.begin + (visit.time - first) / self._habits.speed_up
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                await self._visit(visit)
                async with self._ended:
                    self.done += 1
                    self._ended.notify_all()
                progress(self)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._habits.concurrency):
                group.create_task(shopper())
        return record

    async def wait_until(self, visits: int) -> None:
        """Returns once so many visits have ended."""
        async with self._ended:
            await self._ended.wait_for(lambda: self.done >= visits)

    def outcome(self) -> Outcome:
        """Returns what PostgreSQL has to hold now."""
        emptied = {user_id for user_id, is_empty in self._ended_empty.items() if is_empty}
        return Outcome(Counter(self._sold), Counter(self._delivered), self._orders, emptied)

    async def _visit(self, visit: Visit) -> None:
        decision = decide(visit, self._shop, self._habits)
        # A customer with two visits at once would find the cart of one in the other.
        async with self._locks[decision.user_id]:
            try:
                await self._shop_around(visit, decision)
            except PageFailed:
                self.record.given_up += 1
                self._ended_empty[decision.user_id] = False
        if self._habits.change_every and (self.done + 1) % self._habits.change_every == 0:
            await self._change(visit)

    async def _shop_around(self, visit: Visit, decision: Decision) -> None:
        def id(*parts: object) -> UUID:
            return uuid5(NAMESPACE_OID, "|".join(map(str, (self._habits.seed, visit.invoice, *parts))))

        arm = self.arm

        async def log_in(number: int) -> Customer:
            def work() -> Awaitable[Customer]:
                return arm.log_in(decision.user_id, is_known=decision.is_known, request_id=id("log in", number))

            return await self._repeat(Kind.LOG_IN, work, None)

        customer = await log_in(0)
        self._ended_empty[customer.user_id] = False
        for number, step in enumerate(decision.steps, 1):
            if step.kind is Kind.ADD:
                work = _adding(arm, customer, step, self.prices.now(step.id), id("add", step.id))
                await self._repeat(Kind.ADD, work, customer)
            elif not await self._look(step, customer):
                customer = await log_in(number)
        if decision.abandons:
            return
        reservation_id = await self._repeat(Kind.RESERVE, lambda: arm.reserve(customer, visit.lines, id("reserve")), customer)
        await self._repeat(Kind.CHECK_OUT, lambda: arm.check_out(customer, reservation_id, id("check out")), customer)
        self._sold.update(dict(visit.lines))
        self._orders += 1
        self._ended_empty[customer.user_id] = True

    async def _look(self, step: Step, customer: Customer) -> bool:
        """Opens a page, and checks what it shows. One that fails is counted; the shopper goes on.

        Returns False if the shop has forgotten the session.
        """
        match step.kind:
            case Kind.HOME:
                work = self.arm.home_page(customer)
            case Kind.CATEGORY:
                work = self.arm.category_page(customer, step.id)
            case Kind.CART:
                work = self.arm.cart_page(customer)
            case _:
                work = self.arm.product_page(customer, step.id)
        begun = time.perf_counter()
        try:
            page = await self._measure(step.kind, work)
        except PageFailed as error:
            return str(error) not in _ENDED
        self._check(step, page, begun)
        return True

    def _check(self, step: Step, page: Page, begun: float) -> None:
        record = self.record
        if step.kind is not Kind.HOME and not page.cards:
            record.wrong.append(f"the {step.kind} page of {step.id or 'a customer'} has no products")
        if page.is_stale:
            record.marked_stale += 1
        elif step.kind is Kind.PRODUCT:
            age = self.prices.age(step.id, page.pence, begun)
            record.oldest = max(record.oldest, age)
            record.beyond += age > self.arm.bound
            if page.pence <= 0 or page.stock < 0:
                record.wrong.append(f"{step.id} is shown with {page.pence} pence and {page.stock} pieces")

    async def _change(self, visit: Visit) -> None:
        """Changes the price of one product, and has another one delivered: both of those that are viewed most."""
        chance = random.Random(f"change {self._habits.seed} {visit.invoice}")  # noqa: S311  # reproducible on purpose
        priced, stocked = (
            self._shop.ids[bisect(self._shop.weights, chance.random() * self._shop.weights[-1])] for _ in range(2)
        )
        price_id, stock_id = (
            uuid5(NAMESPACE_OID, f"{kind} {self._habits.seed} {visit.invoice}") for kind in ("price", "stock")
        )
        async with self._office:
            pence = self.prices.next(priced)
            try:
                await self._repeat(Kind.PRICE, lambda: self.arm.set_price(priced, pence, price_id), None)
                self.prices.note(priced, pence, time.perf_counter())
                await self._repeat(Kind.STOCK, lambda: self.arm.add_stock(stocked, _DELIVERY, stock_id), None)
                self._delivered[stocked] += _DELIVERY
            except PageFailed:
                self.record.given_up += 1

    async def _repeat(self, kind: Kind, work: Callable[[], Awaitable[T]], customer: Customer | None) -> T:
        """Tries a change until it succeeds; the customer looks at the home page meanwhile."""
        deadline = time.perf_counter() + PATIENCE
        while True:
            try:
                return await self._measure(kind, work())
            except PageFailed as error:
                if time.perf_counter() >= deadline or str(error) in _FINAL:
                    raise
            await asyncio.sleep(PAUSE)
            if customer is not None:
                await self._look(Step(Kind.HOME), customer)

    async def _measure(self, kind: Kind, work: Awaitable[T]) -> T:
        record = self.record
        begun = time.perf_counter()
        try:
            found = await work
        except PageFailed as error:
            record.failed[kind].append(begun - record.begin)
            record.errors[f"{kind}: {error}"] += 1
            raise
        record.begun[kind].append(begun - record.begin)
        record.seconds[kind].append(time.perf_counter() - begun)
        return found


def _adding(arm: Arm, customer: Customer, step: Step, pence: int, request_id: UUID) -> Callable[[], Awaitable[None]]:
    return lambda: arm.add_to_cart(customer, step.id, step.quantity, pence, request_id)
