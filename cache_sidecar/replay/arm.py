"""What a shopper asks of a shop, whichever way the shop is built: an arm of the comparison."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol
from uuid import UUID


class PageFailed(Exception):
    """A page or a change failed; the text is its kind of error, such as `UNAVAILABLE`."""


class Customer(NamedTuple):
    """Who looks at a page."""

    user_id: str
    "The owner of the cart; for a guest, an id that the shop made up."
    session_id: str
    is_known: bool
    "Whether the customer has logged in."


class Card(NamedTuple):
    """A product as it is shown in a list."""

    product_id: str
    title: str
    pence: int


class Page(NamedTuple):
    """What a page shows, besides the number of pieces in the cart."""

    in_cart: int
    cards: Sequence[Card] = ()
    "Of the list, of what is recommended, or of what is in the cart."
    pence: int = 0
    "Of a product page: the price."
    stock: int = 0
    is_stale: bool = False
    "Whether the arm says that something on it may be older than its bound."


class EndState(NamedTuple):
    """What PostgreSQL holds at the end."""

    stock: Mapping[str, tuple[int, int]]
    "By product: available, reserved."
    full_carts: set[str]
    "The owners of carts with something in them."
    orders: int
    "Reservations that were committed."
    events: int | None
    "Purchases that were recorded as user events; None in an arm that records none."


class Arm(Protocol):
    """One way to build the shop. Every method raises PageFailed; changes may be repeated with the same request_id."""

    name: str
    bound: float
    "How old a price may be that is not marked stale, in seconds: what this arm states."

    async def log_in(self, user_id: str, *, is_known: bool, request_id: UUID) -> Customer:
        """Begins a session."""
        ...

    async def home_page(self, customer: Customer) -> Page:
        """Session, cart, and what is recommended to the customer."""
        ...

    async def category_page(self, customer: Customer, category: str) -> Page:
        """Session, cart, and the first products of a category."""
        ...

    async def product_page(self, customer: Customer, product_id: str) -> Page:
        """Session, cart, the product with its stock, and what is recommended with it."""
        ...

    async def cart_page(self, customer: Customer) -> Page:
        """Session, and the cart with its products."""
        ...

    async def add_to_cart(self, customer: Customer, product_id: str, quantity: int, pence: int, request_id: UUID) -> None:
        """Adds pieces of a product to the cart."""
        ...

    async def reserve(self, customer: Customer, lines: Sequence[tuple[str, int]], request_id: UUID) -> str:
        """Reserves pieces of several products, all or none; returns the reservation."""
        ...

    async def check_out(self, customer: Customer, reservation_id: str, request_id: UUID) -> None:
        """Sells what is reserved, and empties the cart."""
        ...

    async def set_price(self, product_id: str, pence: int, request_id: UUID) -> None:
        """Changes a price, as the shop's back office does."""
        ...

    async def add_stock(self, product_id: str, pieces: int, request_id: UUID) -> None:
        """Adds pieces, as a delivery does."""
        ...

    async def tiers(self) -> Counter[tuple[str, str]]:
        """Returns the reads answered so far, by dataset and tier; empty without tiers."""
        ...

    async def end_state(self, *, orders: int) -> EndState:
        """Returns what PostgreSQL holds, once what is under way for so many orders has arrived, or a minute has passed."""
        ...
