"""What makes two requests the same: what they ask for, not how that is encoded.

Whatever the server ignores does not count: fields that only the server sets, fields of a resource that are not in
`update_mask`, and unknown fields. Nor does the case of a UUID.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

# Fields that the server sets in replies, and ignores in requests. An etag counts wherever it is compared.
IGNORED: Mapping[str, tuple[str, ...]] = {
    "CreateProductRequest": ("product.etag", "product.create_time", "product.update_time"),
    "UpdateProductRequest": ("product.create_time", "product.update_time"),
    "UpdateSessionRequest": ("session.create_time", "session.update_time", "session.expire_time", "session.end_time"),
    "ReplaceCartRequest": ("cart.totals", "cart.create_time", "cart.update_time"),
}
# Fields that hold a UUID: upper and lower case are one (RFC 9562).
UUIDS = ("request_id", "reservation_id")
# Fields of a changed resource that always count.
_ALWAYS = {"product_id", "session_id", "etag"}


def fingerprint(request: Any) -> bytes:
    """Returns a hash that differs if and only if two requests of one method ask for different things."""
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
        _keep_masked(asked)
    return sha256(asked.SerializeToString(deterministic=True)).digest()


def _keep_masked(asked: Any) -> None:
    """Clears the fields of the resource that are not in `update_mask`, and sorts the mask."""
    named = sorted(set(asked.update_mask.paths))
    asked.update_mask.paths[:] = named
    if named == ["*"]:
        return
    wanted = _ALWAYS | {path.partition(".")[0] for path in named}
    resource = asked.product if "product" in asked.DESCRIPTOR.fields_by_name else asked.session
    for field, _ in resource.ListFields():
        if field.name not in wanted:
            resource.ClearField(field.name)
    if "attributes" not in named:
        for key in [key for key in resource.attributes if f"attributes.{key}" not in named]:
            del resource.attributes[key]
