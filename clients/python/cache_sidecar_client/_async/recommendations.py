"""Recommendations."""

from collections.abc import Mapping, Sequence

from cache_sidecar_client import _methods, values
from cache_sidecar_client._async.caller import Caller, resume_after
from cache_sidecar_client.errors import SidecarError
from cache_sidecar_client.models import MODEL, PLACEMENT, Recommendations, read_options
from cache_sidecar_client.v1 import recommendation_pb2, recommendation_service_pb2

LISTS_OF_A_REQUEST = 200
"In an import: of at most 500 products each, they fit into a request of any sidecar."


class RecommendationLists:
    """Reads lists of products, and imports those that the shop computed itself."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def get(
        self,
        user_id: str = "",
        *,
        placement: str = "UNSPECIFIED",
        model: str = "UNSPECIFIED",
        page_size: int = 0,
        context_product_ids: Sequence[str] = (),
        cart_product_ids: Sequence[str] = (),
        exclude_product_ids: Sequence[str] = (),
        filter_purchased: bool = False,
        filter_out_of_stock: bool = False,
        personalised: bool | None = None,
        explain: bool = False,
        max_age: float | None = None,
        bypass: bool = False,
        timeout: float | None = None,
    ) -> Recommendations:
        """Returns a list; that of an unknown user has popular products.

        `placement` is HOME_PAGE, PRODUCT_DETAIL, SHOPPING_CART or CHECKOUT; `model` RECOMMENDED_FOR_YOU,
        OTHERS_YOU_MAY_LIKE, FREQUENTLY_BOUGHT_TOGETHER, BUY_IT_AGAIN, RECENTLY_VIEWED or BEST_SELLERS.
        """
        request = recommendation_service_pb2.GetRecommendationsRequest(
            user_id=user_id,
            options=read_options(max_age, bypass),
            placement=PLACEMENT.number(placement),  # type: ignore[arg-type]  # an enum's number
            model=MODEL.number(model),  # type: ignore[arg-type]
            page_size=page_size,
            context_product_ids=context_product_ids,
            cart_product_ids=cart_product_ids,
            exclude_product_ids=exclude_product_ids,
            filter_purchased=filter_purchased,
            filter_out_of_stock=filter_out_of_stock,
            explain=explain,
        )
        if personalised is not None:
            request.personalised = personalised
        return Recommendations(await self._caller.call(_methods.GET_RECOMMENDATIONS, request, timeout))

    async def import_lists(
        self,
        batch_id: str,
        lists: Sequence[recommendation_pb2.RecommendationList],
        *,
        commit: bool = True,
        first_list: int = 0,
    ) -> int:
        """Stores a batch of lists (see `recommendation_list`), the first of which has the number `first_list`.

        Returns how many lists of the batch are stored. With `commit`, the batch then replaces the one before. If the
        connection is lost, it goes on with the list that the sidecar lacks.
        """
        repeats = 0
        start = 0
        while True:
            try:
                requests = _requests(batch_id, lists, start, first_list, commit=commit)
                return int((await self._caller.upload(_methods.IMPORT_RECOMMENDATIONS, requests)).next_list)
            except SidecarError as error:
                await resume_after(self._caller, error, repeats)
                repeats += 1
            ask = recommendation_service_pb2.ImportRecommendationsRequest(batch_id=batch_id)
            try:
                stored = (await self._caller.upload(_methods.IMPORT_RECOMMENDATIONS, [ask])).next_list
            except SidecarError as error:
                await resume_after(self._caller, error, repeats)
            else:
                start = min(max(stored - first_list, 0), len(lists))

    async def delete(self, *, user_id: str = "", product_id: str = "", batch_id: str = "", timeout: float | None = None) -> int:
        """Deletes the imported lists of a user, of a product's page, or of a batch; returns their number."""
        request = recommendation_service_pb2.DeleteRecommendationsRequest(
            user_id=user_id, product_id=product_id, batch_id=batch_id
        )
        reply = await self._caller.call(_methods.DELETE_RECOMMENDATIONS, request, timeout)
        return int(reply.deleted_count)


def recommendation_list(
    products: Sequence[str] | Mapping[str, float], *, user_id: str = "", product_id: str = "", model: str = "UNSPECIFIED"
) -> recommendation_pb2.RecommendationList:
    """Returns a list for `import_lists`, for a user or for the page of a product: IDs, or IDs with scores, best first."""
    scores = products if isinstance(products, Mapping) else dict.fromkeys(products, 0.0)
    return recommendation_pb2.RecommendationList(
        user_id=user_id,
        product_id=product_id,
        model=MODEL.number(model),  # type: ignore[arg-type]  # an enum's number
        recommendations=[recommendation_pb2.ProvidedRecommendation(product_id=id, score=score) for id, score in scores.items()],
    )


def _requests(
    batch_id: str,
    lists: Sequence[recommendation_pb2.RecommendationList],
    start: int,
    first_list: int,
    *,
    commit: bool,
) -> list[recommendation_service_pb2.ImportRecommendationsRequest]:
    requests = [
        recommendation_service_pb2.ImportRecommendationsRequest(
            batch_id=batch_id, first_list=first_list + start + index * LISTS_OF_A_REQUEST, lists=part
        )
        for index, part in enumerate(values.chunks(list(lists[start:]), LISTS_OF_A_REQUEST))
    ]
    if not requests:
        requests = [recommendation_service_pb2.ImportRecommendationsRequest(batch_id=batch_id, first_list=first_list + start)]
    requests[-1].commit = commit
    return requests
