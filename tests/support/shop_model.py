"""The shop's own model, as a server in this process: answers what the test says, or holds calls at a gate."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from cache_sidecar.v1 import recommendation_generator_pb2 as pb
from cache_sidecar.v1.recommendation_generator_pb2_grpc import (
    RecommendationGeneratorServiceServicer,
    add_RecommendationGeneratorServiceServicer_to_server,
)
from cache_sidecar.v1.recommendation_pb2 import ProvidedRecommendation
from tests.support.gates import Gate

Request = pb.GenerateRecommendationsRequest
Reply = pb.GenerateRecommendationsResponse


def a_list(*product_ids: str, **fields: Any) -> Reply:
    """Returns a reply whose first product has the greatest score."""
    count = len(product_ids)
    products = [ProvidedRecommendation(product_id=id, score=count - place) for place, id in enumerate(product_ids)]
    return Reply(recommendations=products, **fields)


class ShopModel(RecommendationGeneratorServiceServicer):
    """The shop's service."""

    def __init__(self) -> None:
        self.reply = a_list("sofa", "lamp", "rug")
        self.error: grpc.StatusCode | None = None
        self.gate = Gate()
        self.requests: list[Request] = []
        self.metadata: list[dict[str, str | bytes]] = []
        "Of each request."
        self.address = ""

    async def GenerateRecommendations(self, request: Request, context: Any) -> Reply:
        """Answers what the test says."""
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata() or ()))
        await self.gate.passed()
        if self.error is not None:
            await context.abort(self.error, "the model is not trained")
        return self.reply

    @contextlib.asynccontextmanager
    async def serving(self, address: str = "127.0.0.1:0", credentials: Any = None) -> AsyncIterator[None]:
        """Serves until the end of the context, where calls in progress are cancelled."""
        server = grpc.aio.server()
        add_RecommendationGeneratorServiceServicer_to_server(self, server)
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
        self.address = f"127.0.0.1:{port}"
        await server.start()
        try:
            yield
        finally:
            await asyncio.shield(server.stop(grace=None))
