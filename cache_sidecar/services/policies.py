"""What the policy looks like to callers of AdminService, and what they want of it."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from cache_sidecar.config.live_policy import LivePolicy, Origin
from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.core.errors import InvalidRequest
from cache_sidecar.v1 import admin_service_pb2 as pb

KEYS = tuple(DatasetPolicy.model_fields)
_ORIGINS = {
    Origin.BUILT_IN: pb.POLICY_ORIGIN_BUILT_IN,
    Origin.FILE: pb.POLICY_ORIGIN_FILE,
    Origin.OVERRIDE: pb.POLICY_ORIGIN_OVERRIDE,
}


def message(policy: LivePolicy, dataset: str) -> pb.DatasetPolicy:
    """Returns the policy of a dataset; its fields are named as the keys are."""
    made = pb.DatasetPolicy(dataset=dataset, origins={key: _ORIGINS[policy.origin(dataset, key)] for key in KEYS})
    for key, value in policy[dataset].model_dump().items():
        if _is_duration(key):
            getattr(made, key).FromNanoseconds(round(value * 1e9))
        else:
            setattr(made, key, value)
    return made


def status(policy: LivePolicy) -> pb.PolicyStatus:
    """Returns how the policy file fares."""
    return pb.PolicyStatus(
        version=policy.version,
        file=policy.file,
        load_time=_timestamp(policy.load_time),
        refused=policy.refused,
        last_error=policy.last_error,
        last_error_time=_timestamp(policy.last_error_time) if policy.last_error else None,
    )


def values(request: pb.UpdatePolicyRequest) -> dict[str, Any]:
    """Returns what an update says, by key. Raises InvalidRequest."""
    given = request.policy
    set_ones = [field.name for field, _ in given.ListFields() if field.name in KEYS]
    return {key: _value(given, key) for key in _named("update_mask", request.update_mask.paths) or set_ones}


def given_back(request: pb.UpdatePolicyRequest) -> list[str]:
    """Returns the keys that an update gives back to the file. Raises InvalidRequest."""
    return _named("reset_mask", request.reset_mask.paths)


def _named(mask: str, paths: Iterable[str]) -> list[str]:
    named = list(dict.fromkeys(paths))
    if named == ["*"]:
        return list(KEYS)
    for path in named:
        if path not in KEYS:
            raise InvalidRequest({mask: f"{path[:64]!r} is not a policy key; the keys are: {', '.join(KEYS)}, or * for all"})
    return named


def _value(given: pb.DatasetPolicy, key: str) -> Any:
    value = getattr(given, key)
    return value.ToNanoseconds() / 1e9 if isinstance(value, Duration) else value


def _is_duration(key: str) -> bool:
    return pb.DatasetPolicy.DESCRIPTOR.fields_by_name[key].message_type is not None


def _timestamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.fromtimestamp(seconds, UTC))
    return stamp
