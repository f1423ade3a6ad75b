"""Handles one pod: checks its shape, decides, and creates the patch."""

from typing import NamedTuple

from cache_sidecar.injector import pods
from cache_sidecar.injector.decide import Place, Reason, decide
from cache_sidecar.injector.options import Options
from cache_sidecar.injector.patch import Operation, inject


class Verdict(NamedTuple):
    """What to do with a pod: a patch, which may be empty, or a reason to leave it unchanged."""

    patch: list[Operation]
    reason: Reason | None


def consider(pod: object, place: Place, defaults: Options, version: tuple[int, int]) -> Verdict:
    """Returns what to do with a pod or pod template.

    Raises InputError if it is not one, and its subclass BadAnnotation if its label or an annotation is invalid.
    """
    checked = pods.check(pod)
    reason = decide(checked, place, defaults)
    return Verdict([] if reason else inject(checked, defaults, version), reason)
