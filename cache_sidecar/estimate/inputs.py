"""The figures of a shop, from a TOML file."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cache_sidecar.core.errors import InputError

EXAMPLE = Path(__file__).parent / "example.toml"

_Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
_Amount = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shop(_Table):
    """What is sold, and how it is used. Amounts are of one day."""

    products: Annotated[int, Field(ge=1, le=100_000_000)]
    daily_users: _Count
    regions: Annotated[int, Field(ge=1, le=1000)]
    peak: Annotated[float, Field(ge=1, le=1000)]
    skew: Annotated[float, Field(ge=0, le=3)]
    product_reads_per_user: _Amount
    session_reads_per_user: _Amount
    cart_reads_per_user: _Amount
    stock_reads_per_user: _Amount
    sessions_per_user: _Amount
    session_minutes: _Amount
    carts_per_user: _Amount


class Bytes(_Table):
    """Mean sizes."""

    id: _Count
    product: _Count
    session: _Count
    cart: _Count
    stock: _Count


class Deployment(_Table):
    """How it runs."""

    engine: Literal["native", "aio"]
    pods_per_region: Annotated[int, Field(ge=1, le=100_000)]
    l1_mib: _Positive
    redis_node_gib: _Positive
    redis_fill: Annotated[float, Field(gt=0, le=1)]
    redis_replicas: Annotated[int, Field(ge=0, le=10)]
    postgres_statements_per_core: _Positive
    calls_per_core: _Positive


class Ttl(_Table):
    """Seconds."""

    l1_soft: _Positive
    l1_hard: _Positive
    l2: _Positive
    session: _Positive
    cart: _Positive
    stock: _Positive


class Prices(_Table):
    """Prices of one month, and of the introduction."""

    currency: Annotated[str, Field(min_length=1, max_length=8)]
    memory_gib: _Amount
    core: _Amount
    redis_node: _Amount
    postgres_core: _Amount
    other_saving: _Amount
    setup: _Amount


class Inputs(_Table):
    """The whole file."""

    shop: Shop
    bytes: Bytes
    deployment: Deployment
    ttl: Ttl
    prices: Prices


def read(file: Path) -> Inputs:
    """Reads a file. Raises InputError with one line, OSError if it cannot be read."""
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: {error}") from None
    try:
        return Inputs.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
