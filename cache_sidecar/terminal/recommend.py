"""`cache-sidecar recommend`: asks a sidecar for a list, and prints it as a table."""

from collections.abc import Iterator, Sequence
from typing import Any

from cache_sidecar.core.errors import InputError
from cache_sidecar.terminal import table
from cache_sidecar.terminal.access import Access
from cache_sidecar.v1 import recommendation_pb2 as messages
from cache_sidecar.v1 import recommendation_service_pb2 as pb
from cache_sidecar.v1.recommendation_service_pb2_grpc import RecommendationServiceStub

# Names of placements as users write them.
PLACEMENTS = {
    "home": messages.RECOMMENDATION_PLACEMENT_HOME_PAGE,
    "product": messages.RECOMMENDATION_PLACEMENT_PRODUCT_DETAIL,
    "cart": messages.RECOMMENDATION_PLACEMENT_SHOPPING_CART,
    "checkout": messages.RECOMMENDATION_PLACEMENT_CHECKOUT,
}
MODELS = [
    name.removeprefix("RECOMMENDATION_MODEL_").lower().replace("_", "-")
    for name, number in messages.RecommendationModel.items()
    if number
]
# Seconds.
TIMEOUT = 10.0
_TERMS = ("history", "context", "similar", "popular")


def request_of(
    user_id: str, *, placement: str, model: str | None, products: Sequence[str], size: int, explain: bool
) -> pb.GetRecommendationsRequest:
    """Returns the request; `products` are those of the cart or, for the page of a product, of the page.

    Raises InputError for a model that does not exist.
    """
    if model is not None and model not in MODELS:
        raise InputError(f"there is no model {model!r}; there are: {', '.join(MODELS)}")
    is_page = placement == "product"
    return pb.GetRecommendationsRequest(
        user_id=user_id,
        placement=PLACEMENTS[placement],
        model=messages.RecommendationModel.Value(f"RECOMMENDATION_MODEL_{(model or 'unspecified').upper().replace('-', '_')}"),
        page_size=size,
        context_product_ids=products if is_page else (),
        cart_product_ids=() if is_page else products,
        explain=explain,
    )


async def ask(access: Access, request: pb.GetRecommendationsRequest) -> pb.GetRecommendationsResponse:
    """Returns a sidecar's list. Raises ServerUnreachable and SidecarError."""
    async with access.open() as channel:
        stub: Any = RecommendationServiceStub(channel)
        call = stub.GetRecommendations(request, timeout=TIMEOUT, metadata=access.metadata)
        reply: pb.GetRecommendationsResponse = await access.ask(call)
        return reply


def lines(reply: pb.GetRecommendationsResponse, *, explain: bool) -> Iterator[str]:
    """Yields the lines to print: the list as a table, and where it comes from."""
    terms = _TERMS if explain else ()
    rows = [["product", "score", *terms, "reason", "because"]]
    for one in reply.recommendations:
        reason = messages.RecommendationReason.Name(one.reason).removeprefix("RECOMMENDATION_REASON_")
        numbers = [one.score, *(getattr(one.terms, name) for name in terms)]
        rows.append([one.product_id, *(f"{number:.4f}" for number in numbers), reason, one.because_product_id])
    yield from table.lines(rows, left=len(rows[0]))
    facts = [f"generator {reply.generator or 'none'}"]
    if reply.fallback:
        facts.append("after another one failed")
    if reply.model_version:
        facts.append(f"model {reply.model_version}")
    if reply.HasField("model_time"):
        facts.append(f"of {reply.model_time.ToJsonString()}")
    if reply.experiment_id:
        facts.append(f"experiment {reply.experiment_id}, variant {reply.variant}")
    yield ""
    yield "; ".join(facts)
