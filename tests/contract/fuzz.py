"""Requests that Hypothesis generates from the descriptors: valid, nearly valid, and mutated bytes of such messages."""

from collections.abc import Mapping
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

# The number of requests in a normal run, and its seed; see conftest.py.
FUZZ, FUZZ_SEED = 1000, 1

TEXTS = [
    "", " ", "a", "p-1", "p-2", "{07}", "a:b", "}{", "*", "\x00", "\x01", "\n", "\x7f", "\u0085", "\u2028", "\u200b", "\ufeff",
    "\ufffe", "é", "e\u0301", "日本", "\U0001f600", "\U0010ffff", "%s", "%00", "'; DROP TABLE products; --", '"', "\\", "\\u0000",
    "$1", "NULL", "NaN", "Infinity", "-0", "1e999", "true", "../../etc/passwd", "<script>", "a" * 64, "a" * 65, "a" * 128,
    "a" * 129, "é" * 128, "\U0001f600" * 128, "x" * 512, "x" * 513, "x" * 10_240, "title", "price.units", "attributes", "update_mask",
    "product", "EUR", "eur", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "00000000-0000-0000-0000-000000000000", "WyJhIiwiIl0=", "====",
]  # fmt: skip
NUMBERS = [0, 1, -1, 2, 50, 999, 1000, 1001, 10**9 - 1, 10**9, 2**31 - 1, 2**31, -(2**31), 2**53, 2**63 - 1, -(2**63)]
# How often the same few values are repeated; less within what is repeated itself.
COUNTS, FEW = [0, 1, 1, 1, 2, 3, 33, 65, 501], [0, 1, 1, 1, 2, 3]
# Requests are truncated to this many bytes: longer messages are refused unread.
LONGEST = 2**21
# Sent to every method: nothing, not a message, a length without data, and endlessly nested messages.
SEEDS = [b"", b"\x0a", b"\x0a\xff\xff\xff\xff\x0f", b"\x00", b"\x7b" * 2000, b"\x0a\x02\xc3\x28", b"\xff" * 300]

Draw = st.DrawFn
Request = tuple[str, bytes]
"""A path, and what is sent there."""


class Fuzzer:
    """Makes requests; the same ones for the same seed."""

    def __init__(self, valid: Mapping[str, Message], ids: list[str]) -> None:
        """`valid` has one good request for every path, `ids` exist."""
        self._valid = valid
        self._paths = st.sampled_from(sorted(valid))
        self._texts = st.sampled_from([*TEXTS, *ids * 8]) | st.text(max_size=12)
        self._numbers = {bits: _numbers(bits) for bits in (31, 63)}
        self._counts, self._few = st.sampled_from(COUNTS), st.sampled_from(FEW)
        self._kinds = st.sampled_from(["nearly valid"] * 5 + ["any"] * 4 + ["raw"])
        self._is_damaged, self._chances = st.sampled_from([False, False, True]), st.integers(0, 9)

    def requests(self, count: int, *, chosen: int) -> list[Request]:
        """Returns those that are always sent, and at least so many more, from a seed."""
        made: list[Request] = []

        @seed(chosen)
        @settings(
            max_examples=count,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(self._request())
        def collect(request: Request) -> None:
            path, data = request
            made.append((path, data[:LONGEST]))

        # All of them before the first is sent: Hypothesis decides what `random` says, which a sidecar uses, too.
        collect()
        always = [(path, data) for path, good in self._valid.items() for data in (good.SerializeToString(), *SEEDS)]
        return always + made

    def _request(self) -> st.SearchStrategy[Request]:
        @st.composite
        def make(draw: Draw) -> Request:
            path = draw(self._paths)
            good = self._valid[path]
            match draw(self._kinds):
                case "raw":
                    return path, draw(st.binary(max_size=200))
                case "nearly valid":
                    data = self._changed(draw, good).SerializeToString()
                case _:
                    data = self._message(draw, type(good)(), self._counts).SerializeToString()
            return path, _damaged(draw, data) if draw(self._is_damaged) else data

        return make()

    def _changed(self, draw: Draw, good: Message) -> Message:
        """Returns a copy with one field that is something else, or none."""
        copy = type(good)()
        copy.CopyFrom(good)
        part = copy
        while part.DESCRIPTOR.fields and draw(self._chances):
            field = draw(st.sampled_from(list(part.DESCRIPTOR.fields)))
            if field.message_type is None or field.is_repeated or draw(self._chances) < 2:
                self._set(draw, part, field, self._counts)
                break
            part = getattr(part, field.name)
        return copy

    def _message(self, draw: Draw, message: Message, counts: st.SearchStrategy[int]) -> Message:
        for field in message.DESCRIPTOR.fields:
            if draw(self._chances) < 7:
                self._set(draw, message, field, counts)
        return message

    def _set(self, draw: Draw, message: Message, field: FieldDescriptor, counts: st.SearchStrategy[int]) -> None:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            held, value = getattr(message, field.name), field.message_type.fields_by_name["value"]
            key, scalar = draw(self._texts), self._scalar(draw, value)
            for number in range(draw(counts)):
                held[f"{key}{number or ''}"] = scalar
        elif field.is_repeated:
            held, count = getattr(message, field.name), draw(counts)
            some = [self._element(draw, field) for _ in range(min(count, 3))]
            held.extend(some[number % 3] for number in range(count))
        elif field.message_type is not None:
            part = getattr(message, field.name)
            part.SetInParent()
            self._message(draw, part, counts)
        else:
            setattr(message, field.name, self._scalar(draw, field))

    def _element(self, draw: Draw, field: FieldDescriptor) -> Any:
        if field.message_type is None:
            return self._scalar(draw, field)
        return self._message(draw, message_factory.GetMessageClass(field.message_type)(), self._few)

    def _scalar(self, draw: Draw, field: FieldDescriptor) -> Any:
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return draw(self._texts)
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return draw(st.booleans())
        return draw(
            self._numbers[31 if field.cpp_type in {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_ENUM} else 63]
        )


def _numbers(bits: int) -> st.SearchStrategy[int]:
    least, most = -(2**bits), 2**bits - 1
    return st.sampled_from([number for number in NUMBERS if least <= number <= most]) | st.integers(least, most)


_DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "insert", "repeat", "nest"]), st.integers(0, 2**16), st.binary(min_size=1, max_size=20)
    ),
    min_size=1,
    max_size=4,
)


def _damaged(draw: Draw, data: bytes) -> bytes:
    damaged = bytearray(data or b"\x0a")
    for how, where, what in draw(_DAMAGE):
        place = where % len(damaged)
        match how:
            case "set":
                damaged[place] = what[0]
            case "cut":
                damaged[place:] = b"\x0a"
            case "insert":
                damaged[place:place] = what
            case "repeat":
                damaged += damaged[place:]
            case "nest":
                damaged[place:place] = b"\x7b" * (90 + 20 * what[0])
    return bytes(damaged)
