"""What the injector does beside answering: its certificate, its events, and the pods that it missed."""

import asyncio
import base64
import copy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cache_sidecar.core.errors import InputError, ServerUnreachable, SettingsError, SidecarError
from cache_sidecar.injector.api import Api, ApiRefused, path_of
from cache_sidecar.injector.config import ApiConfig, CertificateConfig, InjectorConfig, ReconcilerConfig
from cache_sidecar.injector.events import Events
from cache_sidecar.injector.lease import Lease
from cache_sidecar.injector.metrics import Metrics
from cache_sidecar.injector.options import Options
from cache_sidecar.injector.process import Injector
from cache_sidecar.injector.reconcile import Reconciler
from cache_sidecar.injector.review import event
from cache_sidecar.injector.rotation import OwnSource, Served
from cache_sidecar.metrics import definitions
from cache_sidecar.metrics.definitions import Process
from tests.injector import kube as kubes
from tests.injector.kube import Kube
from tests.injector.reviews import POD
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.until import until

SECRETS = "/api/v1/namespaces/cs/secrets"
SECRET = f"{SECRETS}/cache-sidecar-injector-tls"
HOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/cache-sidecar-injector"
EVENTS = "/api/v1/namespaces/shop/events"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/cs/leases/reconciler"


@pytest.fixture
async def kube(tmp_path: Path) -> AsyncIterator[Kube]:
    async with kubes.serving(tmp_path) as kube:
        kube.put(HOOKS, {"webhooks": [{"name": "a", "clientConfig": {}}, {"name": "b", "clientConfig": {"caBundle": "b2xk"}}]})
        yield kube


@pytest.fixture
async def api(kube: Kube) -> AsyncIterator[Api]:
    async with Api(kube.config) as api:
        yield api


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def source(api: Api, clock: ManualClock) -> OwnSource:
    return OwnSource(api, CertificateConfig(), namespace="cs", service="injector", clock=clock)


def bundles(kube: Kube) -> list[bytes]:
    return [base64.b64decode(hook["clientConfig"]["caBundle"]) for hook in kube.objects[HOOKS]["webhooks"]]


async def test_the_first_replica_makes_a_certificate_and_the_others_share_it(kube: Kube, api: Api, clock: ManualClock) -> None:
    first, second = await source(api, clock).current(), await source(api, clock).current()
    assert first == second
    authority = base64.b64decode(kube.objects[SECRET]["data"]["ca.crt"])
    assert bundles(kube) == [authority, authority]
    assert [method for method, _ in kube.calls] == ["GET", "POST", "GET", "PATCH", "GET", "GET"], "nothing is written twice"


@pytest.mark.parametrize("starts_with", ["nothing", "a certificate that is due"])
async def test_replicas_that_make_one_at_the_same_time_end_with_the_same(
    kube: Kube, api: Api, clock: ManualClock, starts_with: str
) -> None:
    if starts_with != "nothing":
        await source(api, clock).current()
        clock.advance(25 * 86400)
    kube.calls.clear()
    other: list[Any] = []

    def interfere(method: str, path: str) -> None:
        if method in {"POST", "PUT"} and not other:
            other.append(None)
            names = ["injector.cs.svc", "injector.cs.svc.cluster.local"]
            fresh = kubes.renew(None, names, now=clock.now(), lifetime=30 * 86400.0)
            data = {name: base64.b64encode(value).decode() for name, value in fresh.to_secret().items()}
            other[0] = fresh.serving
            kube.put(SECRET, {"data": data})

    kube.before = interfere
    assert await source(api, clock).current() == other[0]


async def test_the_api_server_is_told_before_a_certificate_is_shown(kube: Kube, api: Api, clock: ManualClock) -> None:
    served = Served()
    kube.refuse[HOOKS] = 403
    with pytest.raises(ApiRefused, match="refused by the test"):
        await served.refresh(source(api, clock))
    assert served.expiry == 0
    del kube.refuse[HOOKS]
    await served.refresh(source(api, clock))
    assert served.expiry == clock.now() + 30 * 86400


async def test_a_configuration_that_changes_meanwhile_is_not_patched_at_the_wrong_place(
    kube: Kube, api: Api, clock: ManualClock
) -> None:
    def reorder(method: str, path: str) -> None:
        if (method, path) == ("PATCH", HOOKS):
            kube.put(HOOKS, {"webhooks": [{"name": "other"}, *kube.objects[HOOKS]["webhooks"]]})
            kube.before = kubes.let_be

    kube.before = reorder
    with pytest.raises(ApiRefused, match="rejected"):
        await source(api, clock).current()
    assert "clientConfig" not in kube.objects[HOOKS]["webhooks"][0]


