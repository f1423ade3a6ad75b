"""`cache-sidecar policy` and `invalidate`: what AdminService changes."""

from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration

from cache_sidecar.core.errors import InputError
from cache_sidecar.terminal import table
from cache_sidecar.terminal.access import TIMEOUT, Access
from cache_sidecar.v1 import admin_service_pb2 as pb
from cache_sidecar.v1.admin_service_pb2_grpc import AdminServiceStub

# Seconds; a whole dataset is dropped key by key.
CHANGE_TIMEOUT = 30.0
KEYS = tuple(name for name in pb.DatasetPolicy.DESCRIPTOR.fields_by_name if name not in {"dataset", "origins"})


def parse(changes: Sequence[str], resets: Sequence[str]) -> pb.UpdatePolicyRequest:
    """Returns the request for changes `DATASET.KEY=VALUE` and resets `DATASET.KEY`. Raises InputError."""
    request = pb.UpdatePolicyRequest()
    for text in changes:
        target, is_change, value = text.partition("=")
        if not is_change:
            raise InputError(f"{text!r} must be DATASET.KEY=VALUE, such as product.rollout=50")
        key = _target(request, target)
        _set(request.policy, key, value)
        request.update_mask.paths.append(key)
    for target in resets:
        request.reset_mask.paths.append(_target(request, target))
    return request


def _target(request: pb.UpdatePolicyRequest, target: str) -> str:
    """Returns the key of `DATASET.KEY`, and sets the dataset, which must be the same for all."""
    dataset, _, key = target.rpartition(".")
    if not dataset or key not in KEYS:
        raise InputError(f"{target!r} must be DATASET.KEY; the keys are: {', '.join(KEYS)}")
    if request.policy.dataset not in {"", dataset}:
        raise InputError(f"change one dataset at a time, not both {request.policy.dataset} and {dataset}")
    request.policy.dataset = dataset
    return key


def _set(policy: pb.DatasetPolicy, key: str, value: str) -> None:
    field = pb.DatasetPolicy.DESCRIPTOR.fields_by_name[key]
    try:
        if field.message_type is not None:
            getattr(policy, key).FromNanoseconds(round(float(value) * 1e9))
        elif field.type == FieldDescriptor.TYPE_BOOL:
            setattr(policy, key, {"true": True, "false": False}[value])
        elif field.type == FieldDescriptor.TYPE_STRING:
            setattr(policy, key, value)
        else:
            setattr(policy, key, int(value) if field.type == FieldDescriptor.TYPE_INT64 else float(value))
    except (ValueError, KeyError, OverflowError):
        kind = "true or false" if field.type == FieldDescriptor.TYPE_BOOL else "a number"
        raise InputError(f"{key} must be {kind}, not {value!r}; times are in seconds") from None


async def read(access: Access) -> pb.GetPolicyResponse:
    """Returns the policy in effect. Raises ServerUnreachable and SidecarError."""
    async with access.open() as channel:
        admin: Any = AdminServiceStub(channel)
        reply: pb.GetPolicyResponse = await access.ask(
            admin.GetPolicy(pb.GetPolicyRequest(), timeout=TIMEOUT, metadata=access.metadata)
        )
        return reply


async def update(access: Access, request: pb.UpdatePolicyRequest) -> pb.UpdatePolicyResponse:
    """Changes the policy of one sidecar, until it stops. Raises ServerUnreachable and SidecarError."""
    async with access.open() as channel:
        admin: Any = AdminServiceStub(channel)
        call = admin.UpdatePolicy(request, timeout=CHANGE_TIMEOUT, metadata=access.metadata)
        reply: pb.UpdatePolicyResponse = await access.ask(call)
        return reply


async def invalidate(access: Access, dataset: str, ids: Sequence[str]) -> int:
    """Drops ids from every cache of the region, or all of a dataset if there are none; returns how many.

    Raises ServerUnreachable and SidecarError.
    """
    async with access.open() as channel:
        admin: Any = AdminServiceStub(channel)
        request = pb.InvalidateRequest(dataset=dataset, ids=ids, all=not ids)
        reply = await access.ask(admin.Invalidate(request, timeout=CHANGE_TIMEOUT, metadata=access.metadata))
        return int(reply.invalidated)


def lines(datasets: Sequence[pb.DatasetPolicy], status: pb.PolicyStatus) -> Iterator[str]:
    """Yields the lines to print: each value with its origin, and the status of the policy file."""
    rows = [["key", "value", "origin"]]
    for policy in datasets:
        for key in KEYS:
            origin = pb.PolicyOrigin.Name(policy.origins[key]).removeprefix("POLICY_ORIGIN_").lower().replace("_", "-")
            rows.append([f"{policy.dataset}.{key}", _text(getattr(policy, key)), origin])
    yield from table.lines(rows, left=3)
    yield ""
    yield f"version {status.version}, file {status.file or 'none'}"
    if status.last_error:
        yield f"FAILS  the file is invalid, and the policy before it stays in effect: {status.last_error}"


def _text(value: Any) -> str:
    match value:
        case Duration():
            return f"{value.ToNanoseconds() / 1e9:g}"
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:g}"
        case _:
            return str(value)
