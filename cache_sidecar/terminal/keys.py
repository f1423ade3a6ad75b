"""`cache-sidecar explain` and `get`: one key, in each tier and as callers see it."""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from google.protobuf.json_format import MessageToDict

from cache_sidecar.core.errors import InputError
from cache_sidecar.terminal import table
from cache_sidecar.terminal.access import TIMEOUT, Access
from cache_sidecar.v1 import admin_service_pb2 as pb
from cache_sidecar.v1 import cart_service_pb2, inventory_service_pb2, product_service_pb2
from cache_sidecar.v1.admin_service_pb2_grpc import AdminServiceStub
from cache_sidecar.v1.cache_pb2 import ReadOptions
from cache_sidecar.v1.cart_service_pb2_grpc import CartServiceStub
from cache_sidecar.v1.inventory_service_pb2_grpc import InventoryServiceStub
from cache_sidecar.v1.product_service_pb2_grpc import ProductServiceStub

_STATES = {
    pb.KEY_STATE_UNSPECIFIED: "unknown",
    pb.KEY_STATE_ABSENT: "absent",
    pb.KEY_STATE_VALUE: "value",
    pb.KEY_STATE_NOT_FOUND: "not found",
}


class _Read(NamedTuple):
    """How a dataset is read."""

    stub: Callable[[Any], Any]
    method: str
    request: Callable[..., Any]
    "Takes the id and the options."


READS = {
    "product": _Read(
        ProductServiceStub,
        "GetProduct",
        lambda key, options: product_service_pb2.GetProductRequest(product_id=key, options=options),
    ),
    "cart": _Read(
        CartServiceStub, "GetCart", lambda key, options: cart_service_pb2.GetCartRequest(user_id=key, options=options)
    ),
    "inventory": _Read(
        InventoryServiceStub,
        "GetInventory",
        lambda key, options: inventory_service_pb2.GetInventoryRequest(product_id=key, options=options),
    ),
}


async def explain(access: Access, dataset: str, key: str) -> pb.InspectKeyResponse:
    """Returns what each tier holds of a key. Raises ServerUnreachable and SidecarError."""
    async with access.open() as channel:
        admin: Any = AdminServiceStub(channel)
        request = pb.InspectKeyRequest(dataset=dataset, id=key)
        found: pb.InspectKeyResponse = await access.ask(admin.InspectKey(request, timeout=TIMEOUT, metadata=access.metadata))
        return found


def lines(reply: pb.InspectKeyResponse) -> Iterator[str]:
    """Yields the lines to print: a table, and what is out of date or could not be asked."""
    keys = {row.key for row in reply.tiers}
    rows = [["key", "tier", "state", "version", "age", "bytes", "served"]]
    newest = {key: max(row.version for row in reply.tiers if row.key == key) for key in keys}
    notes = []
    for row in reply.tiers:
        age = table.seconds(row.age.ToNanoseconds() / 1e9) if row.HasField("age") else "-"
        served = ("yes, marked stale" if row.stale else "yes") if row.served else "no"
        has = row.state in {pb.KEY_STATE_VALUE, pb.KEY_STATE_NOT_FOUND}
        rows.append([row.key, row.tier, _STATES[row.state], str(row.version) if has else "-", age, str(row.bytes), served])
        if row.problem:
            notes.append(f"{row.key}: {row.tier} could not be read: {row.problem}")
        elif row.tier != "store" and row.state == pb.KEY_STATE_VALUE and row.version < newest[row.key]:
            notes.append(f"{row.key}: {row.tier} is out of date: version {row.version}, elsewhere {newest[row.key]}")
        if row.known_version > newest[row.key]:
            notes.append(f"{row.key}: {row.tier} was told of version {row.known_version}, which no tier holds")
    yield from table.lines(rows, left=3)
    yield from notes


def as_json(reply: pb.InspectKeyResponse) -> str:
    """Returns the reply for programs."""
    return json.dumps(_to_dict(reply), indent=2, ensure_ascii=False)


async def get(access: Access, dataset: str, key: str, *, max_age: float | None, bypass: bool) -> str:
    """Returns the reply to a read, as JSON. Raises InputError, ServerUnreachable and SidecarError."""
    if dataset not in READS:
        raise InputError(f"{dataset!r} cannot be read: choose one of {', '.join(READS)}")
    options = ReadOptions(bypass=bypass)
    if max_age is not None:
        options.max_age.FromNanoseconds(int(max_age * 1e9))
    read = READS[dataset]
    async with access.open() as channel:
        call = getattr(read.stub(channel), read.method)
        reply = await access.ask(call(read.request(key, options), timeout=TIMEOUT, metadata=access.metadata))
    return json.dumps(_to_dict(reply), indent=2, ensure_ascii=False)


def _to_dict(reply: Any) -> Any:
    return MessageToDict(reply, preserving_proto_field_name=True)
