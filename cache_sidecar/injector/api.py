"""The few calls to the API server of Kubernetes that the injector makes: dict in, dict out."""

import ssl
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import aiohttp

from cache_sidecar.core.errors import ServerUnreachable, SettingsError, SidecarError
from cache_sidecar.injector.config import ApiConfig

Object = dict[str, Any]
_SECONDS = 15.0
_PAGE = 500


class ApiRefused(SidecarError):
    """The API server answered, and said no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"the API server refused: {message}")
        self.status = status


class Conflict(ApiRefused):
    """Somebody else was first: the object is there already, or was changed since it was read."""


class Missing(ApiRefused):
    """There is no such object."""


_KINDS: dict[int, type[ApiRefused]] = {HTTPStatus.CONFLICT: Conflict, HTTPStatus.NOT_FOUND: Missing}


class Api:
    """A connection to the API server; a context manager."""

    def __init__(self, config: ApiConfig) -> None:
        self._config = config
        try:
            self._tls = ssl.create_default_context(cafile=config.ca_file)
        except OSError as error:  # of which SSLError is one
            raise SettingsError(f"api.ca_file: cannot read {config.ca_file}: {error.strerror or error}") from None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str, **query: str) -> Object:
        """Returns an object. Raises ApiRefused, of which Missing, and ServerUnreachable; so do the other calls."""
        return await self._call("GET", path, query=query)

    async def items(self, path: str, **query: str) -> list[Object]:
        """Returns all items of a list, page by page."""
        found: list[Object] = []
        query |= {"limit": str(_PAGE)}
        while True:
            page = await self.get(path, **query)
            found += page.get("items") or []
            query["continue"] = (page.get("metadata") or {}).get("continue") or ""
            if not query["continue"]:
                return found

    async def create(self, path: str, body: Object) -> Object:
        """Makes an object; raises Conflict when there is one of that name."""
        return await self._call("POST", path, body=body)

    async def replace(self, path: str, body: Object) -> Object:
        """Replaces an object; raises Conflict when it is not the version that the body names."""
        return await self._call("PUT", path, body=body)

    async def patch(self, path: str, body: Object | list[Object]) -> Object:
        """Changes an object by a merge patch, or by a JSON patch when it is a list."""
        return await self._call("PATCH", path, body=body)

    async def _call(self, method: str, path: str, *, body: Any = None, query: dict[str, str] | None = None) -> Object:
        headers = {"Authorization": f"Bearer {self._token()}", "Accept": "application/json"}
        if method == "PATCH":
            kind = "json-patch" if isinstance(body, list) else "merge-patch"
            headers["Content-Type"] = f"application/{kind}+json"
        try:
            async with self._session.request(
                method, self._config.url + path, json=body, params=query, headers=headers, ssl=self._tls
            ) as reply:
                answer = await reply.json(content_type=None)
                status = reply.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ServerUnreachable(f"the API server at {self._config.url} does not answer: {error or 'too late'}") from None
        if status >= HTTPStatus.BAD_REQUEST:
            message = answer.get("message") if isinstance(answer, dict) else None
            raise _KINDS.get(status, ApiRefused)(status, f"{method} {path}: {message or status}")
        return answer if isinstance(answer, dict) else {}

    def _token(self) -> str:
        try:
            return Path(self._config.token_file).read_text().strip()
        except OSError as error:
            raise ServerUnreachable(f"api.token_file: cannot read {self._config.token_file}: {error.strerror}") from None
