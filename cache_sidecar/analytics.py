"""`cache-sidecar analytics`: answers from the user events in PostgreSQL, or from their copy in MongoDB, as tables or JSON."""

import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from cache_sidecar.config.settings import Settings
from cache_sidecar.core.errors import Failure, ServerUnreachable, SettingsError, SidecarError, Tier, TierFailed
from cache_sidecar.store.analytics import Analytics
from cache_sidecar.store.database import Database
from cache_sidecar.tiers.resilience.guard import Guard

if TYPE_CHECKING:
    from cache_sidecar.mongodb.analytics import MongoAnalytics

# Where the answers come from.
POSTGRESQL, MONGODB = "postgresql", "mongodb"
STORES = (POSTGRESQL, MONGODB)
Question: TypeAlias = "Callable[[Analytics | MongoAnalytics], Awaitable[Sequence[Any]]]"
# Seconds that a question may take: it reads all events of its days.
PATIENCE = 600.0


class Answer(NamedTuple):
    """A table."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def lines(self) -> list[str]:
        """Returns the table as text."""
        table = [self.columns, *([_text(value) for value in row] for row in self.rows)]
        widths = [max(len(row[column]) for row in table) for column in range(len(self.columns))]
        return ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in table]

    def as_json(self) -> str:
        """Returns the rows as JSON objects."""
        return json.dumps([dict(zip(self.columns, row, strict=True)) for row in self.rows], indent=2, ensure_ascii=False)


async def top(settings: Settings, store: str, *, days: int, limit: int) -> Answer:
    """Returns the best sellers, asked of one of `STORES`. Like the others, raises ServerUnreachable and SettingsError."""
    rows = await _ask(settings, store, lambda analytics: analytics.top(_days_ago(days), limit=limit))
    return Answer(("product_id", "pieces", "orders", "revenue"), rows)


async def funnel(settings: Settings, store: str, *, days: int) -> Answer:
    """Returns how many got from a product's page to the cart and to a purchase, and the share of those at the step before."""
    steps = await _ask(settings, store, lambda analytics: analytics.funnel(_days_ago(days)))
    before = [None, *(step.pairs for step in steps)]
    rows = [(*step, round(step.pairs / last, 4) if last else None) for step, last in zip(steps, before, strict=False)]
    return Answer(("step", "products", "users", "share"), rows)


async def idle_carts(settings: Settings, store: str, *, days: int, idle: float) -> Answer:
    """Returns what is left in carts that nothing was done with for so many hours."""
    idle_since = datetime.now(UTC) - timedelta(hours=idle)
    rows = await _ask(settings, store, lambda analytics: analytics.idle_carts(_days_ago(days), idle_since=idle_since))
    return Answer(("currency", "carts", "pieces", "value"), rows)


def _days_ago(days: int) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


async def _ask(settings: Settings, store: str, question: Question) -> Sequence[Any]:
    return await (_ask_mongodb(settings, question) if store == MONGODB else _ask_postgresql(settings, question))


async def _ask_mongodb(settings: Settings, question: Question) -> Sequence[Any]:
    if not settings.mongodb_uri.get_secret_value():
        raise SettingsError("mongodb_uri is not set: events are only in PostgreSQL")
    # What is optional is loaded where it is needed.
    from cache_sidecar.mongodb.analytics import MongoAnalytics  # noqa: PLC0415
    from cache_sidecar.mongodb.database import MongoDbFailed, check, open_database  # noqa: PLC0415

    try:
        async with open_database(settings, patience=PATIENCE) as database:
            await check(database)
            return await question(MongoAnalytics(database))
    except MongoDbFailed as error:
        if error.is_unreachable:
            raise ServerUnreachable(str(error)) from None
        raise


async def _ask_postgresql(settings: Settings, question: Question) -> Sequence[Any]:
    guard = Guard(Tier.STORE, timeout=PATIENCE, max_running=1, max_waiting=1)
    database = Database(
        settings.database("analytics"),
        size=1,
        timeout=settings.postgres_timeout,
        prepare=settings.postgres_prepare,
        guard=guard,
    )
    await database.open()
    try:
        return await question(Analytics(database))
    except TierFailed as error:
        if error.failure is Failure.REFUSED:
            raise SidecarError(str(error)) from None
        raise ServerUnreachable(str(error)) from None
    finally:
        await database.close()


def _text(value: Any) -> str:
    match value:
        case None:
            return "-"
        case dict():
            return ", ".join(f"{amount} {currency}" for currency, amount in sorted(value.items())) or "-"
        case float():
            return f"{value:.1%}"
        case int():
            return f"{value:,}"
        case _:
            return str(value)
