"""The shop in a file of orders: its products, who visited it, and what goes together."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from cache_sidecar.core.errors import InputError
from cache_sidecar.importer.online_retail import Sale, median
from cache_sidecar.importer.orders import Sales, read_sales

# Of a cart line, and of a cart: the sidecar's limits, to which larger orders are cut in every arm.
MOST_PIECES, MOST_LINES = 999, 200
# Products in a list of recommendations, and lines of a basket that count for them.
LIST, _BASKET = 10, 60
# Pieces of each product besides those that the file sells.
_SPARE = 1_000_000
_PENNY = 10**7


class Product(NamedTuple):
    """A product as it is when the replay begins."""

    product_id: str
    title: str
    category: str
    "The file has none: by the first two characters of the stock code."
    pence: int
    stock: int

    @property
    def description(self) -> str:
        """A text of the usual length; the file has none."""
        return f"{self.title.capitalize()}. " * 8


class Visit(NamedTuple):
    """An invoice: what a shopper will have bought in the end."""

    invoice: str
    time: float
    "Seconds since the first visit."
    customer_id: str
    "Empty for a guest."
    lines: tuple[tuple[str, int], ...]
    "Products with pieces, in the order of the file, each once."


class Shop(NamedTuple):
    """What a file contains."""

    products: dict[str, Product]
    weights: Sequence[int]
    "How often each product was viewed, as it was bought: cumulative, in the order of `products`."
    visits: list[Visit]
    related: dict[str, list[str]]
    "The products most often bought with each; without any, the most popular ones."
    home: dict[str, list[str]]
    "The products most often bought with what a customer bought, by customer."
    popular: list[str]
    sales: Sales

    @property
    def ids(self) -> list[str]:
        """The products."""
        return list(self.products)


async def read_shop(source: str) -> Shop:
    """Reads a file, or standard input for `-`. Raises InputError for one in another format, or without sales."""
    sales = await read_sales(source)
    if not sales.sales:
        raise InputError(f"{source} has no sales: there is nothing to replay")
    return _shop(sales)


def _shop(sales: Sales) -> Shop:
    products, counts = _products(sales.sales)
    popular = [product_id for product_id, _ in counts.most_common(LIST + 1)]
    visits = _visits(sales.sales)
    together: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for visit in visits:
        basket = [product_id for product_id, _ in visit.lines[:_BASKET]]
        for one in basket:
            together[one].update(basket)
    related = {}
    for product_id in products:
        best = [other for other, _ in together[product_id].most_common(LIST + 1)]
        related[product_id] = [other for other in dict.fromkeys([*best, *popular]) if other != product_id][:LIST]
    bought: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for visit in visits:
        if visit.customer_id:
            bought[visit.customer_id].update(other for product_id, _ in visit.lines[:_BASKET] for other in related[product_id])
    home = {customer_id: [id for id, _ in counts.most_common(LIST)] for customer_id, counts in bought.items()}
    weights = list(accumulate(counts[product_id] for product_id in products))
    return Shop(products, weights, visits, related, home, popular[:LIST], sales)


def _products(sales: Iterable[Sale]) -> tuple[dict[str, Product], Counter[str]]:
    prices: defaultdict[str, Counter[int]] = defaultdict(Counter)
    titles: dict[str, str] = {}
    counts, pieces = Counter[str](), Counter[str]()
    for one in sales:
        prices[one.product_id][one.price] += 1
        if one.title or one.product_id not in titles:
            titles[one.product_id] = one.title
        counts[one.product_id] += 1
        pieces[one.product_id] += min(one.quantity, MOST_PIECES)
    products = {
        id: Product(id, titles[id] or id, f"range {id[:2]}", max(1, median(of) // _PENNY), pieces[id] + _SPARE)
        for id, of in prices.items()
    }
    return products, counts


def _visits(sales: Iterable[Sale]) -> list[Visit]:
    invoices: dict[str, tuple[Sale, Counter[str]]] = {}
    for one in sales:
        invoices.setdefault(one.invoice, (one, Counter()))[1][one.product_id] += one.quantity
    ordered = sorted((first.time, number, first.customer_id, lines) for number, (first, lines) in invoices.items())
    begin = ordered[0][0]
    return [
        Visit(
            number,
            (moment - begin).total_seconds(),
            customer_id,
            tuple((id, min(pieces, MOST_PIECES)) for id, pieces in list(lines.items())[:MOST_LINES]),
        )
        for moment, number, customer_id, lines in ordered
    ]


def spread(visits: Sequence[Visit], count: int | None) -> list[Visit]:
    """Returns so many of the visits, evenly spread over them; all if None, or if there are no more."""
    if count is None or count >= len(visits):
        return list(visits)
    return [visits[number * len(visits) // count] for number in range(count)]
