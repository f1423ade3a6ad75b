"""What computes lists, or has them: the algorithm, the most popular products, the shop's imported lists, the shop's own model.

Sidecars ask generators in the order of the setting `recommendation_generators` until one has a list. What a list must not
contain because it is inactive or sold out is left out afterwards, for all of them alike, and a list that is too short is
filled up.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from cache_sidecar.recommendations.rank import Profile, Result
from cache_sidecar.tiers.ports import ANY, Answer, Freshness


class Place(StrEnum):
    """Where a list is shown; as in recommendation.proto."""

    HOME_PAGE = "HOME_PAGE"
    PRODUCT_DETAIL = "PRODUCT_DETAIL"
    SHOPPING_CART = "SHOPPING_CART"
    CHECKOUT = "CHECKOUT"


class Kind(StrEnum):
    """What a list is made of; as in recommendation.proto."""

    RECOMMENDED_FOR_YOU = "RECOMMENDED_FOR_YOU"
    OTHERS_YOU_MAY_LIKE = "OTHERS_YOU_MAY_LIKE"
    FREQUENTLY_BOUGHT_TOGETHER = "FREQUENTLY_BOUGHT_TOGETHER"
    BUY_IT_AGAIN = "BUY_IT_AGAIN"
    RECENTLY_VIEWED = "RECENTLY_VIEWED"
    BEST_SELLERS = "BEST_SELLERS"

    @property
    def fills_up(self) -> bool:
        """Whether popular products follow when a list is too short."""
        return self not in {Kind.BUY_IT_AGAIN, Kind.RECENTLY_VIEWED}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRequest:
    """What a list is to be."""

    user_id: str
    "Empty for an unknown user, and for one who is not to be recognized."
    place: Place
    kind: Kind
    page: Sequence[str] = ()
    "The products that the page is about."
    cart: Sequence[str] = ()
    exclude: Collection[str] = frozenset()
    "What must not be in the list, besides `page` and `cart`."
    size: int
    "How many products are of use: more than are shown, as some may be left out afterwards."
    freshness: Freshness = ANY
    "How fresh what is read has to be, and until when the caller waits."
    profile: Profile | None = None
    "What is known of the user, if it was read already."

    @property
    def context(self) -> list[str]:
        """The products of the page and of the cart."""
        return list(dict.fromkeys((*self.page, *self.cart)))


class GeneratedList(NamedTuple):
    """What a generator answers."""

    results: Sequence[Result]
    "Best first, none twice; may contain what the request excludes. Fewer than the request's `size` if there are no more."
    model_version: str = ""
    model_time: float = 0.0
    "The newest event that is taken into account, in seconds since 1970; 0 if that is not known."
    answers: Sequence[Answer] = ()
    "Where it was read from."


class Generator(Protocol):
    """One way to get lists."""

    @property
    def name(self) -> str:
        """Returns its name in the settings, and in replies."""
        ...

    async def generate(self, request: ListRequest) -> GeneratedList | None:
        """Returns a list; None if it has none for this request, so that the next generator is to be asked.

        Raises TierFailed or Overloaded; then the next one answers in its place, and the reply says so.
        """
        ...
