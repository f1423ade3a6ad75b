"""The catalogue as one of Django's caches: `caches["catalog"].get("SKU-1")` returns a Product."""

from collections.abc import Iterable
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from cache_sidecar_client.contrib.django import shop
from cache_sidecar_client.errors import NotFound
from cache_sidecar_client.models import Product


class ProductCache(BaseCache):
    """Reads products by their IDs. They need not be put there: the sidecar loads what is not in a cache."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        del location
        super().__init__(params)

    def get(self, key: str, default: Any = None, version: int | None = None) -> Product | Any:
        """Returns a product; `default` if there is none."""
        del version
        try:
            return shop().products.get(key)
        except NotFound:
            return default

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Product]:
        """Returns the products that exist, by their IDs, with one call."""
        del version
        return shop().products.batch_get(keys)

    def has_key(self, key: str, version: int | None = None) -> bool:
        """Returns whether there is a product."""
        return self.get(key, version=version) is not None

    def _refuse(self, *args: Any, **more: Any) -> Any:
        del args, more
        raise NotImplementedError("the catalogue is changed by shop().products, not through its cache")

    def set(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Raises NotImplementedError, as `add`, `touch`, `delete` and `clear`: products are changed by `shop().products`."""
        self._refuse(key, value, timeout, version)

    add = touch = delete = clear = _refuse
