"""RecommendationService: lists of products."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.unknown_fields import UnknownFieldSet

from cache_sidecar.config import experiment
from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import TierFailed
from cache_sidecar.inventory.stock import StockReader
from cache_sidecar.recommendations.folder import decode_row, decode_user
from cache_sidecar.recommendations.generator import Kind, ListRequest, Place
from cache_sidecar.recommendations.learned import PopularGenerator, ShopGenerator
from cache_sidecar.recommendations.lists import FindShown, ListMaker, MadeList, Shown, Wanted
from cache_sidecar.recommendations.packing import pack_popular, pack_profile, pack_row
from cache_sidecar.recommendations.rank import NOBODY, Result, profile_of
from cache_sidecar.services.recommendation_imports import RecommendationImports
from cache_sidecar.services.shared import rows, wire
from cache_sidecar.services.shared.freshness import describe, freshness_of, metadata_of_all
from cache_sidecar.services.shared.known import read_known
from cache_sidecar.services.shared.timestamps import datetime_of, timestamp
from cache_sidecar.store.recommendation import PopularRow, RecommendationStore, UserRow
from cache_sidecar.store.recommendation import Row as ItemRow
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import ANY, Freshness, Load, Row, UnreadableRow
from cache_sidecar.v1 import recommendation_service_pb2 as pb
from cache_sidecar.v1.product_service_pb2 import GetProductResponse
from cache_sidecar.v1.recommendation_pb2 import (
    Recommendation,
    RecommendationModel,
    RecommendationPlacement,
    RecommendationReason,
    RecommendationTerms,
)
from cache_sidecar.v1.recommendation_service_pb2_grpc import RecommendationServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]
DATASET = "recommendation"
PROFILE = "recommendation_profile"
ITEM = "recommendation_item"
POPULAR = "recommendation_popular"
# Generators that know purchases and nothing else.
SHOP, POPULAR_PRODUCTS = ShopGenerator.name, PopularGenerator.name
# Products in a list unless the caller says otherwise.
PAGE_SIZE = 10
# Products of a cart that count.
CART = 100
# Lists that a load makes at the same time. Their reads go out together; each takes the event loop for less than a millisecond.
AT_ONCE = 16
# Seconds for which it is remembered whether a product is sold out, and for how many products.
STOCK_FOR = 30.0
MAX_STOCKS = 50_000
# Degraded lists that are remembered for `negative_ttl`, so that a model that fails is not asked for them by each read.
MAX_DEGRADED = 10_000


class Recommender:
    """Makes replies: what the service answers, and what caches keep of the home page's list."""

    def __init__(self, maker: ListMaker, *, order: Sequence[str], policy: Callable[[], DatasetPolicy], clock: Clock) -> None:
        """`order` are the generators to ask unless the user's variant of an experiment has others."""
        self._maker = maker
        self._order = order
        self._policy = policy
        self._clock = clock
        self._degraded: dict[str, tuple[float, Row]] = {}
        "By user, the degraded list, and until when it is served, in seconds since the epoch."

    async def make(
        self, request: pb.GetRecommendationsRequest, freshness: Freshness, *, popular_only: bool = False
    ) -> pb.GetRecommendationsResponse:
        """Returns the reply to a request, with the metadata of what it was computed from. Raises TierFailed.

        With `popular_only`, the other generators are known to have nothing.
        """
        user_id = request.user_id if is_personalised(request) else ""
        place = place_of(request)
        wanted = ListRequest(
            user_id=user_id,
            place=place,
            kind=kind_of(request, place),
            page=list(request.context_product_ids),
            cart=list(request.cart_product_ids[:CART]),
            exclude=frozenset((*request.exclude_product_ids, *request.cart_product_ids)),
            size=request.page_size or PAGE_SIZE,
            freshness=freshness,
        )
        made, reply = await self._make(
            wanted,
            explain=request.explain,
            hides_purchased=request.filter_purchased,
            hides_sold_out=request.filter_out_of_stock,
            popular_only=popular_only,
        )
        reply.cache.CopyFrom(metadata_of_all(made.answers))
        return reply

    def knows_strangers(self, user_id: str) -> bool:
        """Whether a generator may have a list for a user who has bought nothing, besides the popular products."""
        return not {*self._choose(user_id)[0]} <= {SHOP, POPULAR_PRODUCTS}

    async def make_home(self, user_id: str, user: UserRow | None) -> Row | None:
        """Returns what caches keep of the home page's list of a user whose history was just read; None if nobody has one.

        Raises TierFailed.
        """
        version, now = user.version if user else 0, self._clock.now()
        until, last = self._degraded.get(user_id, (0.0, None))
        # Of another version, it was made before a purchase.
        if last is not None and last.version == version and now < until:
            return last
        profile = NOBODY if user is None else profile_of(decode_user(user_id, user.history), user.model_time)
        made, reply = await self._make(
            ListRequest(user_id=user_id, place=Place.HOME_PAGE, kind=Kind.RECOMMENDED_FOR_YOU, size=PAGE_SIZE, profile=profile)
        )
        if made.fallback == POPULAR_PRODUCTS or made.is_degraded:
            if len(self._degraded) >= MAX_DEGRADED:
                self._degraded.clear()
            row = Row(version, reply.SerializeToString(), degraded=True)
            self._degraded[user_id] = now + self._policy().negative_ttl, row
            return row
        if user is None and made.generator in {"", POPULAR_PRODUCTS}:
            return None
        return Row(version, reply.SerializeToString())

    def _choose(self, user_id: str) -> tuple[Sequence[str], str]:
        """Returns the generators to ask for a user, and the user's variant of the experiment, if there is one."""
        policy = self._policy()
        if not policy.experiment_id or not user_id:
            return self._order, ""
        chosen = experiment.choose(experiment.parse(policy.experiment_variants), salt=policy.experiment_salt, user_id=user_id)
        return chosen.generators or self._order, chosen.name

    async def _make(
        self,
        request: ListRequest,
        *,
        explain: bool = False,
        hides_purchased: bool = False,
        hides_sold_out: bool = False,
        popular_only: bool = False,
    ) -> tuple[MadeList, pb.GetRecommendationsResponse]:
        policy = self._policy()
        order, variant = self._choose(request.user_id)
        if popular_only:
            order = [name for name in order if name == POPULAR_PRODUCTS]
        made = await self._maker.make(
            Wanted(
                request=request,
                order=order,
                hides_purchased=hides_purchased,
                hides_sold_out=hides_sold_out or policy.hide_sold_out,
            )
        )
        reply = pb.GetRecommendationsResponse(
            recommendations=[_message(result, explain=explain) for result in made.results],
            experiment_id=policy.experiment_id if variant else "",
            variant=variant,
            model_version=made.model_version,
            generator=made.generator,
            fallback=made.fallback,
            degraded=made.is_degraded,
        )
        if made.model_time:
            reply.model_time.CopyFrom(timestamp(datetime_of(made.model_time)))
        parts = made.generator, made.model_version, request.place, request.kind, reply.experiment_id, variant
        reply.attribution_token = "/".join((*parts, str(int(made.model_time))))
        return made, reply