async def test_a_secret_that_keeps_changing_is_a_sentence(kube: Kube, api: Api, clock: ManualClock) -> None:
    def write(method: str, path: str) -> None:
        if method in {"POST", "PUT"}:
            kube.put(SECRET, {"data": {"ca.crt": "!"}})

    kube.before = write
    with pytest.raises(SettingsError, match="does another program write it"):
        await source(api, clock).current()


async def test_who_cannot_be_reached_is_named(tmp_path: Path, kube: Kube, api: Api) -> None:
    away = kube.config.model_copy(update={"url": "https://localhost:1"})
    async with Api(away) as other:
        with pytest.raises(ServerUnreachable, match="the API server at https://localhost:1 does not answer"):
            await other.get("/version")
    (tmp_path / "token").unlink()
    with pytest.raises(ServerUnreachable, match=r"api.token_file: cannot read .*: No such file or directory"):
        await api.get("/version")


async def test_the_same_event_again_is_counted(kube: Kube, api: Api) -> None:
    about = {"kind": "ReplicaSet", "name": "web", "namespace": "shop"}
    events = Events(api, Metrics())
    for now in (1_700_000_000.0, 1_700_000_060.0, 1_700_000_120.0):
        events.enqueue(event(about, "Reason", "text", now))
        await events.send()
    (made,) = [thing for path, thing in kube.objects.items() if path.startswith(EVENTS)]
    assert (made["count"], made["lastTimestamp"], made["firstTimestamp"]) == (3, "2023-11-14T22:15:20Z", "2023-11-14T22:13:20Z")


async def test_a_namespace_with_slashes_stays_one_segment_of_the_path(kube: Kube, api: Api) -> None:
    events = Events(api, Metrics())
    events.enqueue(event({"kind": "Pod", "name": "web", "namespace": "shop/pods/web/eviction?x"}, "Reason", "text", 0.0))
    await events.send()
    assert kube.raw_paths == ["/api/v1/namespaces/shop%2Fpods%2Fweb%2Feviction%3Fx/events"]
    events.enqueue(event({"kind": "Pod", "name": "web", "namespace": ".."}, "Reason", "text", 0.0))
    with pytest.raises(InputError, match=r"'\.\.' cannot be part of a path"):
        await events.send()
    assert len(kube.raw_paths) == 1


async def test_a_listed_pod_whose_name_has_slashes_is_evicted_by_that_name_only(
    kube: Kube, api: Api, clock: ManualClock
) -> None:
    put_shop(kube)
    put_pod(kube, "web", metadata={"name": "web/../../../other/pods/db"})
    looking, _ = reconciler(api, clock, [], mode="evict")
    await looking.reconcile()
    assert kube.raw_paths[-1] == "/api/v1/namespaces/shop/pods/web%2F..%2F..%2F..%2Fother%2Fpods%2Fdb/eviction"


@pytest.mark.parametrize("segment", ["", ".", ".."])
def test_a_segment_that_would_be_resolved_is_an_error(segment: str) -> None:
    with pytest.raises(InputError):
        path_of("api", segment, "pods")


async def test_events_that_are_too_many_are_dropped_and_counted(api: Api) -> None:
    metrics = Metrics()
    events = Events(api, metrics)
    for number in range(150):
        events.enqueue({"metadata": {"name": str(number)}})
    assert metrics.failures == {"events": 50}


async def test_every_metric_of_the_list_has_a_value_once_all_has_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_sidecar.metrics.process.container_memory", lambda: (2, 1))
    metrics = Metrics()
    metrics.failures["events"] += 1
    metrics.missing = {"shop": 1}
    metrics.evictions["evicted"] += 1
    metrics.certificate_expiry = 1.0
    metrics.record_review("injected", "", 0.002)
    served = {metric: samples for metric, samples in metrics.collect() if samples}
    assert served.keys() == set(definitions.of(Process.INJECTOR))
    assert served[definitions.ADMISSION_SECONDS][()].counts[2] == 1  # type: ignore[union-attr]


