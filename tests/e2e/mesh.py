"""Another webhook, as a service mesh has one: it adds a container to pods, after ours has seen them."""

import base64
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from cache_sidecar.injector.certificates import renew
from tests.e2e.cluster import Cluster
from tests.e2e.installed import CONTAINER, WEBHOOKS

NAME = "mesh"


async def _add(request: web.Request) -> web.Response:
    review = json.loads(await request.read())
    response = {"uid": review["request"]["uid"], "allowed": True}
    if all(container["name"] != NAME for container in review["request"]["object"]["spec"]["containers"]):
        patch = [{"op": "add", "path": "/spec/containers/-", "value": CONTAINER | {"name": NAME}}]
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
    return web.json_response({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})


@contextlib.asynccontextmanager
async def mesh(kube: Cluster, folder: Path, labels: dict[str, str]) -> AsyncIterator[None]:
    """Runs it for pods with these labels. Its configuration's name is behind that of the injector's, and so is its turn."""
    material = renew(None, ["localhost"], now=time.time(), lifetime=86400.0)
    for name, value in material.to_secret().items():
        (folder / name).write_bytes(value)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    app = web.Application()
    app.router.add_post("/", _add)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        (_, port), *_ = runner.addresses
        bundle = base64.b64encode(material.bundle).decode()
        await kube.api.create(WEBHOOKS, _configuration(f"https://localhost:{port}/", bundle, labels))
        yield
        await kube.delete(f"{WEBHOOKS}/zz-{NAME}")
    finally:
        await runner.cleanup()


def _configuration(url: str, bundle: str, labels: dict[str, str]) -> dict[str, object]:
    return {
        "metadata": {"name": f"zz-{NAME}"},
        "webhooks": [
            {
                "name": f"{NAME}.e2e.test",
                "clientConfig": {"url": url, "caBundle": bundle},
                "admissionReviewVersions": ["v1"],
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
                "objectSelector": {"matchLabels": labels},
                "sideEffects": "None",
                "timeoutSeconds": 30,
            }
        ],
    }
