"""The shipped manifests on a cluster, and the injector as the process that its pod would run."""

import contextlib
import json
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from cache_sidecar.core.errors import SidecarError
from cache_sidecar.injector.api import ApiRefused, Object
from tests.e2e.cluster import Cluster
from tests.injector.manifests import K8S, configuration
from tests.injector.webhook import Webhook, injector
from tests.support.free_ports import ChoosePorts
from tests.support.until import until

NAMESPACE = NAME = "cache-sidecar"
INJECTOR = "cache-sidecar-injector"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
# Where it is looked whether the webhook is in force, by pods that are not stored.
TRIAL = "trial"
ENABLED = {"cache-sidecar.io/inject": "enabled"}
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}

CONTAINER: Object = {
    "name": "web",
    "image": "shop/web:1",
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
}
"Of a pod that the profile `restricted` lets pass."


def pod(name: str = "web", *, labels: dict[str, str] | None = None, **annotations: str) -> Object:
    """Returns a pod; annotations are named as options, such as `log_level`."""
    named = {f"cache-sidecar.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    metadata = {"name": name, "labels": labels or {}, "annotations": named}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [CONTAINER]}}


def has_sidecar(stored: Object) -> bool:
    """Says whether a pod has the sidecar, as a native one or as a container."""
    spec = stored["spec"]
    first = [(spec.get("initContainers") or spec["containers"])[0], spec["containers"][0]]
    return any(container["name"] == NAME for container in first)


class Installed:
    """What was applied to a cluster."""

    def __init__(self, cluster: Cluster, choose_ports: ChoosePorts) -> None:
        self.cluster = cluster
        self.address = f"127.96.{random.randrange(1, 250)}.{random.randrange(1, 250)}"
        self.port, self._web = choose_ports(2)
        self.folder = cluster.folder / "injector"
        self.folder.mkdir()

    async def apply(self, overlay: str, *components: str) -> None:
        """Applies an overlay with components, as a user's own overlay does.

        It says at which address the Service is, that its port is one that also others than root may listen on, and more patience.
        """
        folder = self.cluster.folder / "overlay"
        folder.mkdir(exist_ok=True)
        port = {"op": "replace", "path": "/spec/ports/0/port", "value": self.port}
        place = {"op": "add", "path": "/spec/clusterIP", "value": self.address}
        # No test is to depend on how busy the machine is: 30 seconds are the most that there can be.
        changes = {"clientConfig/service/port": self.port, "timeoutSeconds": 30}
        hooks = [
            {"op": "replace", "path": f"/webhooks/{index}/{path}", "value": value}
            for index in (0, 1)
            for path, value in changes.items()
        ]
        kustomization = {
            "resources": [_relative(K8S / "overlays" / overlay, folder)],
            "components": [_relative(K8S / "overlays" / component, folder) for component in components],
            "patches": [
                {"target": {"kind": "Service", "name": INJECTOR}, "patch": json.dumps([port, place])},
                {"target": {"kind": "MutatingWebhookConfiguration", "name": INJECTOR}, "patch": json.dumps(hooks)},
            ],
        }
        (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
        await self.cluster.kubectl("apply", "-k", folder)
        await self.seen()

    async def reset(self) -> None:
        """Applies the overlay dev again, and removes what the component evict brought."""
        for kind in ("clusterrolebindings", "clusterroles"):
            await self.cluster.delete(f"/apis/rbac.authorization.k8s.io/v1/{kind}/cache-sidecar-evict")
        await self.apply("dev")

    async def seen(self) -> None:
        """Waits until the API server goes by all that its webhooks' configurations say by now.

        It hears of them in order: once it goes by one that was made last, it has heard of the others.
        """
        label = {"e2e/marker": uuid4().hex[:8]}
        made = {
            "metadata": {"name": "marker"},
            "webhooks": [
                {
                    "name": "marker.e2e.test",
                    "clientConfig": {"url": "https://localhost:1/nobody-is-there"},
                    "admissionReviewVersions": ["v1"],
                    "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
                    "objectSelector": {"matchLabels": label},
                    "sideEffects": "None",
                }
            ],
        }
        await self.cluster.api.create(WEBHOOKS, made)

        async def is_asked() -> bool:
            path = "/api/v1/namespaces/default/pods?dryRun=All"
            try:
                await self.cluster.api.create(path, pod(labels=label))
            except ApiRefused as error:
                return "marker.e2e.test" in str(error)
            return False

        await until(is_asked)
        await self.cluster.delete(f"{WEBHOOKS}/marker")

    async def sections(self) -> dict[str, dict[str, Any]]:
        """Returns the injector's configuration as the ConfigMap says it, and how it is reached and reaches the API server here."""
        stored = await self.cluster.api.get(f"/api/v1/namespaces/{NAMESPACE}/configmaps/{INJECTOR}")
        deployment = await self.cluster.api.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{INJECTOR}")
        said = configuration(deployment, stored, self.folder).model_dump()
        sections = {name: value for name, value in said.items() if isinstance(value, dict)}
        sections[""] = {name: value for name, value in said.items() if name not in sections}
        # With no more rights than its service account has.
        api = await self.cluster.token(NAMESPACE, INJECTOR)
        sections["api"] = api.model_dump()
        listen, web = f"{self.address}:{self.port}", f"127.0.0.1:{self._web}"
        sections["server"] |= {"namespace": NAMESPACE, "listen": listen, "web": web}
        return sections

    @contextlib.asynccontextmanager
    async def running(self, **changed: dict[str, Any]) -> AsyncIterator[Webhook]:
        """Runs the injector until pods get their sidecars, with these changes of its configuration."""
        sections = await self.sections()
        for name, values in changed.items():
            sections[name] |= values
        async with injector(self.folder, [self.port, self._web], **sections) as webhook:
            await until(webhook.is_ready)
            await until(self.is_in_force)
            yield webhook

    async def is_in_force(self) -> bool:
        """Says whether a pod gets its sidecar now."""
        with contextlib.suppress(SidecarError):
            return has_sidecar(await self.trial())
        return False

    async def trial(self) -> Object:
        """Returns a pod as it would be stored. Raises ApiRefused."""
        return await self.cluster.api.create(f"/api/v1/namespaces/{TRIAL}/pods?dryRun=All", pod())


def _relative(path: Path, folder: Path) -> str:
    # Kustomize takes no absolute paths, and follows no links out of its folder.
    return os.path.relpath(path.resolve(), folder.resolve())
