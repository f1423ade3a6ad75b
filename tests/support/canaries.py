"""Secrets and personal data that are recognized wherever they are printed, in whatever form."""

from base64 import b64encode
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message


class Canary:
    """The secret of one setting."""

    def __init__(self, setting: str) -> None:
        self.setting = setting
        # The same in plain text, percent-encoded, and escaped by repr or JSON.
        self.core = f"c4n4ry{setting.replace('_', '').title()}7f3a"
        self.value = f"{self.core} /@:%é'\""
        "With characters that have to be encoded in URIs, quoted in TOML, and escaped in JSON."
        self.token = f"{self.core}-._~"
        "For what may have only letters, digits and a few others."

    @property
    def encoded(self) -> str:
        """The value as it is written in URIs."""
        return quote(self.value, safe="")

    def forms(self) -> Iterator[str]:
        """Yields what must not appear, wherever it begins in something that is printed in base64."""
        yield self.core
        yield self.core.encode().hex()
        for before in range(3):
            encoded = b64encode(b"x" * before + self.core.encode()).decode()
            yield encoded[(0, 2, 3)[before] : -4]


def shown(text: str, *canaries: Canary) -> list[str]:
    """Returns the settings whose secrets a text shows."""
    return [canary.setting for canary in canaries if any(form.lower() in text.lower() for form in canary.forms())]


# Fields whose texts are no person's: what the shop sells, and what operators name.
PUBLIC = frozenset(
    {
        "product_id", "product_ids", "cart_product_ids", "context_product_ids", "exclude_product_ids", "currency_code",
        "dataset", "paths", "experiment_id", "experiment_salt", "experiment_variants", "batch_id",
    }
)  # fmt: skip
# Fields that have a form; what is in them is not readable, and other texts are refused before anything is done.
FORMED = frozenset({"request_id", "event_id", "reservation_id", "session_id", "page_token"})


def plant(message: Message, text: str, *, keep: frozenset[str]) -> None:
    """Puts a text into every field of a message that has texts, but for some; parts that are not set stay so."""
    for field in message.DESCRIPTOR.fields:
        if field.name in keep:
            continue
        if field.message_type is None:
            if field.type == FieldDescriptor.TYPE_STRING and field.is_repeated:
                getattr(message, field.name)[:] = [text]
            elif field.type == FieldDescriptor.TYPE_STRING:
                setattr(message, field.name, text)
        elif field.message_type.GetOptions().map_entry:
            _plant_in_map(getattr(message, field.name), text)
        elif field.is_repeated or message.HasField(field.name):
            found = getattr(message, field.name)
            for one in found if field.is_repeated else [found]:
                plant(one, text, keep=keep)


def _plant_in_map(values: Any, text: str) -> None:
    """The same for one of texts by texts."""
    if all(isinstance(value, str) for value in values.values()):
        values.clear()
        values[text] = text
