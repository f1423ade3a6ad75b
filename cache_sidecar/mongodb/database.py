"""The connection to MongoDB, and its failures."""

import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

from cache_sidecar.config.settings import Settings
from cache_sidecar.core.errors import SettingsError, SidecarError

try:
    import pymongo
    from bson.codec_options import CodecOptions
    from pymongo import AsyncMongoClient
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.database import AsyncDatabase
    from pymongo.errors import BulkWriteError, ConfigurationError, ConnectionFailure, OperationFailure, PyMongoError
except ModuleNotFoundError:
    raise SettingsError("mongodb_uri requires pymongo: pip install 'cache-sidecar[mongodb]'") from None

Document: TypeAlias = dict[str, Any]
Database: TypeAlias = AsyncDatabase[Document]
Collection: TypeAlias = AsyncCollection[Document]

# The database, unless the URI names one; and the collections.
NAME, EVENTS, POSITIONS = "cache_sidecar", "user_events", "event_positions"
# How values are stored: ids in 16 bytes, as every driver reads them today.
CODEC: CodecOptions[Document] = CodecOptions(tz_aware=True, uuid_representation=4)
_DUPLICATE = 11000
# Seconds after which a MongoDB without a primary, or that does not answer, counts as unreachable.
CONNECT_TIMEOUT = 5.0


class MongoDbFailed(SidecarError):
    """MongoDB did not answer, or refused something."""

    def __init__(self, reason: str, *, is_unreachable: bool) -> None:
        super().__init__(f"MongoDB: {reason}")
        self.is_unreachable = is_unreachable


@asynccontextmanager
async def open_database(settings: Settings, *, patience: float) -> AsyncIterator[Database]:
    """Opens the database of `mongodb_uri`; connections are made when they are needed. Raises SettingsError.

    `patience` is the time that each operation may take, in seconds, attempts to connect included.
    """
    uri = settings.mongodb_uri.get_secret_value()
    with warnings.catch_warnings():
        # Of an option that it does not know, the client only warns.
        warnings.simplefilter("error")
        try:
            client: AsyncMongoClient[Document] = AsyncMongoClient(
                uri,
                appname="cache_sidecar",
                # What is acknowledged is not rolled back when another server becomes the primary.
                w="majority",
                timeoutMS=int(patience * 1000),
                serverSelectionTimeoutMS=int(min(patience, CONNECT_TIMEOUT) * 1000),
                tz_aware=True,
                uuidRepresentation="standard",
            )
        except (ConfigurationError, ValueError, OSError, Warning) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise SettingsError(f"mongodb_uri: {reason}") from None
    try:
        yield client.get_default_database(NAME)
    finally:
        await client.close()


async def check(database: Database) -> None:
    """Returns once MongoDB answers. Raises MongoDbFailed, long before the time of a long question is over."""
    with map_errors(), pymongo.timeout(CONNECT_TIMEOUT):
        await database.command("ping")


@contextmanager
def map_errors() -> Iterator[None]:
    """Raises MongoDbFailed for what the client raises."""
    try:
        yield
    except PyMongoError as error:
        raise MongoDbFailed(_reason(error), is_unreachable=isinstance(error, ConnectionFailure)) from error


def are_duplicates(error: BulkWriteError) -> bool:
    """Returns whether all that an insertion failed for is that documents were there before."""
    failures, unconfirmed = error.details.get("writeErrors", []), error.details.get("writeConcernErrors", [])
    return not unconfirmed and all(failure["code"] == _DUPLICATE for failure in failures)


def _reason(error: PyMongoError) -> str:
    """Returns the server's own words, or the client's without its settings and the state of all servers."""
    if isinstance(error, BulkWriteError):
        failures = [*error.details.get("writeErrors", []), *error.details.get("writeConcernErrors", [])]
        return next((str(one["errmsg"]) for one in failures if one.get("code") != _DUPLICATE), "a bulk write failed")
    if isinstance(error, OperationFailure):
        return str((error.details or {}).get("errmsg") or error.code)
    text = str(error).partition(" (configured timeouts")[0].partition(", Timeout: ")[0]
    return text or type(error).__name__
