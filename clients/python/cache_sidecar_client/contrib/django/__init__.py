"""Django: sessions in SessionService, the catalogue as a cache, and the client for views.

CACHE_SIDECAR = cache_sidecar_client.Options()  # may be left out
SESSION_ENGINE = "cache_sidecar_client.contrib.django.sessions"
CACHES = {"catalog": {"BACKEND": "cache_sidecar_client.contrib.django.cache.ProductCache"}, ...}
"""

import atexit
import os
import threading

from django.conf import settings

from cache_sidecar_client import Client, Options, connect

_lock = threading.Lock()
_clients: dict[int, Client] = {}


def shop() -> Client:
    """Returns the client of this process: one that was made before a fork belongs to the parent."""
    pid = os.getpid()
    with _lock:
        if pid not in _clients:
            options: Options | None = getattr(settings, "CACHE_SIDECAR", None)
            _clients.clear()
            _clients[pid] = connect(options=options)
            atexit.register(_clients[pid].close)
        return _clients[pid]
