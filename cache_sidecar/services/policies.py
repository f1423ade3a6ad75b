"""The policy as callers of AdminService see it and change it."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.duration_pb2 import Duration

from cache_sidecar.config.live_policy import LivePolicy, Origin
from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.core.errors import InvalidRequest
from cache_sidecar.services.shared.timestamps import datetime_of, timestamp
from cache_sidecar.v1 import admin_service_pb2 as pb

KEYS = tuple(DatasetPolicy.model_fields)
_ORIGINS = {
    Origin.BUILT_IN: pb.POLICY_ORIGIN_BUILT_IN,
    Origin.FILE: pb.POLICY_ORIGIN_FILE,
    Origin.OVERRIDE: pb.POLICY_ORIGIN_OVERRIDE,
}


def make_message(policy: LivePolicy, dataset: str) -> pb.DatasetPolicy:
    """Returns the policy of a dataset; its fields are named as the keys are."""
    made = pb.DatasetPolicy(dataset=dataset, origins={key: _ORIGINS[policy.origin(dataset, key)] for key in KEYS})
    for key, value in policy[dataset].model_dump().items():
        if _is_duration(key):
            getattr(made, key).FromNanoseconds(round(value * 1e9))
        else:
            setattr(made, key, value)
    return made


def make_status(policy: LivePolicy) -> pb.PolicyStatus:
    """Returns the status of the policy file."""
    return pb.PolicyStatus(
        version=policy.version,
        file=policy.file,
        load_time=timestamp(datetime_of(policy.load_time)),
        refused=policy.refused,
        last_error=policy.last_error,
        last_error_time=timestamp(datetime_of(policy.last_error_time)) if policy.last_error else None,
    )


def values(request: pb.UpdatePolicyRequest) -> dict[str, Any]:
    """Returns the values of an update, by key. Raises InvalidRequest."""
    given = request.policy
    given_keys = [field.name for field, _ in given.ListFields() if field.name in KEYS]
    return {key: _value(given, key) for key in _keys_in_mask("update_mask", request.update_mask.paths) or given_keys}


def resets(request: pb.UpdatePolicyRequest) -> list[str]:
    """Returns the keys that an update resets to the file's values. Raises InvalidRequest."""
    return _keys_in_mask("reset_mask", request.reset_mask.paths)


def _keys_in_mask(mask: str, paths: Iterable[str]) -> list[str]:
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
