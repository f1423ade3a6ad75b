"""StorefrontService: whole pages, each put together from what the other services answer.

There is no path of its own: a part is what a method of another service returns, so where it comes from, how fresh it is and how
it fails are the same. The message of a part has the fields of that method's reply, with their numbers: the bytes of the reply,
which caches keep, are the part.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.rpc.status_pb2 import Status

from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.services.page_parts import Method, PageParts, Part
from cache_sidecar.services.shared.bounds import Bound
from cache_sidecar.services.shared.wire import field
from cache_sidecar.v1 import recommendation_service_pb2 as recommendations
from cache_sidecar.v1 import storefront_service_pb2 as pb
from cache_sidecar.v1.cart_service_pb2 import GetCartRequest, GetCartResponse
from cache_sidecar.v1.inventory_service_pb2 import BatchGetInventoryRequest, GetInventoryRequest
from cache_sidecar.v1.product_service_pb2 import (
    BatchGetProductsRequest,
    GetProductRequest,
    ListProductsRequest,
    ListProductsResponse,
)
from cache_sidecar.v1.recommendation_pb2 import RecommendationPlacement
from cache_sidecar.v1.session_service_pb2 import GetSessionRequest
from cache_sidecar.v1.storefront_service_pb2_grpc import StorefrontServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]
CartPageRequest = pb.GetCartPageRequest | pb.GetCheckoutPageRequest
PageRequest = CartPageRequest | pb.GetHomePageRequest | pb.GetCategoryPageRequest | pb.GetProductPageRequest
# Recommendations of a page unless the caller says otherwise.
RECOMMENDATIONS = 10
HOME = RecommendationPlacement.RECOMMENDATION_PLACEMENT_HOME_PAGE
PRODUCT = RecommendationPlacement.RECOMMENDATION_PLACEMENT_PRODUCT_DETAIL
CART = RecommendationPlacement.RECOMMENDATION_PLACEMENT_SHOPPING_CART
CHECKOUT = RecommendationPlacement.RECOMMENDATION_PLACEMENT_CHECKOUT


class StorefrontService(StorefrontServiceServicer):
    """Has the other services read the parts of a page at the same time."""

    def __init__(
        self,
        *,
        products: Any,
        inventory: Any,
        carts: Any,
        sessions: Any,
        recommender: Any,
        describe: Callable[[Exception], Status],
        bound: Bound,
    ) -> None:
        """Takes the other services; `describe` returns the status of an error."""
        self._get_product: Method = products.GetProduct
        self._get_products: Method = products.BatchGetProducts
        self._list_products: Method = products.ListProducts
        self._get_stock: Method = inventory.GetInventory
        self._get_stocks: Method = inventory.BatchGetInventory
        self._get_cart: Method = carts.GetCart
        self._get_session: Method = sessions.GetSession
        self._get_recommendations: Method = recommender.GetRecommendations
        self._describe = describe
        self._bound = bound
        self._tasks = BackgroundTasks()

    async def GetHomePage(  # type: ignore[override]  # replies are serialized here
        self, request: pb.GetHomePageRequest, context: Context
    ) -> bytes:
        """Reads every part at once."""
        with self._page(context) as page:
            return await page.reply(
                pb.GetHomePageResponse,
                {
                    "recommendations": self._recommendations(page, request, HOME),
                    "cart": self._summary(page, request),
                    "session": self._session(page, request),
                },
            )

    async def GetCategoryPage(  # type: ignore[override]  # replies are serialized here
        self, request: pb.GetCategoryPageRequest, context: Context
    ) -> bytes:
        """Reads the stock once it is known which products are on the page."""
        listing = ListProductsRequest(
            category=request.category,
            order=request.order,
            page_size=request.page_size,
            page_token=request.page_token,
            options=request.options,
        )
        with self._page(context) as page:
            products: Part = page.start(page.read(self._list_products, listing))
            ids = page.start(_find_listed(products))
            return await page.reply(
                pb.GetCategoryPageResponse,
                {
                    "products": products,
                    "inventories": page.start(self._read_stocks(page, request, ids)),
                    "recommendations": self._recommendations(page, request, HOME),
                    "cart": self._summary(page, request),
                    "session": self._session(page, request),
                },
            )

    async def GetProductPage(  # type: ignore[override]  # replies are serialized here
        self, request: pb.GetProductPageRequest, context: Context
    ) -> bytes:
        """Reads every part at once; the page of a product that does not exist is not found."""
        id, options = request.product_id, request.options
        with self._page(context) as page:
            return await page.reply(
                pb.GetProductPageResponse,
                {
                    "product": page.start(page.read(self._get_product, GetProductRequest(product_id=id, options=options))),
                    "inventory": page.start(page.read(self._get_stock, GetInventoryRequest(product_id=id, options=options))),
                    "recommendations": self._recommendations(page, request, PRODUCT, product_id=id),
                    "cart": self._summary(page, request),
                    "session": self._session(page, request),
                },
                subject="product",
            )

    async def GetCartPage(  # type: ignore[override]  # replies are serialized here
        self, request: pb.GetCartPageRequest, context: Context
    ) -> bytes:
        """Reads the cart, then what belongs to its items."""
        with self._page(context) as page:
            return await page.reply(pb.GetCartPageResponse, self._cart_parts(page, request, CART))

    async def GetCheckoutPage(  # type: ignore[override]  # replies are serialized here
        self, request: pb.GetCheckoutPageRequest, context: Context
    ) -> bytes:
        """As the page of the cart."""
        with self._page(context) as page:
            return await page.reply(pb.GetCheckoutPageResponse, self._cart_parts(page, request, CHECKOUT))

    async def close(self) -> None:
        """Ends the reads that no page waits for any more."""
        await self._tasks.stop()

    # The parts

    def _page(self, context: Context) -> PageParts:
        return PageParts(context, tasks=self._tasks, describe=self._describe, bound=self._bound)

    def _cart_parts(
        self, page: PageParts, request: CartPageRequest, placement: RecommendationPlacement.ValueType
    ) -> dict[str, Part | None]:
        cart = page.start(page.read(self._get_cart, GetCartRequest(user_id=request.user_id, options=request.options)))
        ids = page.start(_find_items(cart))
        return {
            "cart": cart,
            "products": page.start(self._read_products(page, request, ids)),
            "inventories": page.start(self._read_stocks(page, request, ids)),
            "recommendations": self._recommendations(page, request, placement, cart=ids),
            "session": self._session(page, request),
        }

    def _summary(self, page: PageParts, request: PageRequest) -> Part | None:
        return page.start(self._summarize(page, request)) if request.user_id else None

    async def _summarize(self, page: PageParts, request: PageRequest) -> bytes:
        data = await page.read(self._get_cart, GetCartRequest(user_id=request.user_id, options=request.options))
        reply = GetCartResponse.FromString(data)
        return pb.CartSummaryPart(
            item_count=len(reply.cart.items),
            piece_count=sum(item.quantity for item in reply.cart.items),
            totals=reply.cart.totals,
            etag=reply.cart.etag,
            cache=reply.cache,
        ).SerializeToString()

    def _session(self, page: PageParts, request: PageRequest) -> Part | None:
        if not request.session_id:
            return None
        return page.start(page.read(self._get_session, GetSessionRequest(session_id=request.session_id)))

    def _recommendations(
        self,
        page: PageParts,
        request: PageRequest,
        placement: RecommendationPlacement.ValueType,
        *,
        product_id: str = "",
        cart: asyncio.Task[Sequence[str]] | None = None,
    ) -> Part | None:
        """Returns the part of recommendations: for the page of a product, for the products that a cart turns out to have."""
        count = request.recommendation_count if request.HasField("recommendation_count") else RECOMMENDATIONS
        if not count:
            return None
        wanted = recommendations.GetRecommendationsRequest(
            user_id=request.user_id,
            options=request.options,
            placement=placement,
            page_size=count,
            context_product_ids=[product_id] if product_id else (),
        )
        if request.HasField("personalised"):
            wanted.personalised = request.personalised
        return page.start(self._recommend(page, wanted, cart))

    async def _recommend(
        self,
        page: PageParts,
        wanted: recommendations.GetRecommendationsRequest,
        cart: asyncio.Task[Sequence[str]] | None,
    ) -> bytes:
        """Returns a list with its products, which fail by themselves."""
        if cart is not None:
            wanted.cart_product_ids.extend(await asyncio.shield(cart))
        data = await page.read(self._get_recommendations, wanted)
        reply = recommendations.GetRecommendationsResponse.FromString(data)
        if not reply.recommendations:
            return data
        ids = [one.product_id for one in reply.recommendations]
        products = await page.read_inside(self._get_products, BatchGetProductsRequest(product_ids=ids, options=wanted.options))
        return data + field(pb.RecommendationsPart.PRODUCTS_FIELD_NUMBER, products)

    async def _read_products(
        self, page: PageParts, request: CartPageRequest, known: asyncio.Task[Sequence[str]]
    ) -> bytes | None:
        ids = await asyncio.shield(known)
        wanted = BatchGetProductsRequest(product_ids=ids, options=request.options)
        return await page.read(self._get_products, wanted) if ids else None

    async def _read_stocks(self, page: PageParts, request: PageRequest, known: asyncio.Task[Sequence[str]]) -> bytes | None:
        ids = await asyncio.shield(known)
        wanted = BatchGetInventoryRequest(product_ids=ids, options=request.options)
        return await page.read(self._get_stocks, wanted) if ids else None


# Shielded: what several parts wait for ends with the page, not with one of them.


async def _find_listed(part: Part) -> Sequence[str]:
    """Returns the products of a list."""
    listed: bytes | None = await asyncio.shield(part)
    return [product.product_id for product in ListProductsResponse.FromString(listed or b"").products]


async def _find_items(part: Part) -> Sequence[str]:
    """Returns the products in a cart, each once."""
    cart: bytes | None = await asyncio.shield(part)
    return list(dict.fromkeys(item.product_id for item in GetCartResponse.FromString(cart or b"").cart.items))
