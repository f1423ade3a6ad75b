"""The way of one pod: its shape, the decision, the patch."""

from typing import NamedTuple

from cache_sidecar.injector import pods
from cache_sidecar.injector.decide import Place, Reason, decide
from cache_sidecar.injector.options import Options
from cache_sidecar.injector.patch import Operation, inject


class Verdict(NamedTuple):
    """What is to be done with a pod: a patch, which may be empty, or a reason to do nothing."""

    patch: list[Operation]
    reason: Reason | None


def consider(pod: object, place: Place, defaults: Options, version: tuple[int, int]) -> Verdict:
    """Returns what to do with a pod, or pod template.

    Raises InputError when it is none, and its kind BadAnnotation when its label or annotations cannot be followed.
    """
    checked = pods.check(pod)
    reason = decide(checked, place, defaults)
    return Verdict([] if reason else inject(checked, defaults, version), reason)