class RecommendationService(RecommendationServiceServicer):
    """Answers the home page from its dataset, and computes all other lists."""

    def __init__(self, homes: Dataset, *, recommender: Recommender, products: Dataset, imports: RecommendationImports) -> None:
        self._homes = homes
        self._imports = imports
        self._recommender = recommender
        self._products = products

    async def GetRecommendations(  # type: ignore[override]  # replies are serialized here
        self, request: pb.GetRecommendationsRequest, context: Context
    ) -> bytes:
        """Returns the cached reply with its metadata appended, or a list that is made now."""
        freshness = freshness_of(request.options, context)
        is_stranger = False
        if is_home(request):
            # It is cached for minutes, what lists are made from for hours, and the shop's own model may answer in any case.
            with contextlib.suppress(TierFailed):
                answer = await self._homes.get(request.user_id, freshness)
                if answer.value is not None:
                    reply = pb.GetRecommendationsResponse()
                    describe(answer, reply.cache)
                    return answer.value + reply.SerializeToString()
                is_stranger = True
        made = await self._recommender.make(request, freshness, popular_only=is_stranger)
        made.missing_product_ids.extend(await self._find_missing(request, freshness))
        return made.SerializeToString()

    async def _find_missing(self, request: pb.GetRecommendationsRequest, freshness: Freshness) -> Sequence[str]:
        """Returns the products of the page and the cart that are not in the catalogue; none if that cannot be read."""
        named = list(dict.fromkeys((*request.context_product_ids, *request.cart_product_ids)))
        if not named:
            return []
        try:
            answers = await self._products.get_many(named, _deadline_of(freshness))
        except TierFailed:
            return []
        return [id for id in named if id in answers and answers[id].value is None]

    async def ImportRecommendations(
        self, requests: AsyncIterator[pb.ImportRecommendationsRequest], context: Context
    ) -> pb.ImportRecommendationsResponse:
        """Stores a batch of lists that the shop computed."""
        return await self._imports.receive(requests)

    async def DeleteRecommendations(
        self, request: pb.DeleteRecommendationsRequest, context: Context
    ) -> pb.DeleteRecommendationsResponse:
        """Deletes lists that the shop computed."""
        return await self._imports.delete(request)


