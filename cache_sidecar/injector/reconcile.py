"""Finds pods that should have a sidecar but have none, because they were created while the webhook was down."""

import asyncio
from collections import Counter
from collections.abc import Callable

from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import InputError
from cache_sidecar.injector import annotations, pods
from cache_sidecar.injector.api import Api, ApiRefused, Missing, Object, path_of
from cache_sidecar.injector.config import ReconcilerConfig
from cache_sidecar.injector.decide import Place, decide
from cache_sidecar.injector.lease import Lease
from cache_sidecar.injector.metrics import Metrics
from cache_sidecar.injector.options import Options
from cache_sidecar.injector.patch import find_sidecar
from cache_sidecar.injector.review import event

_TOO_MANY_REQUESTS = 429
_FINISHED = {"Succeeded", "Failed"}


class Reconciler:
    """Checks all pods that have the label or are in namespaces that have it."""

    def __init__(
        self,
        config: ReconcilerConfig,
        api: Api,
        metrics: Metrics,
        *,
        own_namespace: str,
        options: Options,
        emit: Callable[[Object], None],
        lease: Lease,
        clock: Clock,
    ) -> None:
        self._config = config
        self._api = api
        self._metrics = metrics
        self._own_namespace = own_namespace
        self._options = options
        self._emit = emit
        self._lease = lease
        self._clock = clock
        self._known: set[str] = set()
        self._evicted: list[float] = []

    async def reconcile(self) -> None:
        """Counts pods without a sidecar, creates an Event for each new one, and in mode `evict` evicts some.

        Only the replica that holds the lease does so. Raises SidecarError.
        """
        self._metrics.missing = {}
        if not await self._lease.hold():
            self._known = set()
            return
        missing = await self._missing()
        self._metrics.missing = Counter(pod["metadata"]["namespace"] for pod in missing)
        for pod in missing:
            if pod["metadata"]["uid"] not in self._known:
                self._emit(self._event(pod))
        self._known = {pod["metadata"]["uid"] for pod in missing}
        if self._config.mode == "evict":
            await self._evict(missing)

    async def _missing(self) -> list[Object]:
        """Returns the running pods without a sidecar, oldest first."""
        selector = f"{annotations.INJECT}=enabled"
        namespaces = await self._api.items("/api/v1/namespaces", labelSelector=selector)
        enabled = {namespace["metadata"]["name"] for namespace in namespaces}
        found = [
            pod
            for name in sorted(enabled)
            for pod in await self._api.items(_pods(name), labelSelector=f"{annotations.INJECT}!=disabled")
        ]
        by_label = await self._api.items("/api/v1/pods", labelSelector=selector)
        found += [pod for pod in by_label if pod["metadata"]["namespace"] not in enabled]
        missing = []
        for count, pod in enumerate(found, start=1):
            if self._needs_sidecar(pod, enabled=pod["metadata"]["namespace"] in enabled):
                missing.append(pod)
            if count % 100 == 0:
                await asyncio.sleep(0)  # lets the webhook answer reviews in between
        return sorted(missing, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))

    def _needs_sidecar(self, pod: Object, *, enabled: bool) -> bool:
        metadata = pod["metadata"]
        if metadata.get("deletionTimestamp") or (pod.get("status") or {}).get("phase") in _FINISHED:
            return False
        place = Place(metadata["namespace"], enabled=enabled, own_namespace=self._own_namespace)
        try:
            return not find_sidecar(pods.check(pod)) and decide(pod, place, self._options) is None
        except InputError:
            return False  # the webhook reports invalid labels

    def _event(self, pod: Object) -> Object:
        metadata = pod["metadata"]
        about = {"apiVersion": "v1", "kind": "Pod"} | {key: metadata[key] for key in ("name", "namespace", "uid")}
        message = "the pod was created without its cache sidecar because the injector was unreachable; recreate it to add one"
        return event(about, "CacheSidecarMissing", message, self._clock.now())

    async def _evict(self, missing: list[Object]) -> None:
        """Evicts pods whose controller will recreate them, within the rate limit and disruption budgets."""
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
                await self._api.create(_pods(metadata["namespace"], metadata["name"], "eviction"), body)
            except Missing:
                continue
            except ApiRefused as error:
                if error.status != _TOO_MANY_REQUESTS:
                    raise
                self._metrics.evictions["refused"] += 1
            else:
                self._metrics.evictions["evicted"] += 1
                telemetry.log.info("evicted a pod without a sidecar", namespace=metadata["namespace"], pod=metadata["name"])


def _pods(namespace: str, *more: str) -> str:
    return path_of("api", "v1", "namespaces", namespace, "pods", *more)


def _is_controlled(pod: Object) -> bool:
    return any(owner.get("controller") for owner in pod["metadata"].get("ownerReferences") or [])
