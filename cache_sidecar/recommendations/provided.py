"""The generator `provided`: lists that the shop computed itself and imported."""

from collections.abc import Mapping
from itertools import islice, zip_longest

from cache_sidecar.recommendations.generator import GeneratedList, ListRequest
from cache_sidecar.recommendations.rank import Reason, Result, Terms
from cache_sidecar.store.provided import Key, ProvidedStore
from cache_sidecar.tiers.ports import Answer, Source

# Of the products of a page and a cart, those whose lists are looked up.
CONTEXT = 20


class ProvidedGenerator:
    """Finds lists in the batch that is served."""

    name = "provided"

    def __init__(self, store: ProvidedStore) -> None:
        self._store = store

    async def generate(self, request: ListRequest) -> GeneratedList | None:
        """Returns the lists of the products of the page and the cart, the best of each first; without any, the user's list.

        None if there is neither. Raises TierFailed.
        """
        of_products = [Key("", product_id, request.kind) for product_id in request.context[:CONTEXT]]
        of_user = [Key(request.user_id, "", request.kind)] if request.user_id else []
        if not (wanted := of_products + of_user):
            return None
        found = await self._store.find(wanted)
        lists = [found[key] for key in of_products if key in found] or [found[key] for key in of_user if key in found]
        if not lists:
            return None
        scores: dict[str, float] = {}
        for level in zip_longest(*(zip(one.product_ids, one.scores, strict=True) for one in lists)):
            for product in level:
                if product is not None:
                    scores.setdefault(*product)
        answer = Answer(None, Source.STORE, 0, 0.0, stale=False)
        return GeneratedList(in_order(scores, request.size), lists[0].batch_id, answers=[answer])


def in_order(scores: Mapping[str, float], size: int) -> list[Result]:
    """Returns products in the order in which they are given, with scores that do not grow: the order counts."""
    results: list[Result] = []
    lowest = float("inf")
    for product_id, score in islice(scores.items(), size):
        lowest = min(lowest, score)
        results.append(Result(product_id, lowest, Reason.PROVIDED, "", Terms()))
    return results
