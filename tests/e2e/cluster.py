"""Kubernetes without nodes: etcd, kube-apiserver and kube-controller-manager as processes, and kubectl to speak to them.

What it stores is what any cluster would store. Nothing runs the pods: there are no containers, probes or images.
"""

import asyncio
import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cache_sidecar.core.errors import SidecarError
from cache_sidecar.devstack.processes import Child, Processes
from cache_sidecar.injector.api import Api, Missing, Object
from cache_sidecar.injector.certificates import renew
from cache_sidecar.injector.config import ApiConfig
from tests.support import inside
from tests.support.authority import Authority
from tests.support.free_ports import ChoosePorts
from tests.support.until import until

# Only the controllers that create pods, and those that a namespace needs before a pod can be created.
_CONTROLLERS = [
    "cronjob-controller",
    "deployment-controller",
    "disruption-controller",
    "garbage-collector-controller",
    "horizontal-pod-autoscaler-controller",
    "job-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "statefulset-controller",
]


_LOGGED = re.compile(r"[IWE]\d{4} ")
_PLURALS = {
    "CronJob": "/apis/batch/v1/namespaces/NAMESPACE/cronjobs",
    "Deployment": "/apis/apps/v1/namespaces/NAMESPACE/deployments",
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/namespaces/NAMESPACE/horizontalpodautoscalers",
    "Job": "/apis/batch/v1/namespaces/NAMESPACE/jobs",
    "Pod": "/api/v1/namespaces/NAMESPACE/pods",
}


