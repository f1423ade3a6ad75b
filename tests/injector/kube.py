"""A small API server: objects by their paths, with versions, conflicts, selectors and pages, over TLS. For what a test has to hold
in place; the end-to-end tests run the real one."""

import asyncio
import contextlib
import copy
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jsonpatch
from aiohttp import web

from cache_sidecar.injector.certificates import renew
from cache_sidecar.injector.config import ApiConfig

Object = dict[str, Any]


def let_be(_method: str, _path: str) -> None:
    """Changes nothing before a request is served."""


class Kube:
    """Its objects, and what was asked of it."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.calls: list[tuple[str, str]] = []
        self.raw_paths: list[str] = []
        "The paths of the calls as they were sent, still encoded."
        self.before: Callable[[str, str], None] = let_be
        "Called with each request's method and path before it is served; may change objects."
        self.refuse: dict[str, int] = {}
        "Paths that are refused, with the status."
        self.config = ApiConfig()
        self._version = 0

    def put(self, path: str, thing: Object) -> Object:
        """Stores an object, with a new version."""
        self._version += 1
        metadata = {"name": path.rpartition("/")[2]} | thing.get("metadata", {}) | {"resourceVersion": str(self._version)}
        self.objects[path] = thing | {"metadata": metadata}
        return self.objects[path]

    async def handle(self, request: web.Request) -> web.Response:
        """Serves a request."""
        path, method = request.path, request.method
        self.calls.append((method, path))
        self.raw_paths.append(request.raw_path)
        self.before(method, path)
        refused = self.refuse.get(path) if request.headers.get("Authorization") == "Bearer token" else 401
        if refused:
            return _status(refused, "refused by the test")
        body = json.loads(await request.read() or b"null")
        if path.endswith("/eviction"):
            self.objects.pop(path.removesuffix("/eviction"), None)
            return web.json_response({"kind": "Status"})
        if method == "POST":
            return self._create(path, body)
        if path in self.objects:
            served = {"PUT": self._replace, "PATCH": self._patch, "GET": self._get}
            return served[method](path, self.objects[path], body)
        return self._list(path, request.query) if _is_list(path) else _status(404, "not found")

    def _get(self, _path: str, known: Object, _body: None) -> web.Response:
        return web.json_response(known)

    def _create(self, path: str, body: Object) -> web.Response:
        path = f"{path}/{body['metadata']['name']}"
        return _status(409, "already exists") if path in self.objects else web.json_response(self.put(path, body), status=201)

    def _replace(self, path: str, known: Object, body: Object) -> web.Response:
        if body["metadata"].get("resourceVersion") != known["metadata"]["resourceVersion"]:
            return _status(409, "the object has been modified")
        return web.json_response(self.put(path, body))

    def _patch(self, path: str, known: Object, body: Any) -> web.Response:
        if isinstance(body, list):
            try:
                return web.json_response(self.put(path, jsonpatch.apply_patch(known, body)))
            except jsonpatch.JsonPatchTestFailed:
                return _status(422, "the server rejected our request")
        version = body.pop("metadata", {}).get("resourceVersion")
        if version and version != known["metadata"]["resourceVersion"]:
            return _status(409, "the object has been modified")
        return web.json_response(self.put(path, copy.deepcopy(known) | body))

    def _list(self, path: str, query: Any) -> web.Response:
        kind = path.rpartition("/")[2]
        found = [
            thing
            for key, thing in sorted(self.objects.items())
            if (key.rpartition("/")[0] == path or (path == "/api/v1/pods" and "/pods/" in key))
            and _is_selected(thing, query.get("labelSelector", ""))
        ]
        start, limit = int(query.get("continue") or 0), int(query.get("limit") or 500)
        more = {"continue": str(start + limit)} if start + limit < len(found) else {}
        return web.json_response({"kind": kind, "metadata": more, "items": found[start : start + limit]})


def _is_list(path: str) -> bool:
    return path.rpartition("/")[2] in {"pods", "namespaces", "events"}


def _is_selected(thing: Object, selector: str) -> bool:
    labels = thing["metadata"].get("labels") or {}
    if "!=" in selector:
        key, _, value = selector.partition("!=")
        return labels.get(key) != value
    key, _, value = selector.partition("=")
    return not selector or labels.get(key) == value


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "message": message, "code": code}, status=code)


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Kube]:
    """Runs one; its files are in a folder."""
    material = renew(None, ["localhost"], now=time.time(), lifetime=86400.0)
    for name, value in material.to_secret().items():
        (folder / f"api-{name}").write_bytes(value)
    (folder / "token").write_text("token\n")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "api-tls.crt", folder / "api-tls.key")
    kube = Kube()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", kube.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    kube.config = ApiConfig(
        url=f"https://localhost:{port}", token_file=str(folder / "token"), ca_file=str(folder / "api-ca.crt")
    )
    try:
        yield kube
    finally:
        await runner.cleanup()
        await asyncio.sleep(0)