def put_pod(kube: Kube, name: str, namespace: str = "shop", *, labels: dict[str, str] | None = None, **more: Any) -> None:
    pod = copy.deepcopy(POD)
    pod["metadata"] = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{name}",
        "labels": labels or {},
        "creationTimestamp": f"2026-01-01T00:00:{len(kube.objects):02}Z",
        "ownerReferences": [{"controller": True}],
    } | more.pop("metadata", {})
    kube.put(f"/api/v1/namespaces/{namespace}/pods/{name}", pod | more)


def put_shop(kube: Kube) -> None:
    kube.put("/api/v1/namespaces/shop", {"metadata": {"labels": {"cache-sidecar.io/inject": "enabled"}}})
    kube.put("/api/v1/namespaces/other", {"metadata": {}})


def reconciler(
    api: Api, clock: ManualClock, told: list[Any], *, mode: str = "report", rate: int = 2
) -> tuple[Reconciler, Metrics]:
    metrics = Metrics()
    config = ReconcilerConfig(mode=mode, evictions_per_minute=rate)  # type: ignore[arg-type]
    lease = Lease(api, namespace="cs", name="reconciler", seconds=60, clock=clock)
    made = Reconciler(config, api, metrics, own_namespace="cs", options=Options(), emit=told.append, lease=lease, clock=clock)
    return made, metrics


