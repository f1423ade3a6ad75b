"""A client for the few Kubernetes API calls that the injector makes: dict in, dict out."""

import ssl
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import aiohttp

from cache_sidecar.core.errors import InputError, ServerUnreachable, SettingsError, SidecarError
from cache_sidecar.injector.config import ApiConfig

Object = dict[str, Any]
_SECONDS = 15.0
_PAGE = 500


def path_of(*segments: str) -> str:
    """Returns a path of the API server, with each segment percent-encoded: a name stays one segment whatever it contains.

    Raises InputError for an empty segment, `.` and `..`, which the HTTP client would resolve.
    """
    for segment in segments:
        if segment in {"", ".", ".."}:
            raise InputError(f"{segment!r} cannot be part of a path of the API server")
    return "/" + "/".join(quote(segment, safe="") for segment in segments)


class ApiRefused(SidecarError):
    """The API server rejected a request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"the API server rejected the request: {message}")
        self.status = status


class Conflict(ApiRefused):
    """The object already exists, or has changed since it was read."""


class Missing(ApiRefused):
    """The object does not exist."""


_KINDS: dict[int, type[ApiRefused]] = {HTTPStatus.CONFLICT: Conflict, HTTPStatus.NOT_FOUND: Missing}


class Api:
    """A client of the API server; an async context manager."""

    def __init__(self, config: ApiConfig) -> None:
        self._config = config
        try:
            self._tls = ssl.create_default_context(cafile=config.ca_file)
        except OSError as error:  # SSLError is one
            raise SettingsError(f"api.ca_file: cannot read {config.ca_file}: {error.strerror or error}") from None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str, **query: str) -> Object:
        """Returns an object. Like all calls, raises ApiRefused (Missing if there is no such object) or ServerUnreachable."""
        return await self._call("GET", path, query=query)

    async def items(self, path: str, **query: str) -> list[Object]:
        """Returns all items of a list, reading page by page."""
        found: list[Object] = []
        query |= {"limit": str(_PAGE)}
        while True:
            page = await self.get(path, **query)
            found += page.get("items") or []
            query["continue"] = (page.get("metadata") or {}).get("continue") or ""
            if not query["continue"]:
                return found

    async def create(self, path: str, body: Object) -> Object:
        """Creates an object; raises Conflict if one of that name exists."""
        return await self._call("POST", path, body=body)

    async def replace(self, path: str, body: Object) -> Object:
        """Replaces an object; raises Conflict if its resourceVersion is not the one in the body."""
        return await self._call("PUT", path, body=body)

    async def patch(self, path: str, body: Object | list[Object]) -> Object:
        """Patches an object: with a JSON patch if the body is a list, else with a merge patch."""
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
            raise ServerUnreachable(f"the API server at {self._config.url} does not answer: {error or 'timed out'}") from None
        if status >= HTTPStatus.BAD_REQUEST:
            message = answer.get("message") if isinstance(answer, dict) else None
            raise _KINDS.get(status, ApiRefused)(status, f"{method} {path}: {message or status}")
        return answer if isinstance(answer, dict) else {}

    def _token(self) -> str:
        try:
            return Path(self._config.token_file).read_text().strip()
        except OSError as error:
            raise ServerUnreachable(f"api.token_file: cannot read {self._config.token_file}: {error.strerror}") from None
