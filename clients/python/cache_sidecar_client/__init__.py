"""A client of the cache sidecar.

    import cache_sidecar_client

    with cache_sidecar_client.connect() as shop:
        product = shop.products.get("SKU-1")
        print(product.title, product.price, product.cache)

`cache_sidecar_client.aio.connect()` returns the same for asyncio. There is no global state: what a client has, it closes.
"""

from cache_sidecar_client import aio, errors
from cache_sidecar_client._async.recommendations import recommendation_list
from cache_sidecar_client._sync.client import Client, connect
from cache_sidecar_client._version import VERSION
from cache_sidecar_client.errors import EtagMismatch, NotFound, OutOfStock, SidecarError
from cache_sidecar_client.models import (
    Cache,
    Cart,
    CartItem,
    CataloguePrice,
    Categories,
    Category,
    Inventory,
    InventoryChange,
    Product,
    ProductChange,
    ProductFields,
    Recommendation,
    Recommendations,
    Reservation,
    Session,
    Written,
    event_message,
)
from cache_sidecar_client.options import L0, Call, Options
from cache_sidecar_client.values import Money

__version__ = VERSION

__all__ = [
    "L0",
    "Cache",
    "Call",
    "Cart",
    "CartItem",
    "CataloguePrice",
    "Categories",
    "Category",
    "Client",
    "EtagMismatch",
    "Inventory",
    "InventoryChange",
    "Money",
    "NotFound",
    "Options",
    "OutOfStock",
    "Product",
    "ProductChange",
    "ProductFields",
    "Recommendation",
    "Recommendations",
    "Reservation",
    "Session",
    "SidecarError",
    "Written",
    "aio",
    "connect",
    "errors",
    "event_message",
    "recommendation_list",
]