def is_home(request: pb.GetRecommendationsRequest) -> bool:
    """Whether a request is answered by what is cached of the user's home page."""
    return (
        bool(request.user_id)
        and is_personalised(request)
        and request.page_size in {0, PAGE_SIZE}
        and place_of(request) is Place.HOME_PAGE
        and kind_of(request, Place.HOME_PAGE) is Kind.RECOMMENDED_FOR_YOU
        and not (request.context_product_ids or request.cart_product_ids or request.exclude_product_ids)
        and not (request.filter_purchased or request.filter_out_of_stock or request.explain)
    )


def is_personalised(request: pb.GetRecommendationsRequest) -> bool:
    """Whether the user agrees to be recognized."""
    return request.personalised or not request.HasField("personalised")


def place_of(request: pb.GetRecommendationsRequest) -> Place:
    """Returns where the list is shown."""
    name = RecommendationPlacement.Name(request.placement or RecommendationPlacement.RECOMMENDATION_PLACEMENT_HOME_PAGE)
    return Place(name.removeprefix("RECOMMENDATION_PLACEMENT_"))


def kind_of(request: pb.GetRecommendationsRequest, place: Place) -> Kind:
    """Returns what the list is made of."""
    if request.model:
        return Kind(RecommendationModel.Name(request.model).removeprefix("RECOMMENDATION_MODEL_"))
    return Kind.RECOMMENDED_FOR_YOU if place is Place.HOME_PAGE else Kind.FREQUENTLY_BOUGHT_TOGETHER


def make_filter(products: Dataset, stocks: StockReader, *, clock: Clock) -> FindShown:
    """Returns the function that finds which products may be shown, by their cached rows.

    Whether a product is sold out is remembered for `STOCK_FOR` seconds: stock is not kept in memory, and most lists have the
    same products.
    """
    remembered: dict[str, tuple[float, bool]] = {}

    async def find_shown(ids: Sequence[str], hides_sold_out: bool, wanted: Freshness) -> Shown:
        answers, unread = await read_known(products.get_many, ids, wanted)
        active = [id for id in ids if id in answers and _is_active(answers[id].value)]
        if not hides_sold_out:
            return Shown(set(active), unread)
        now = clock.now()
        known = {id: one[1] for id in active if (one := remembered.get(id)) and 0 <= now - one[0] < STOCK_FOR}
        if unknown := [id for id in active if id not in known]:
            found, uncounted = await read_known(stocks.get_many, unknown, wanted)
            unread = {*unread, *uncounted}
            # A product without inventory is not sold out: the shop does not count its pieces.
            read = {
                id: id in found and bool(found[id].parts) and found[id].available <= 0 for id in unknown if id not in uncounted
            }
            known |= read
            if len(remembered) > MAX_STOCKS:
                remembered.clear()
            remembered.update((id, (now, is_sold_out)) for id, is_sold_out in read.items())
        return Shown({id for id in active if id in known and not known[id]}, unread)

    return find_shown