class Done(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


class Cluster:
    """A running one."""

    def __init__(self, binary: Path, folder: Path, port: int, version: str) -> None:
        self.binary = binary
        self.folder = folder
        self.version = version
        "As `1.37`."
        self.url = f"https://localhost:{port}"
        self.api: Api

    def config(self, token: str = "admin") -> ApiConfig:
        """Returns how a program reaches it whose token is in a file of that name."""
        return ApiConfig(url=self.url, token_file=str(self.folder / token), ca_file=str(self.folder / "ca.crt"))

    async def token(self, namespace: str, account: str) -> ApiConfig:
        """Returns how a program reaches it that runs as a service account."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        made = await self.api.create(path, {"spec": {"expirationSeconds": 3600}})
        (self.folder / account).write_text(made["status"]["token"])
        return self.config(account)

    async def run(self, *arguments: str | Path, stdin: str = "") -> Done:
        """Runs kubectl as the administrator."""
        command = [self.binary, "kubectl", "--kubeconfig", self.folder / "kubeconfig", "--cache-dir", self.folder / "cache"]
        process = await asyncio.create_subprocess_exec(
            *map(str, [*command, *arguments]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(),
        )
        out, err = await process.communicate(stdin.encode())
        # Without the log that kubectl writes there when it is throttled.
        said = "".join(line for line in err.decode().splitlines(keepends=True) if not _LOGGED.match(line))
        return Done(process.returncode or 0, out.decode(), said)

    async def kubectl(self, *arguments: str | Path, stdin: str = "") -> str:
        """Runs kubectl, which has to succeed and to warn of nothing; returns what it prints."""
        done = await self.run(*arguments, stdin=stdin)
        assert (done.code, done.err) == (0, ""), f"{arguments}: {done.err}"
        return done.out

    async def make(self, namespace: str, thing: Object) -> Object:
        """Makes an object of one of the kinds below, and returns it as it is stored."""
        return await self.api.create(_PLURALS[thing["kind"]].replace("NAMESPACE", namespace), thing)

    async def delete(self, path: str) -> None:
        """Removes an object; there need not be one."""
        with contextlib.suppress(Missing):
            await inside.call(self.api, "DELETE", path)  # what the injector never does

    async def namespace(self, name: str, labels: dict[str, str]) -> None:
        """Makes a namespace in which pods can be made."""
        await self.api.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        await self.usable(name)

    async def usable(self, namespace: str) -> None:
        """Waits until pods can be made in a namespace."""
        await until(lambda: self.has(f"/api/v1/namespaces/{namespace}/serviceaccounts/default"))

    async def has(self, path: str) -> bool:
        """Says whether there is such an object."""
        try:
            await self.api.get(path)
        except Missing:
            return False
        return True

    async def pods(self, namespace: str, selector: str = "") -> list[Object]:
        """Returns the pods of a namespace."""
        return await self.api.items(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)

    async def start_pods(self, namespace: str) -> None:
        """Sets the status of the pods of a namespace to running and ready, as a kubelet would."""
        start = "2026-01-01T00:00:00Z"
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": start}
        for pod in await self.pods(namespace):
            if pod["status"]["phase"] == "Pending":
                with contextlib.suppress(Missing):
                    path = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}/status"
                    await self.api.patch(path, {"status": {"phase": "Running", "startTime": start, "conditions": [ready]}})

    async def events(self, namespace: str, reason: str) -> list[Object]:
        """Returns the Events of a namespace that have this reason."""
        return await self.api.items(f"/api/v1/namespaces/{namespace}/events", fieldSelector=f"reason={reason}")


@contextlib.asynccontextmanager
async def cluster(
    binary: Path, folder: Path, processes: Processes, choose_ports: ChoosePorts, *, version: str
) -> AsyncIterator[Cluster]:
    """Runs one, of a version that the programs emulate, such as `1.37`."""
    folder.mkdir(parents=True)
    client, peer, port = choose_ports(3)
    started = Cluster(binary, folder, port, version)
    _write_files(started)
    children: list[Child] = []

    def start(program: str, **options: str) -> None:
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        command = [str(binary), program, *flags]
        children.append(processes.start(f"{program}-{version}", command, directory=folder, environment=_environment()))

    try:
        start("etcd", **_etcd(folder, client, peer))
        start("kube-apiserver", **_apiserver(folder, client, port, version))
        async with Api(started.config()) as started.api:
            await until(lambda: _answers(started, children))
            start("kube-controller-manager", **_controllers(folder, version))
            await started.usable("default")
            yield started
    finally:
        # In this order: none complains of another that is gone.
        for child in reversed(children):
            await processes.stop([child])


async def _answers(started: Cluster, children: list[Child]) -> bool:
    for child in children:
        assert child.running, child.last_line()
    with contextlib.suppress(SidecarError):
        # `/readyz` alone says "ok", which is no JSON.
        await started.api.get("/api/v1/namespaces/kube-system")
        return bool(await started.api.get("/apis/scheduling.k8s.io/v1/priorityclasses/system-cluster-critical"))
    return False


def _write_files(started: Cluster) -> None:
    """Writes certificates, keys, tokens, and a kubeconfig for the administrator, who is the controllers as well."""
    folder = started.folder
    material = renew(None, ["localhost"], now=time.time(), lifetime=86400.0)
    for name, value in material.to_secret().items():
        (folder / name).write_bytes(value)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    (folder / "service-accounts.key").write_bytes(pem)
    token = secrets.token_hex(16)
    (folder / "admin").write_text(token)
    (folder / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
    kubeconfig: Any = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "e2e", "cluster": {"server": started.url, "certificate-authority": str(folder / "ca.crt")}}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "admin"}}],
        "current-context": "e2e",
    }
    (folder / "kubeconfig").write_text(json.dumps(kubeconfig))
    (folder / "kubeconfig").chmod(0o600)  # helm warns of others that may read it
    _write_webhook_client(folder)


def _write_webhook_client(folder: Path) -> None:
    """Writes the certificate that the API server presents to webhooks, and the configuration that makes it do so."""
    authority = Authority("webhook clients")
    pair = authority.client(common_name="kube-apiserver")
    for name, content in (("webhook-ca.crt", authority.cert), ("webhook.crt", pair.cert), ("webhook.key", pair.key)):
        (folder / name).write_bytes(content)
    # `*` rather than the host of the Service, whose port is chosen later.
    user = {"client-certificate": str(folder / "webhook.crt"), "client-key": str(folder / "webhook.key")}
    kubeconfig = {"apiVersion": "v1", "kind": "Config", "users": [{"name": "*", "user": user}]}
    (folder / "webhooks.kubeconfig").write_text(json.dumps(kubeconfig))
    plugin = {
        "name": "MutatingAdmissionWebhook",
        "configuration": {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "WebhookAdmissionConfiguration",
            "kubeConfigFile": str(folder / "webhooks.kubeconfig"),
        },
    }
    admission = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": [plugin]}
    (folder / "admission.yaml").write_text(json.dumps(admission))


def _etcd(folder: Path, client: int, peer: int) -> dict[str, str]:
    return {
        "data_dir": str(folder / "etcd"),
        "listen_client_urls": f"http://127.0.0.1:{client}",
        "advertise_client_urls": f"http://127.0.0.1:{client}",
        "listen_peer_urls": f"http://127.0.0.1:{peer}",
        "initial_advertise_peer_urls": f"http://127.0.0.1:{peer}",
        "initial_cluster": f"default=http://127.0.0.1:{peer}",
        # The data goes with the session.
        "unsafe_no_fsync": "true",
        "log_level": "error",
    }


def _apiserver(folder: Path, etcd: int, port: int, version: str) -> dict[str, str]:
    key = str(folder / "service-accounts.key")
    return {
        "etcd_servers": f"http://127.0.0.1:{etcd}",
        "bind_address": "127.0.0.1",
        "advertise_address": "127.0.0.1",
        "secure_port": str(port),
        "endpoint_reconciler_type": "none",
        # Addresses of the loopback interface: the webhook's Service is where the injector listens, without a kube-proxy.
        "service_cluster_ip_range": "127.96.0.0/16",
        "cert_dir": str(folder),
        "tls_cert_file": str(folder / "tls.crt"),
        "tls_private_key_file": str(folder / "tls.key"),
        "token_auth_file": str(folder / "tokens.csv"),
        "authorization_mode": "RBAC",
        "admission_control_config_file": str(folder / "admission.yaml"),
        "service_account_issuer": "https://kubernetes.default.svc",
        "service_account_key_file": key,
        "service_account_signing_key_file": key,
        "emulated_version": version,
    }


def _controllers(folder: Path, version: str) -> dict[str, str]:
    return {
        "kubeconfig": str(folder / "kubeconfig"),
        "controllers": ",".join(_CONTROLLERS),
        "leader_elect": "false",
        "secure_port": "0",
        "use_service_account_credentials": "true",
        # By default 20 requests a second: a rollout of a thousand pods would take minutes.
        "kube_api_qps": "500",
        "kube_api_burst": "500",
        "root_ca_file": str(folder / "ca.crt"),
        "service_account_private_key_file": str(folder / "service-accounts.key"),
        "emulated_version": version,
        "horizontal_pod_autoscaler_sync_period": "1s",
    }


def _environment() -> dict[str, str]:
    """Without proxies: everything is on this machine, under names that a proxy would not know."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")} | {"KUBERC": "off"}
