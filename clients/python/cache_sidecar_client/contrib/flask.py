"""Flask: `CacheSidecar(app)`, then `current_shop.products.get(...)` in views."""

import atexit
import os
import threading

from flask import Flask, Response, current_app, jsonify
from werkzeug.local import LocalProxy

from cache_sidecar_client import Client, Options, connect
from cache_sidecar_client.contrib.http import headers, http_status, problem
from cache_sidecar_client.errors import SidecarError


class CacheSidecar:
    """The extension: one client for each process, which its first view that needs it connects."""

    def __init__(self, app: Flask | None = None, options: Options | None = None) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._clients: dict[int, Client] = {}
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Adds the extension to an application; errors of the sidecar become HTTP statuses with JSON."""
        app.extensions["cache_sidecar"] = self
        app.register_error_handler(SidecarError, _answer)

    @property
    def client(self) -> Client:
        """The client of this process: one that was made before a fork belongs to the parent."""
        pid = os.getpid()
        with self._lock:
            if pid not in self._clients:
                self._clients = {pid: connect(options=self._options)}
                atexit.register(self._clients[pid].close)
            return self._clients[pid]


def _client() -> Client:
    extension: CacheSidecar = current_app.extensions["cache_sidecar"]
    return extension.client


def _answer(error: SidecarError) -> tuple[Response, int, dict[str, str]]:
    return jsonify(problem(error)), http_status(error), headers(error)


current_shop: Client = LocalProxy(_client)
"The client of the application whose view runs."
