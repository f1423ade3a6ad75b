"""Indexes products for searches, behind the changes in the outbox.

All work is done by a function in PostgreSQL, in transactions of some products each; one relay at a time does it.
"""

from cache_sidecar.core.errors import TierFailed
from cache_sidecar.store.product_search import ProductSearchStore

# Seconds between two looks for changes.
EVERY = 1.0
# Products that are indexed by one statement, which takes a tenth of a second, and must not take `postgres_timeout`.
AT_ONCE = 200


class ProductIndex:
    """Brings what is searched up to date."""

    def __init__(self, store: ProductSearchStore) -> None:
        self._store = store
        self.at_once = AT_ONCE
        "Products that the next statement takes."

    async def step(self) -> None:
        """Indexes until nothing is left. Raises TierFailed; then the next step takes fewer products: some may be long."""
        try:
            while await self._store.index(self.at_once):
                self.at_once = min(AT_ONCE, self.at_once * 2)
        except TierFailed:
            self.at_once = max(1, self.at_once // 4)
            raise
