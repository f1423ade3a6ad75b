"""The client for asyncio: `shop = cache_sidecar_client.aio.connect()`, in a running event loop."""

from cache_sidecar_client._async.admin import Admin
from cache_sidecar_client._async.carts import CartEdit, Carts
from cache_sidecar_client._async.client import Client, connect
from cache_sidecar_client._async.events import Events
from cache_sidecar_client._async.inventory import Inventories
from cache_sidecar_client._async.products import Products
from cache_sidecar_client._async.recommendations import RecommendationLists
from cache_sidecar_client._async.sessions import Sessions

__all__ = [
    "Admin",
    "CartEdit",
    "Carts",
    "Client",
    "Events",
    "Inventories",
    "Products",
    "RecommendationLists",
    "Sessions",
    "connect",
]
