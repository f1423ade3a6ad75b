"""FastAPI: `app = FastAPI(lifespan=lifespan())`, then `shop: Shop` as an argument of a path operation."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse

from cache_sidecar_client import Options, aio
from cache_sidecar_client.contrib.http import headers, http_status, problem
from cache_sidecar_client.errors import SidecarError


def lifespan(options: Options | None = None) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Returns a lifespan with a client, which is closed at the end."""

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        async with aio.connect(options=options) as shop:
            app.state.cache_sidecar = shop
            yield

    return run


def add_error_handler(app: FastAPI) -> None:
    """Lets errors of the sidecar become HTTP statuses with JSON."""
    app.add_exception_handler(SidecarError, _answer)


def get_shop(request: Request) -> aio.Client:
    """Returns the application's client: the dependency."""
    client: aio.Client = request.app.state.cache_sidecar
    return client


Shop = Annotated[aio.Client, Depends(get_shop)]


async def _answer(request: Request, error: Exception) -> JSONResponse:
    del request
    if not isinstance(error, SidecarError):
        raise error
    return JSONResponse(problem(error), http_status(error), headers(error))
