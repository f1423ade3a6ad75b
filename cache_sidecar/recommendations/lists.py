"""Makes lists: asks the generators in order, leaves out what must not be shown, and fills up with popular products."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from cache_sidecar.core.errors import Overloaded, TierFailed
from cache_sidecar.recommendations import viewed
from cache_sidecar.recommendations.generator import GeneratedList, Generator, Kind, ListRequest
from cache_sidecar.recommendations.learned import Profiles
from cache_sidecar.recommendations.rank import Profile, Result
from cache_sidecar.tiers.ports import ANY, Answer, Freshness

# Products that are asked for besides those of the list, because some may have to be left out; and how that grows if it did not
# suffice, up to so many times.
SPARE = 5
GROWTH = 4
ROUNDS = 3


class Shown(NamedTuple):
    """What is known of some products."""

    ids: Collection[str]
    "Those that may be shown: they are in the catalogue, active and, if that is asked for, not sold out."
    unknown: Collection[str]
    "Those of which nothing answered."


FindShown = Callable[[Sequence[str], bool, Freshness], Awaitable[Shown]]
"""Finds which of these products may be shown; the flag asks for those that are not sold out.

Raises TierFailed if nothing is known of any of them.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a caller wants."""

    request: ListRequest
    "`size` is that of the list."
    order: Sequence[str]
    "The generators to ask."
    hides_purchased: bool = False
    hides_sold_out: bool = False


class MadeList(NamedTuple):
    """A list as it is shown."""

    results: Sequence[Result]
    generator: str
    "The one that had it."
    fallback: str
    "The same, if another failed before; else empty."
    model_version: str
    model_time: float
    answers: Sequence[Answer]
    "Where it was read from."
    is_degraded: bool
    "Whether products were left out because nothing answered whether they may be shown."


class ListMaker:
    """Makes lists."""

    def __init__(self, generators: Iterable[Generator], *, profiles: Profiles, last: Generator, find_shown: FindShown) -> None:
        """`last` answers when others fail, and fills up lists that are too short."""
        self._generators = {generator.name: generator for generator in generators}
        self._profiles = profiles
        self._last = last
        self._find_shown = find_shown

    async def make(self, wanted: Wanted) -> MadeList:
        """Returns a list. Raises TierFailed if no generator could answer, or if it is not known what may be shown."""
        request, size = wanted.request, wanted.request.size
        hidden = {*request.page, *request.cart, *request.exclude, *(await self._find_purchased(wanted))}
        asked = replace(request, exclude=hidden, size=size + SPARE)
        order = [viewed.NAME] if request.kind is Kind.RECENTLY_VIEWED else wanted.order
        generator, generated, failed = await self._ask_in_order(asked, order)
        unknown: set[str] = set()
        results = await self._select_shown(generated.results, asked, wanted, unknown)
        for _ in range(ROUNDS):
            if generator is None or len(results) >= size or len(generated.results) < asked.size:
                break
            left = {result.product_id for result in generated.results} - {result.product_id for result in results}
            asked = replace(asked, exclude={*asked.exclude, *left}, size=asked.size * GROWTH)
            try:
                again = await generator.generate(asked)
            except (TierFailed, Overloaded):
                break
            if again is None:
                break
            generated = again
            results = await self._select_shown(generated.results, asked, wanted, unknown)
        answers = list(generated.answers)
        if len(results) < size and request.kind.fills_up:
            results, answers = await self._fill_up(results, answers, asked, wanted, unknown)
        name = generator.name if generator is not None else ""
        return MadeList(
            results[:size],
            name,
            name if failed else "",
            generated.model_version,
            generated.model_time,
            answers,
            is_degraded=bool(unknown),
        )

    async def _find_purchased(self, wanted: Wanted) -> Collection[str]:
        request = wanted.request
        if not request.user_id or not (wanted.hides_purchased or request.kind is Kind.OTHERS_YOU_MAY_LIKE):
            return ()
        profile: Profile | None = request.profile
        if profile is None:
            profile, _, _ = await self._profiles.get(request.user_id, request.freshness)
        return profile.bought

    async def _ask_in_order(self, request: ListRequest, order: Sequence[str]) -> tuple[Generator | None, GeneratedList, bool]:
        """Returns the first generator that has a list, the list, and whether one failed before.

        Raises TierFailed or Overloaded.
        """
        failure: Exception | None = None
        for name in order:
            generator = self._generators.get(name)
            if generator is None:
                continue
            try:
                generated = await generator.generate(request)
            except (TierFailed, Overloaded) as error:
                failure = error
                continue
            if generated is not None:
                return generator, generated, failure is not None
        if (generated := await self._last.generate(request)) is not None:
            return self._last, generated, failure is not None
        if failure is not None:
            raise failure
        return None, GeneratedList([]), False

    async def _select_shown(
        self, results: Sequence[Result], request: ListRequest, wanted: Wanted, unknown: set[str]
    ) -> list[Result]:
        """Returns those results that may be shown, each once; adds to `unknown` those of which nothing answered."""
        candidates = {result.product_id: result for result in reversed(results) if result.product_id not in request.exclude}
        ids = list(dict.fromkeys(result.product_id for result in results if result.product_id in candidates))
        shown = await self._find_shown(ids, wanted.hides_sold_out, _without_age(request.freshness))
        unknown.update(shown.unknown)
        return [candidates[id] for id in ids if id in shown.ids]

    async def _fill_up(
        self, results: list[Result], answers: list[Answer], asked: ListRequest, wanted: Wanted, unknown: set[str]
    ) -> tuple[list[Result], list[Answer]]:
        """Adds popular products, with no score of their own, until the list is full or there are no more.

        All of them, in as many rounds as it takes: the best sellers are what sells out first.
        """
        size, missing = wanted.request.size, wanted.request.size - len(results)
        hidden, count = {*asked.exclude, *(result.product_id for result in results)}, missing + SPARE
        while True:
            try:
                popular = await self._last.generate(replace(asked, exclude=hidden, size=count))
            except (TierFailed, Overloaded):
                # A short list is better than none. An empty one would say that there is nothing.
                if not results:
                    raise
                break
            if popular is None:
                break
            answers = [*answers, *popular.answers]
            shown = await self._select_shown(popular.results, replace(asked, exclude=hidden), wanted, unknown)
            results = [*results, *(one._replace(score=0.0, terms=one.terms._replace(popular=0.0)) for one in shown)][:size]
            if len(results) == size or len(popular.results) < count:
                break
            hidden, count = {*hidden, *(result.product_id for result in popular.results)}, count * GROWTH
        return results, answers


def _without_age(freshness: Freshness) -> Freshness:
    """Returns the deadline alone: how fresh the list has to be, says nothing about the products."""
    return ANY if freshness.until is None else Freshness(until=freshness.until)