async def test_pods_without_a_sidecar_are_counted_and_told_of_once(kube: Kube, api: Api, clock: ManualClock) -> None:
    put_shop(kube)
    enabled, disabled = {"cache-sidecar.io/inject": "enabled"}, {"cache-sidecar.io/inject": "disabled"}
    put_pod(kube, "missing")
    put_pod(kube, "missing-by-label", "other", labels=enabled)
    put_pod(kube, "not-asked", "other")
    put_pod(kube, "opted-out", labels=disabled)
    put_pod(kube, "wrong-label", labels={"cache-sidecar.io/inject": "yes"})
    put_pod(kube, "finished", status={"phase": "Succeeded"})
    put_pod(kube, "going", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    put_pod(kube, "host", spec=POD["spec"] | {"hostNetwork": True})
    put_pod(
        kube,
        "injected",
        metadata={"annotations": {"cache-sidecar.io/status": "{}"}},
        spec={"containers": [{"name": "web"}], "initContainers": [{"name": "cache-sidecar"}]},
    )
    told: list[Any] = []
    looking, metrics = reconciler(api, clock, told)
    await looking.reconcile()
    await looking.reconcile()
    assert {one["involvedObject"]["name"] for one in told} == {"missing", "missing-by-label"}
    assert len(told) == 2
    assert {one["reason"] for one in told} == {"CacheSidecarMissing"}
    assert metrics.missing == {"shop": 1, "other": 1}
    assert not [call for call in kube.calls if "eviction" in call[1]]


async def test_more_pods_than_a_page_holds(kube: Kube, api: Api, clock: ManualClock) -> None:
    put_shop(kube)
    for number in range(1100):
        put_pod(kube, f"web-{number}")
    told: list[Any] = []
    looking, _ = reconciler(api, clock, told)
    await looking.reconcile()
    assert len(told) == 1100


async def test_eviction_is_asked_for_limited_and_leaves_what_nobody_makes_anew(
    kube: Kube, api: Api, clock: ManualClock
) -> None:
    put_shop(kube)
    put_pod(kube, "alone", metadata={"ownerReferences": []})
    for number in range(5):
        put_pod(kube, f"web-{number}")
    kube.refuse["/api/v1/namespaces/shop/pods/web-0/eviction"] = 429
    looking, metrics = reconciler(api, clock, [], mode="evict")

    async def evicted() -> list[str]:
        kube.calls.clear()
        await looking.reconcile()
        return [path.split("/")[-2] for _, path in kube.calls if path.endswith("/eviction")]

    assert await evicted() == ["web-0", "web-1"]
    assert await evicted() == []
    clock.advance(30)
    assert await evicted() == []
    clock.advance(31)
    kube.refuse.clear()
    assert await evicted() == ["web-0", "web-2"]
    assert metrics.evictions == {"refused": 1, "evicted": 3}


async def test_a_refused_eviction_that_is_no_budget_is_an_error(kube: Kube, api: Api, clock: ManualClock) -> None:
    put_shop(kube)
    put_pod(kube, "web")
    looking, _ = reconciler(api, clock, [], mode="evict")
    kube.refuse["/api/v1/namespaces/shop/pods/web/eviction"] = 404
    await looking.reconcile()
    clock.advance(61)
    kube.refuse["/api/v1/namespaces/shop/pods/web/eviction"] = 403
    with pytest.raises(ApiRefused):
        await looking.reconcile()


async def test_of_two_replicas_one_looks_until_it_is_gone(kube: Kube, api: Api, clock: ManualClock) -> None:
    put_shop(kube)
    put_pod(kube, "missing")
    told: tuple[list[Any], list[Any]] = ([], [])
    (first, _), (second, metrics) = reconciler(api, clock, told[0]), reconciler(api, clock, told[1])
    await first.reconcile()
    await second.reconcile()
    assert (len(told[0]), len(told[1])) == (1, 0)
    assert metrics.missing == {}
    for _ in range(5):
        clock.advance(40)
        await first.reconcile()
        await second.reconcile()
    assert len(told[1]) == 0
    clock.advance(61)
    await second.reconcile()
    assert len(told[1]) == 1
    await first.reconcile()
    assert len(told[0]) == 1, "it noticed that it was too late"


async def test_a_lease_that_somebody_else_writes_first_is_not_held(kube: Kube, api: Api, clock: ManualClock) -> None:
    lease = Lease(api, namespace="cs", name="reconciler", seconds=60, clock=clock)

    def snatch(method: str, path: str) -> None:
        if method in {"POST", "PUT"}:
            kube.put(LEASE, {"spec": {"holderIdentity": "", "renewTime": "x"}})

    kube.before = snatch
    assert not await lease.hold()
    assert not await lease.hold()
    kube.before = kubes.let_be
    assert await lease.hold()
    assert kube.objects[LEASE]["spec"]["leaseDurationSeconds"] == 60


async def test_a_lease_that_is_given_up_is_anybodys_at_once(kube: Kube, api: Api, clock: ManualClock) -> None:
    first, second = (Lease(api, namespace="cs", name="reconciler", seconds=60, clock=clock) for _ in range(2))
    await first.release()  # there is none yet
    assert await first.hold()
    await second.release()
    assert not await second.hold()
    await first.release()
    assert await second.hold()
    assert not await first.hold()


async def test_the_whole_injector_heals_when_the_api_server_comes(
    kube: Kube, clock: ManualClock, choose_ports: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache_sidecar.injector.process.RETRY_SECONDS", 0.01)
    listen, web = choose_ports(2)
    config = InjectorConfig.model_validate(
        {
            "server": {"listen": f"127.0.0.1:{listen}", "web": f"127.0.0.1:{web}", "namespace": "cs"},
            "reconciler": {"interval": 1},
        }
    )
    put_shop(kube)
    put_pod(kube, "missing")
    for path in (SECRET, "/version"):
        kube.refuse[path] = 503
    async with Api(kube.config) as api:
        injector = Injector(config, api, clock=clock)
        stop = asyncio.Event()
        running = asyncio.ensure_future(injector.run(stop))
        await until(lambda: ("GET", "/version") in kube.calls and ("GET", SECRET) in kube.calls)
        assert not inside.is_ready(injector)
        kube.put("/version", {"major": "1", "minor": "what"})
        del kube.refuse["/version"], kube.refuse[SECRET]
        await until(lambda: inside.served_of(injector).expiry)
        assert not inside.is_ready(injector)
        kube.put("/version", {"major": "1", "minor": "34+"})
        await until(inside.is_ready_of(injector))
        await until(lambda: any(path.startswith(EVENTS) for path in kube.objects))
        (lease,) = [thing for path, thing in kube.objects.items() if "/leases/" in path]
        assert lease["spec"]["holderIdentity"]
        stop.set()
        await running
        (lease,) = [thing for path, thing in kube.objects.items() if "/leases/" in path]
        assert not lease["spec"]["holderIdentity"], "its successor need not wait"


async def test_work_that_ends_by_a_bug_ends_the_injector(kube: Kube, clock: ManualClock, choose_ports: Any) -> None:
    listen, web = choose_ports(2)
    config = InjectorConfig.model_validate(
        {
            "kubernetes_version": "1.34",
            "server": {"listen": f"127.0.0.1:{listen}", "web": f"127.0.0.1:{web}", "namespace": "cs"},
            "reconciler": {"mode": "off"},
        }
    )
    kube.put(HOOKS, {"webhooks": 5})
    async with Api(kube.config) as api:
        with pytest.raises(TypeError):
            await Injector(config, api, clock=clock).run(asyncio.Event())


def test_errors_of_the_api_are_errors_of_ours() -> None:
    assert issubclass(ApiRefused, SidecarError)
    assert ApiConfig().url == "https://kubernetes.default.svc"
