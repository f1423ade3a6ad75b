"""Evicts pods one after the other, as `kubectl drain` evicts those of a node."""

import json
import time
from collections.abc import Callable, Iterator, Sequence

from cache_sidecar.core.errors import InputError
from cache_sidecar.kubectl import pods
from cache_sidecar.kubectl.commands import SELECTOR
from cache_sidecar.kubectl.pods import Sidecar
from cache_sidecar.kubectl.program import Kubectl, KubectlFailed

# Seconds between two looks.
_INTERVAL = 1.0
_PROTECTED = "disruption budget"


def run(kubectl: Kubectl, names: Sequence[str], expected: str, *, timeout: float) -> Iterator[str]:
    """Evicts pods by name, or all whose version is not the expected one; yields a line for each.

    Raises InputError for a pod that nothing would create again, before any is evicted, and KubectlFailed.
    """
    chosen = pods.read(kubectl.read("pods", *names)) if names else pods.select_outdated(_all(kubectl), expected)
    without = set(names) - {each.pod for each in chosen}
    if without:
        raise InputError(f"without an injected sidecar: {', '.join(sorted(without))}")
    for each in chosen:
        if not each.owner:
            raise InputError(f"pod {each.pod} has no controller that would create it again: delete it yourself")
    for each in chosen:
        _evict(kubectl, each, time.monotonic() + timeout)
        yield f"{each.namespace}/{each.pod} evicted"
    if not chosen:
        yield f"no sidecar here is outdated: all are {expected}"


def _all(kubectl: Kubectl) -> list[Sidecar]:
    return pods.read(kubectl.read("pods", "-l", SELECTOR))


def _evict(kubectl: Kubectl, chosen: Sidecar, deadline: float) -> None:
    """Evicts a pod, and waits for another one in its place."""
    path = f"/api/v1/namespaces/{chosen.namespace}/pods/{chosen.pod}/eviction"
    metadata = {"name": chosen.pod, "namespace": chosen.namespace}
    body = json.dumps({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata})

    def is_evicted() -> bool:
        try:
            kubectl.run("create", "--raw", path, "-f", "-", stdin=body)
        except KubectlFailed as error:
            if _PROTECTED not in str(error) or time.monotonic() >= deadline:
                raise
            return False
        return True

    def is_replaced() -> bool:
        others = [each for each in _all(kubectl) if each.owner == chosen.owner]
        return all(each.pod != chosen.pod for each in others) and sum(each.is_ready for each in others) >= before

    before = sum(each.is_ready for each in _all(kubectl) if each.owner == chosen.owner)
    _wait(is_evicted, deadline, f"{chosen.pod} is protected by a disruption budget")
    _wait(is_replaced, deadline, f"{chosen.pod} is evicted, but fewer than the {before} pods of before are ready")


def _wait(condition: Callable[[], bool], deadline: float, problem: str) -> None:
    while not condition():
        if time.monotonic() >= deadline:
            raise KubectlFailed(f"{problem}: not waiting any longer")
        time.sleep(_INTERVAL)
