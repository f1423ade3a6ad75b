"""Requests made at random: messages whose fields hold what breaks programs, and bytes that were such messages once."""

import random
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

# How many a plain run makes, and from which seed; see conftest.py.
FUZZ, FUZZ_SEED = 3000, 1

TEXTS = [
    "", " ", "a", "p-1", "p-2", "{07}", "a:b", "}{", "*", "\x00", "\x01", "\n", "\x7f", "\u0085", "\u2028", "\u200b", "\ufeff",
    "\ufffe", "é", "e\u0301", "日本", "\U0001f600", "\U0010ffff", "%s", "%00", "'; DROP TABLE products; --", '"', "\\", "\\u0000",
    "$1", "NULL", "NaN", "Infinity", "-0", "1e999", "true", "../../etc/passwd", "<script>", "a" * 64, "a" * 65, "a" * 128,
    "a" * 129, "é" * 128, "\U0001f600" * 128, "x" * 512, "x" * 513, "x" * 10_240, "title", "price.units", "attributes", "update_mask",
    "product", "EUR", "eur", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "00000000-0000-0000-0000-000000000000", "WyJhIiwiIl0=", "====",
]  # fmt: skip
NUMBERS = [0, 1, -1, 2, 50, 999, 1000, 1001, 10**9 - 1, 10**9, 2**31 - 1, 2**31, -(2**31), 2**53, 2**63 - 1, -(2**63)]
COUNTS = [0, 0, 1, 1, 1, 2, 3, 33, 65, 501]
# The same within what is repeated itself: requests stay under the size that is refused unread.
FEW = [0, 0, 1, 1, 1, 2, 3]


class Fuzzer:
    """Makes requests; the same ones for the same seed."""

    def __init__(self, seed: int, ids: list[str]) -> None:
        self._random = random.Random(seed)
        self._texts = [*TEXTS, *ids * 8]
        self._counts = COUNTS

    def requests(self, valid: dict[str, Message], count: int) -> Iterator[tuple[str, bytes]]:
        """Yields so many paths and requests; `valid` has one good request for every path."""
        paths = list(valid)
        for _ in range(count):
            path = self._random.choice(paths)
            yield path, self._request(valid[path])

    def _request(self, valid: Message) -> bytes:
        dice = self._random.random()
        if dice < 0.05:
            return self._random.randbytes(self._random.choice([1, 3, 20, 300, 5000]))
        if dice < 0.55:
            data = self._changed(valid).SerializeToString()
        else:
            data = self._message(type(valid)()).SerializeToString()
        return self._damaged(data) if dice % 0.1 < 0.03 else data

    def _changed(self, valid: Message) -> Message:
        """Returns a copy with one field that is something else, or none."""
        copy = type(valid)()
        copy.CopyFrom(valid)
        part = copy
        while part.DESCRIPTOR.fields and self._random.random() < 0.9:
            field = self._random.choice(part.DESCRIPTOR.fields)
            if field.message_type is None or field.is_repeated or self._random.random() < 0.2:
                self._set(part, field)
                break
            part = getattr(part, field.name)
        return copy

    def _damaged(self, data: bytes) -> bytes:
        damaged = bytearray(data or b"\x0a")
        for _ in range(self._random.choice([1, 1, 2, 8])):
            place = self._random.randrange(len(damaged))
            match self._random.randrange(5):
                case 0:
                    damaged[place] = self._random.randrange(256)
                case 1:
                    del damaged[place:]
                    damaged.append(0x0A)
                case 2:
                    damaged[place:place] = self._random.randbytes(self._random.randrange(1, 20))
                case 3:
                    damaged += damaged[place:]
                case 4:
                    damaged[place:place] = b"\x7b" * self._random.choice([1, 90, 110, 2000])
        return bytes(damaged)

    def _message(self, message: Message) -> Message:
        for field in message.DESCRIPTOR.fields:
            if self._random.random() < 0.75:
                self._set(message, field)
        return message

    def _set(self, message: Message, field: FieldDescriptor) -> None:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            held, value = getattr(message, field.name), field.message_type.fields_by_name["value"]
            for _ in range(self._random.choice(self._counts)):
                held[self._text() + self._text()] = self._scalar(value)
        elif field.is_repeated:
            held = getattr(message, field.name)
            for _ in range(self._random.choice(self._counts)):
                counts, self._counts = self._counts, FEW
                if field.message_type is not None:
                    self._message(held.add())
                else:
                    held.append(self._scalar(field))
                self._counts = counts
        elif field.message_type is not None:
            part = getattr(message, field.name)
            part.SetInParent()
            self._message(part)
        else:
            setattr(message, field.name, self._scalar(field))

    def _scalar(self, field: FieldDescriptor) -> Any:
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return self._text()
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return self._random.random() < 0.5
        bits = 31 if field.cpp_type in {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_ENUM} else 63
        return self._random.choice([number for number in NUMBERS if -(2**bits) <= number < 2**bits])

    def _text(self) -> str:
        return self._random.choice(self._texts)
