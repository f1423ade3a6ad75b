"""Lists that the shop computed itself: a stream of them becomes a batch, which is served as a whole or not at all."""

import asyncio
from collections.abc import AsyncIterator

from cache_sidecar.core.errors import InvalidRequest, StreamIdle
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.recommendations.generator import Kind
from cache_sidecar.store.provided import Key, Progress, ProvidedList, ProvidedStore
from cache_sidecar.v1 import recommendation_service_pb2 as pb
from cache_sidecar.v1.recommendation_pb2 import RecommendationList, RecommendationModel

# Seconds for the next request of a stream. One that sends nothing more would hold one of the role's streams for ever.
IDLE = 60.0


class RecommendationImports:
    """Stores batches, and deletes what was stored."""

    def __init__(self, store: ProvidedStore) -> None:
        self._store = store
        self._tasks = BackgroundTasks()

    async def receive(self, requests: AsyncIterator[pb.ImportRecommendationsRequest]) -> pb.ImportRecommendationsResponse:
        """Stores the lists of a stream, and returns how far the batch is.

        Each request is one transaction, and the next one is read after it: so a caller that sends faster is slowed down.
        Raises StreamIdle if it does not come.
        """
        batch_id, progress = "", Progress(0, is_committed=False)
        while (request := await _next(requests)) is not None:
            if batch_id and request.batch_id != batch_id:
                raise InvalidRequest({"batch_id": "must be the same in all requests of a stream"})
            batch_id = request.batch_id
            lists = [_list(given) for given in request.lists]
            progress = await self._store.receive(batch_id, lists, first=request.first_list, commit=request.commit)
        if not batch_id:
            raise InvalidRequest({"batch_id": "must be set, but the stream has no request"})
        if progress.is_committed:
            self._tasks.once("sweep", self._sweep)
        return pb.ImportRecommendationsResponse(next_list=progress.next_list, committed=progress.is_committed)

    async def delete(self, request: pb.DeleteRecommendationsRequest) -> pb.DeleteRecommendationsResponse:
        """Deletes the lists of a user, of a product's page, or of a batch."""
        if request.user_id:
            count = await self._store.delete_of_user(request.user_id)
        elif request.product_id:
            count = await self._store.delete_of_product(request.product_id)
        else:
            count = await self._store.delete_batch(request.batch_id)
            self._tasks.once("sweep", self._sweep)
        return pb.DeleteRecommendationsResponse(deleted_count=count)

    async def _sweep(self) -> None:
        """Deletes what is not served any more. If it fails, the next import goes on with it."""
        while await self._store.sweep():
            pass

    async def close(self) -> None:
        """Stops deleting."""
        await self._tasks.stop()


async def _next(requests: AsyncIterator[pb.ImportRecommendationsRequest]) -> pb.ImportRecommendationsRequest | None:
    """Returns the next request; None at the end of the stream. Raises StreamIdle."""
    try:
        async with asyncio.timeout(IDLE):
            return await anext(requests, None)
    except TimeoutError:
        raise StreamIdle(IDLE) from None


def _list(given: RecommendationList) -> ProvidedList:
    if given.model:
        kind = Kind(RecommendationModel.Name(given.model).removeprefix("RECOMMENDATION_MODEL_"))
    else:
        kind = Kind.RECOMMENDED_FOR_YOU if given.user_id else Kind.FREQUENTLY_BOUGHT_TOGETHER
    best: dict[str, float] = {}
    for one in given.recommendations:
        best.setdefault(one.product_id, one.score)
    return ProvidedList(Key(given.user_id, given.product_id, kind), list(best), list(best.values()))
