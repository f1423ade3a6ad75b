"""Finds pods that should have a sidecar and have none, as they were made while the webhook was away."""

import asyncio
from collections import Counter
from collections.abc import Callable

from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import InputError
from cache_sidecar.injector import annotations, pods
from cache_sidecar.injector.api import Api, ApiRefused, Missing, Object
from cache_sidecar.injector.config import ReconcilerConfig
from cache_sidecar.injector.decide import Place, decide
from cache_sidecar.injector.lease import Lease
from cache_sidecar.injector.metrics import Metrics
from cache_sidecar.injector.options import Options
from cache_sidecar.injector.patch import injected
from cache_sidecar.injector.review import event

_TOO_MANY_REQUESTS = 429
_FINISHED = {"Succeeded", "Failed"}


class Reconciler:
    """Looks at all pods that are labelled, or in labelled namespaces."""

    def __init__(
        self,
        config: ReconcilerConfig,
        api: Api,
        metrics: Metrics,
        *,
        own_namespace: str,
        options: Options,
        tell: Callable[[Object], None],
        lease: Lease,
        clock: Clock,
    ) -> None:
        self._config = config
        self._api = api
        self._metrics = metrics
        self._own_namespace = own_namespace
        self._options = options
        self._tell = tell
        self._lease = lease
        self._clock = clock
        self._known: set[str] = set()
        self._evicted: list[float] = []

    async def look(self) -> None:
        """Counts them, makes an Event for each new one, and evicts some where that is asked for. Raises SidecarError.

        Of several replicas one does it.
        """
        self._metrics.missing.clear()
        if not await self._lease.hold():
            self._known = set()
            return
        missing = await self._missing()
        for namespace, count in Counter(pod["metadata"]["namespace"] for pod in missing).items():
            self._metrics.missing.labels(namespace).set(count)
        for pod in missing:
            if pod["metadata"]["uid"] not in self._known:
                self._tell(self._event(pod))
        self._known = {pod["metadata"]["uid"] for pod in missing}
        if self._config.mode == "evict":
            await self._evict(missing)

    async def _missing(self) -> list[Object]:
        """Returns the running pods that lack a sidecar, oldest first."""
        selector = f"{annotations.INJECT}=enabled"
        namespaces = await self._api.items("/api/v1/namespaces", labelSelector=selector)
        enabled = {namespace["metadata"]["name"] for namespace in namespaces}
        found = [
            pod
            for name in sorted(enabled)
            for pod in await self._api.items(f"/api/v1/namespaces/{name}/pods", labelSelector=f"{annotations.INJECT}!=disabled")
        ]
        by_label = await self._api.items("/api/v1/pods", labelSelector=selector)
        found += [pod for pod in by_label if pod["metadata"]["namespace"] not in enabled]
        missing = []
        for count, pod in enumerate(found, start=1):
            if self._lacks(pod, enabled=pod["metadata"]["namespace"] in enabled):
                missing.append(pod)
            if count % 100 == 0:
                await asyncio.sleep(0)  # reviews are answered in between
        return sorted(missing, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))

    def _lacks(self, pod: Object, *, enabled: bool) -> bool:
        metadata = pod["metadata"]
        if metadata.get("deletionTimestamp") or (pod.get("status") or {}).get("phase") in _FINISHED:
            return False
        place = Place(metadata["namespace"], enabled=enabled, own_namespace=self._own_namespace)
        try:
            return not injected(pods.check(pod)) and decide(pod, place, self._options) is None
        except InputError:
            return False  # of a label that is wrong, the webhook tells

    def _event(self, pod: Object) -> Object:
        metadata = pod["metadata"]
        about = {"apiVersion": "v1", "kind": "Pod"} | {key: metadata[key] for key in ("name", "namespace", "uid")}
        message = (
            "the pod was made without its cache sidecar, as the injector was not reached: it gets one when it is made anew"
        )
        return event(about, "CacheSidecarMissing", message, self._clock.now())

    async def _evict(self, missing: list[Object]) -> None:
        """Evicts pods whose controller makes new ones, as far as the limit and the disruption budgets allow."""
        now = self._clock.now()
        self._evicted = [time for time in self._evicted if time > now - 60.0]
        for pod in missing:
            if len(self._evicted) >= self._config.evictions_per_minute:
                return
            if not _is_controlled(pod):
                continue
            metadata = pod["metadata"]
            body = {
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
                "deleteOptions": {"preconditions": {"uid": metadata["uid"]}},
            }
            self._evicted.append(now)
            try:
                await self._api.create(f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/eviction", body)
            except Missing:
                continue
            except ApiRefused as error:
                if error.status != _TOO_MANY_REQUESTS:
                    raise
                self._metrics.evictions.labels("refused").inc()
            else:
                self._metrics.evictions.labels("evicted").inc()
                telemetry.log.info("evicted a pod without a sidecar", namespace=metadata["namespace"], pod=metadata["name"])


def _is_controlled(pod: Object) -> bool:
    return any(owner.get("controller") for owner in pod["metadata"].get("ownerReferences") or [])
