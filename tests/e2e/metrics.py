"""A stand-in for metrics-server: the CPU usage of containers, which no node runs, as the test sets it."""

import base64
import contextlib
import random
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from cache_sidecar.injector.certificates import renew
from tests.e2e.cluster import Cluster

_GROUP = {"apiVersion": "metrics.k8s.io/v1beta1"}
_RESOURCE = {"name": "pods", "singularName": "", "namespaced": True, "kind": "PodMetrics", "verbs": ["get", "list"]}
_API_SERVICE = "/apis/apiregistration.k8s.io/v1/apiservices"


@contextlib.asynccontextmanager
async def metrics(kube: Cluster, folder: Path, port: int, usage: Mapping[str, str]) -> AsyncIterator[None]:
    """Serves `metrics.k8s.io`; `usage` is the CPU of each container, by its name, in all pods."""

    async def discovery(_: web.Request) -> web.Response:
        return web.json_response({"kind": "APIResourceList", "groupVersion": _GROUP["apiVersion"], "resources": [_RESOURCE]})

    async def pods(request: web.Request) -> web.Response:
        namespace = request.match_info["namespace"]
        found = await kube.pods(namespace, request.query.get("labelSelector", ""))
        return web.json_response(
            _GROUP | {"kind": "PodMetricsList", "metadata": {}, "items": [_used(each, usage) for each in found]}
        )

    material = renew(None, ["metrics.default.svc"], now=time.time(), lifetime=86400.0)
    for name, value in material.to_secret().items():
        (folder / name).write_bytes(value)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    app = web.Application()
    app.router.add_get("/apis/metrics.k8s.io/v1beta1", discovery)
    app.router.add_get("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods", pods)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    address = f"127.96.{random.randrange(1, 250)}.{random.randrange(1, 250)}"
    try:
        await web.TCPSite(runner, address, port, ssl_context=tls).start()
        await _register(kube, address, port, base64.b64encode(material.bundle).decode())
        yield
        await kube.delete(f"{_API_SERVICE}/v1beta1.metrics.k8s.io")
        await kube.delete("/api/v1/namespaces/default/services/metrics")
    finally:
        await runner.cleanup()


def _used(pod: dict[str, Any], usage: Mapping[str, str]) -> dict[str, Any]:
    spec = pod["spec"]
    names = [container["name"] for container in [*spec.get("initContainers", []), *spec["containers"]]]
    containers = [{"name": name, "usage": {"cpu": usage[name], "memory": "64Mi"}} for name in names if name in usage]
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    metadata = {key: pod["metadata"][key] for key in ("name", "namespace", "labels")}
    return {"metadata": metadata, "timestamp": now, "window": "30s", "containers": containers}


async def _register(kube: Cluster, address: str, port: int, bundle: str) -> None:
    """Makes the Service at that address, an endpoint that is looked for but not asked, and the APIService."""
    ports = [{"name": "https", "port": port}]
    service = {"metadata": {"name": "metrics"}, "spec": {"clusterIP": address, "ports": ports}}
    await kube.api.create("/api/v1/namespaces/default/services", service)
    slices = {
        "metadata": {"name": "metrics", "labels": {"kubernetes.io/service-name": "metrics"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}],
        "ports": ports,
    }
    await kube.api.create("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slices)
    spec = {
        "group": "metrics.k8s.io",
        "version": "v1beta1",
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
        "caBundle": bundle,
        "service": {"name": "metrics", "namespace": "default", "port": port},
    }
    await kube.api.create(_API_SERVICE, {"metadata": {"name": "v1beta1.metrics.k8s.io"}, "spec": spec})
