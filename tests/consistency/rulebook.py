"""All rules of a run, and the bounds they hold replies to."""

from collections.abc import Collection
from math import inf

from cache_sidecar.config import policy
from cache_sidecar.config.settings import Settings
from cache_sidecar.tiers.coherence import subscriber
from tests.consistency.rules import sessions, versions
from tests.consistency.rules.changes import Changes
from tests.consistency.rules.log import Log
from tests.consistency.rules.pieces import Pieces
from tests.consistency.rules.sessions import Sessions
from tests.consistency.rules.streams import Stream
from tests.consistency.rules.told import Told
from tests.consistency.rules.versions import Checker

PRODUCTS, CARTS = 1000, 160
# Pieces of each stock. The clients compete for the first ones; each of the others belongs to one client.
CONTENDED, OWNED = (8, 8, 6, 6, 4, 3), (12,) * 6
# Seconds after its last use that a session expires: so few that a use which Redis lost matters within a run.
SESSION_EXPIRY = 15.0


class Rulebook:
    """What a run is judged by."""

    def __init__(self, *, products: int = PRODUCTS) -> None:
        told = subscriber.staleness_bound(Settings.model_fields["redis_timeout"].default)
        product = policy.default()["product"]
        seen = product.staleness_bound
        # How much older than their bound other replies may be that are marked stale is not promised.
        marked = versions.Bounds(told=told, seen=seen, stale=inf)
        stock = [*CONTENDED, *OWNED]
        self.number_of_products = products
        self.log = Log()
        self.told = Told()
        self.products = Checker("product", products, marked._replace(stale=product.stale_limit), self.log, self.told)
        self.carts = Checker("cart", CARTS, marked, self.log, self.told)
        self.stock = Checker("inventory", len(stock), marked, self.log, self.told)
        self.changes = Changes(CARTS, self.log)
        self.pieces = Pieces(stock, self.log)
        of_sessions = policy.default()["session"].model_copy(update={"l2_ttl": SESSION_EXPIRY})
        noted = 2 * of_sessions.touch_window  # told when it is due, and whoever is about to be told then, at the next time
        self.sessions = Sessions(sessions.Bounds(told=told, seen=seen, expiry=SESSION_EXPIRY, noted=noted), self.log, self.told)
        self.streams: list[Stream] = []

    @property
    def reads(self) -> int:
        """How many replies, or parts of them, were checked."""
        return sum(checker.reads for checker in (self.products, self.carts, self.stock, self.sessions))

    def clocks_differ(self, seconds: float) -> None:
        """From now on the clocks of sidecars and relays differ by so much: what the clocks decide may be wrong by it."""
        for rule in (self.products, self.carts, self.stock, self.sessions, self.pieces):
            rule.clocks_differ(seconds)

    def stream(self, dataset: str, name: str, *, every: bool = False, keys: Collection[int] | None = None) -> Stream:
        """Returns the rules of one more watcher; see there."""
        self.streams.append(Stream(dataset, self.log, name=name, every=every, keys=keys))
        return self.streams[-1]

    def begun(self, dataset: str) -> list[Stream]:
        """Returns the streams that have to deliver what is called from now on."""
        return [stream for stream in self.streams if stream.dataset == dataset and stream.has_begun]