def _is_active(entry: bytes | None) -> bool:
    return entry is not None and GetProductResponse.FromString(entry).product.active


def _deadline_of(freshness: Freshness) -> Freshness:
    return ANY if freshness.until is None else Freshness(until=freshness.until)


def _message(result: Result, *, explain: bool) -> Recommendation:
    made = Recommendation(
        product_id=result.product_id,
        score=result.score,
        reason=RecommendationReason.Value(f"RECOMMENDATION_REASON_{result.reason}"),
        because_product_id=result.because_product_id,
    )
    if explain:
        made.terms.CopyFrom(RecommendationTerms(**result.terms._asdict()))
    return made


# What caches keep, and how it is loaded


def home_loader(store: RecommendationStore, recommender: Recommender) -> Load:
    """Returns the function that makes the home page's lists of users for the dataset.

    A user who has bought nothing has one if a generator other than `popular` made it.
    """

    async def load(ids: Sequence[str]) -> dict[str, Row | UnreadableRow]:
        users = {user.user_id: user for user in await store.users(ids)}
        wanted = [id for id in ids if id in users or recommender.knows_strangers(id)]
        found: dict[str, Row | UnreadableRow] = {}
        for start in range(0, len(wanted), AT_ONCE):
            page = wanted[start : start + AT_ONCE]
            made = await asyncio.gather(*(recommender.make_home(id, users.get(id)) for id in page))
            found |= {id: row for id, row in zip(page, made, strict=True) if row is not None}
        return found

    return load


def profile_loader(store: RecommendationStore) -> Load:
    """Returns the function that loads profiles for the dataset."""

    def to_row(user: UserRow) -> Row:
        profile = profile_of(decode_user(user.user_id, user.history), user.model_time)
        return Row(user.profile_version, pack_profile(profile, user.model_time))

    async def load(ids: Sequence[str]) -> dict[str, Row | UnreadableRow]:
        return {user.user_id: rows.read(user, to_row) for user in await store.users(ids)}

    return load


def item_loader(store: RecommendationStore) -> Load:
    """Returns the function that loads products' neighbours for the dataset."""

    def to_value(row: ItemRow) -> bytes:
        return pack_row(decode_row(row))

    async def load(ids: Sequence[str]) -> dict[str, Row | UnreadableRow]:
        found: dict[str, Row | UnreadableRow] = {}
        for row, version in await store.rows(ids):
            value = rows.read(row, to_value)
            found[row.product_id] = value if isinstance(value, UnreadableRow) else Row(version, value)
        return found

    return load


def popular_loader(store: RecommendationStore) -> Load:
    """Returns the function that loads the most popular products for the dataset."""

    def to_row(row: PopularRow) -> Row:
        shares: Mapping[str, float] = dict(zip(row.product_ids, row.shares, strict=True))
        return Row(row.version, pack_popular(shares, row.model_time))

    async def load(ids: Sequence[str]) -> dict[str, Row | UnreadableRow]:
        return {row.name: rows.read(row, to_row) for row in await store.popular(ids)}

    return load


def is_entry(_id: str, value: bytes) -> bool:
    """Whether bytes are what caches keep of a home page's list: a reply without its metadata."""
    entry = wire.parse(pb.GetRecommendationsResponse, value)
    return (
        entry is not None
        and not entry.HasField("cache")
        and not len(UnknownFieldSet(entry))
        and all(one.product_id for one in entry.recommendations)
    )


def is_same_entry(one: bytes, other: bytes) -> bool:
    """Whether two entries show the same products, in the same order. Scores change with time."""
    first, second = (pb.GetRecommendationsResponse.FromString(entry).recommendations for entry in (one, other))
    return [result.product_id for result in first] == [result.product_id for result in second]
