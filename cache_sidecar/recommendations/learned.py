"""The generators that need no other program: the algorithm over what was learned from purchases, and the popular products."""

from collections.abc import Iterator, Mapping

from cache_sidecar.recommendations import rank as placements
from cache_sidecar.recommendations.generator import GeneratedList, Kind, ListRequest
from cache_sidecar.recommendations.packing import unpack_popular, unpack_profile, unpack_row
from cache_sidecar.recommendations.rank import NOBODY, Placement, Popular, Profile, Reason, Result, Terms, rank
from cache_sidecar.recommendations.rows import ItemRow
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import Answer, Freshness

# The id of the list of popular products in its dataset.
POPULAR_ID = "all"
# Grows when the same rows give other lists.
VERSION = "1"
# Rows that are kept unpacked, of some 5 KB each.
MAX_UNPACKED = 2_000

_KINDS: Mapping[Kind, Placement] = {
    Kind.RECOMMENDED_FOR_YOU: placements.HOME_PAGE,
    Kind.OTHERS_YOU_MAY_LIKE: placements.OTHERS_YOU_MAY_LIKE,
    Kind.FREQUENTLY_BOUGHT_TOGETHER: placements.PRODUCT_DETAIL,
    Kind.BUY_IT_AGAIN: placements.BUY_IT_AGAIN,
}


class PopularProducts:
    """The most popular products, read through the caches, and kept as they are used: there are thousands."""

    def __init__(self, lists: Dataset) -> None:
        self._lists = lists
        self._unpacked: tuple[bytes | None, Popular, float] = (None, Popular({}), 0.0)

    async def get(self, wanted: Freshness) -> tuple[Popular, float, Answer]:
        """Returns them, the time of the newest event that is counted, and where they were read from. Raises TierFailed."""
        answer = await self._lists.get(POPULAR_ID, wanted)
        if answer.value is None:
            return Popular({}), 0.0, answer
        if answer.value != self._unpacked[0]:
            self._unpacked = (answer.value, *unpack_popular(answer.value))
        return *self._unpacked[1:], answer


class Profiles:
    """What is known of users, read through the caches."""

    def __init__(self, profiles: Dataset) -> None:
        self._profiles = profiles

    async def get(self, user_id: str, wanted: Freshness) -> tuple[Profile, float, Answer]:
        """Returns a user's profile, the time as of which it was computed, and where it was read from. Raises TierFailed."""
        answer = await self._profiles.get(user_id, wanted)
        if answer.value is None:
            return NOBODY, 0.0, answer
        return *unpack_profile(answer.value), answer


class ShopGenerator:
    """The algorithm: see `rank.py`."""

    name = "shop"

    def __init__(self, *, profiles: Profiles, items: Dataset, popular: PopularProducts) -> None:
        self._profiles = profiles
        self._items = items
        self._popular = popular
        self._unpacked: dict[tuple[str, bool], tuple[int, ItemRow]] = {}
        "The rows used lately, with their versions: unpacking those of a list takes a quarter of its time."

    async def generate(self, request: ListRequest) -> GeneratedList | None:
        """Returns a list; None if nothing is known of the user, the page and the cart."""
        placement = _KINDS.get(request.kind)
        if placement is None:
            return None
        wanted, answers, times = request.freshness, [], [0.0]
        profile, context = request.profile, request.context
        if profile is None and request.user_id:
            profile, time, answer = await self._profiles.get(request.user_id, wanted)
            answers.append(answer)
            times.append(time)
        profile = profile or NOBODY
        ids = [*(profile.strongest if placement.similar else ()), *(context if placement.context else ())]
        found = await self._items.get_many(ids, wanted)
        answers += found.values()
        rows = {id: row for id, answer in found.items() if (row := self._unpack(id, answer, also=placement.is_new))}
        if request.kind.fills_up and not rows and not profile.shares:
            return None
        popular, time, answer = await self._popular.get(wanted)
        results = rank(
            placement,
            rows=rows,
            popular=popular,
            profile=profile,
            context=context,
            exclude=request.exclude,
            size=request.size,
        )
        times += (time, *(row.model_time for row in rows.values()))
        return GeneratedList(results, VERSION, max(times), [*answers, answer])

    def _unpack(self, product_id: str, answer: Answer, *, also: bool) -> ItemRow | None:
        if answer.value is None:
            return None
        known = self._unpacked.get((product_id, also))
        if known is not None and known[0] == answer.version:
            return known[1]
        row = unpack_row(product_id, answer.value, also=also)
        if len(self._unpacked) >= MAX_UNPACKED:
            self._unpacked.clear()
        self._unpacked[product_id, also] = answer.version, row
        return row


class PopularGenerator:
    """The most popular products. The last resort, and what best sellers are."""

    name = "popular"

    def __init__(self, popular: PopularProducts) -> None:
        self._popular = popular

    async def generate(self, request: ListRequest) -> GeneratedList | None:
        """Returns the most popular products that are not excluded; None for lists that are about the user alone."""
        if not request.kind.fills_up:
            return None
        popular, time, answer = await self._popular.get(request.freshness)
        results = [result for result, _ in zip(self._results(popular, request), range(request.size), strict=False)]
        return GeneratedList(results, VERSION, time, [answer])

    def _results(self, popular: Popular, request: ListRequest) -> Iterator[Result]:
        hidden = {*request.exclude, *request.page, *request.cart}
        for product_id, share in popular.shares.items():
            if product_id not in hidden:
                yield Result(product_id, share, Reason.POPULAR, "", Terms(popular=share))
