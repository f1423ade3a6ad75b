"""The products whose pages a user viewed: no model, a query of the user's events."""

from collections.abc import Awaitable, Callable, Sequence

from cache_sidecar.recommendations.generator import GeneratedList, Kind, ListRequest
from cache_sidecar.recommendations.rank import Reason, Result, Terms

# Its name; it is asked for its lists whatever the setting says.
NAME = "viewed"
# Views of a user that count, the latest ones.
VIEWS = 500

ReadViewed = Callable[[str, int], Awaitable[Sequence[tuple[str, float]]]]
"""Returns the products of a user's last views, the latest first, with their times in seconds since 1970. Raises TierFailed."""


class ViewedGenerator:
    """Lists of the kind RECENTLY_VIEWED, and no others."""

    name = NAME

    def __init__(self, read: ReadViewed) -> None:
        self._read = read

    async def generate(self, request: ListRequest) -> GeneratedList | None:
        """Returns the products that the user viewed and the request does not exclude, the latest first."""
        if request.kind is not Kind.RECENTLY_VIEWED or not request.user_id:
            return None
        viewed = await self._read(request.user_id, VIEWS)
        hidden = {*request.exclude, *request.page, *request.cart}
        shown = [product_id for product_id, _ in viewed if product_id not in hidden][: request.size]
        # The score is the place: what was viewed how long ago is nobody's measure of how much it is liked.
        results = [Result(product_id, 1 / place, Reason.VIEWED, "", Terms()) for place, product_id in enumerate(shown, 1)]
        return GeneratedList(results, model_time=max((time for _, time in viewed), default=0.0))
