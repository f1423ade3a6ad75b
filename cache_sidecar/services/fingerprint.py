"""What makes a request the same one as before: what it asks for, not how that is written.

What the server does not read of a request says nothing about it: fields that only the server sets, those of a resource that
`update_mask` does not name, and those of another version. Nor does the case of a UUID.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

# Fields of requests that the server sets in replies, and ignores here. An etag counts wherever it is compared.
IGNORED: Mapping[str, tuple[str, ...]] = {
    "CreateProductRequest": ("product.etag", "product.create_time", "product.update_time"),
    "UpdateProductRequest": ("product.create_time", "product.update_time"),
    "UpdateSessionRequest": ("session.create_time", "session.update_time", "session.expire_time", "session.end_time"),
    "ReplaceCartRequest": ("cart.totals", "cart.create_time", "cart.update_time"),
}
# Fields that hold a UUID: upper and lower case are one (RFC 9562).
UUIDS = ("request_id", "reservation_id")
# Of a resource that is changed, what counts whatever `update_mask` names.
_NAMING = {"product_id", "session_id", "etag"}


def fingerprint(request: Any) -> bytes:
    """Returns what differs when, and only when, two requests of one kind ask for different things."""
    asked = type(request)()
    asked.CopyFrom(request)
    asked.DiscardUnknownFields()
    for name in UUIDS:
        if name in asked.DESCRIPTOR.fields_by_name:
            setattr(asked, name, getattr(asked, name).lower())
    for path in IGNORED.get(asked.DESCRIPTOR.name, ()):
        resource, field = path.split(".")
        if asked.HasField(resource):
            getattr(asked, resource).ClearField(field)
    if "update_mask" in asked.DESCRIPTOR.fields_by_name and asked.update_mask.paths:
        _leave_what_is_named(asked)
    return sha256(asked.SerializeToString(deterministic=True)).digest()


def _leave_what_is_named(asked: Any) -> None:
    """Clears what `update_mask` does not name of the resource, and brings what it names into one order."""
    named = sorted(set(asked.update_mask.paths))
    asked.update_mask.paths[:] = named
    if named == ["*"]:
        return
    wanted = _NAMING | {path.partition(".")[0] for path in named}
    resource = asked.product if "product" in asked.DESCRIPTOR.fields_by_name else asked.session
    for field, _ in resource.ListFields():
        if field.name not in wanted:
            resource.ClearField(field.name)
    if "attributes" not in named:
        for key in [key for key in resource.attributes if f"attributes.{key}" not in named]:
            del resource.attributes[key]
