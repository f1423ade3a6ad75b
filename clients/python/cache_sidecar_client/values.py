"""Values as Python has them: amounts as Decimal, times as datetime, enums by their short names."""

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from decimal import Context, Decimal
from typing import NamedTuple, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.timestamp_pb2 import Timestamp

from cache_sidecar_client.v1.google.type.money_pb2 import Money as MoneyMessage

_NANO = Decimal("1e-9")
_EXACT = Context(prec=40)
"An amount has 28 digits at most. The application's own context may have fewer, and would round."
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Money(NamedTuple):
    """An exact amount and its currency."""

    amount: Decimal
    currency_code: str
    "ISO 4217, such as EUR."

    def __str__(self) -> str:
        return f"{plain(self.amount)} {self.currency_code}"

    @classmethod
    def of(cls, value: "Money | str") -> "Money":
        """Returns the amount in a text such as `9.99 EUR`; raises ValueError for anything else."""
        if isinstance(value, Money):
            return value
        amount, _, currency = value.partition(" ")
        if not currency or not amount.replace(".", "", 1).removeprefix("-").isdecimal():
            raise ValueError(f"{value!r} is no amount: write it as '9.99 EUR'")
        return cls(Decimal(amount), currency)


def plain(amount: Decimal) -> str:
    """Returns a number without exponent and trailing zeros."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def money_of(message: MoneyMessage) -> Money:
    """Returns the amount of a message."""
    nanos = message.nanos
    # Whole cents, as nearly all prices have them, with two places: half the work of the general case.
    if nanos % 10_000_000 == 0:
        return Money(Decimal(message.units * 100 + nanos // 10_000_000).scaleb(-2, _EXACT), message.currency_code)
    return Money(Decimal(message.units * 1_000_000_000 + nanos).scaleb(-9, _EXACT), message.currency_code)


def money_message(value: Money | str) -> MoneyMessage:
    """Returns the message of an amount; raises ValueError if it has more than nine decimal places."""
    amount, currency = Money.of(value)
    if not amount.is_finite():
        raise ValueError(f"{amount} is no amount")
    if amount.adjusted() >= 19:
        raise ValueError(f"{amount} is too large for an amount")
    if amount != amount.quantize(_NANO, context=_EXACT):
        raise ValueError(f"{amount} has more than nine decimal places")
    scaled = amount.scaleb(9, _EXACT)
    whole = int(scaled)
    units, nanos = divmod(abs(whole), 1_000_000_000)
    sign = -1 if whole < 0 else 1
    return MoneyMessage(currency_code=currency, units=sign * units, nanos=sign * nanos)


def seconds_of(message: Duration) -> float:
    """Returns the seconds of a duration."""
    return message.seconds + message.nanos / 1e9


def duration_fields(seconds: float | timedelta) -> dict[str, int]:
    """Returns the fields of a duration."""
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    whole = round(seconds * 1e9)
    sign = -1 if whole < 0 else 1
    return {"seconds": sign * (abs(whole) // 1_000_000_000), "nanos": sign * (abs(whole) % 1_000_000_000)}


def time_of(message: Timestamp) -> datetime | None:
    """Returns a time in UTC, to the microsecond; None if it is not set."""
    if not message.seconds and not message.nanos:
        return None
    return _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)


def timestamp_fields(time: datetime) -> dict[str, int]:
    """Returns the fields of a timestamp; raises ValueError for a time without a zone."""
    if time.tzinfo is None:
        raise ValueError("the time has no zone: use datetime.now(timezone.utc), for example")
    delta = time - _EPOCH
    return {"seconds": delta.days * 86_400 + delta.seconds, "nanos": delta.microseconds * 1000}


class Enum:
    """Converts between the numbers of a proto's enum and its names without the prefix of the type."""

    def __init__(self, wrapper: EnumTypeWrapper, prefix: str) -> None:
        self._names = {number: name.removeprefix(prefix) for name, number in wrapper.items()}
        self._numbers = {name: number for number, name in self._names.items()}

    def name(self, number: int) -> str:
        """Returns the name; of a number that this version does not know, the number."""
        return self._names.get(number) or str(number)

    def number(self, name: str) -> int:
        """Returns the number; raises ValueError with the names that are known."""
        if name not in self._numbers:
            known = ", ".join(name for number, name in self._names.items() if number)
            raise ValueError(f"{name!r} is none of {known}")
        return self._numbers[name]


_T = TypeVar("_T")


def chunks(elements: list[_T], size: int) -> Iterable[list[_T]]:
    """Yields lists of at most `size` elements."""
    for start in range(0, len(elements), size):
        yield elements[start : start + size]
