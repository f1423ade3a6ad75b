"""The Helm chart as helm renders and installs it, and values with which it is what an overlay is."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.e2e import build
from tests.e2e.versions import program
from tests.injector.manifests import K8S, Object, configuration

CHART = K8S / "chart"
Values = dict[str, Any]


def _ha(relay: Values | None = None, **injector: Any) -> Values:
    return {"injector": {"replicas": 2, "failurePolicy": "Fail"} | injector, "relay": {"replicas": 2} | (relay or {})}


OVERLAYS: dict[str, Values] = {
    "base": {},
    "dev": {
        "injector": {"badAnnotations": "skip", "reconciler": {"mode": "report", "interval": 10}},
        "sidecar": {"log_level": "debug", "cpu_request": "25m", "memory_request": "160Mi", "memory_limit": "160Mi"},
    },
    "ha": _ha(),
    "evict": _ha(reconciler={"mode": "evict", "evictions_per_minute": 2}),
    "cert-manager": _ha(certManager=True),
    "client-certificate": _ha(clientCertificates=True),
    "both": _ha(certManager=True, reconciler={"mode": "evict", "evictions_per_minute": 2}),
    "openshift": _ha() | {"openshift": True},
}
"By the name of the kustomization."

OTHERS: Values = {
    "namespace": {"name": "caches", "create": False},
    "image": {"repository": "registry.example/shop/cache-sidecar", "digest": f"sha256:{'0' * 64}", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "injector": {
        "timeoutSeconds": 10,
        "onlyNamespaces": ["shop", "search"],
        "excludedNamespaces": ["legacy"],
        "configuration": {"server": {"log_level": "debug"}, "certificates": {"lifetime": 86400}},
        "podAnnotations": {"example.com/owner": "platform"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "infrastructure", "operator": "Exists"}],
        "resources": {"limits": {"memory": "256Mi"}},
    },
    "sidecar": {"memory_limit": "1Gi", "port": 50099, "policy": '[product]\nl2_ttl = 600 # "<&>"\n'},
    "relay": {
        "replicas": 2,
        "regions": [
            {"name": "eu", "settings": {"CACHE_SIDECAR_REDIS_NODES": "redis.eu:6379"}},
            {"name": "us", "configMap": "relay-of-us", "secret": "passwords-of-us"},
        ],
    },
    "migrate": {"suffix": "2", "settings": {"CACHE_SIDECAR_POSTGRES_CATALOG": "postgresql://postgres/shop"}},
    "networkPolicy": {
        "apiServer": [{"ipBlock": {"cidr": "10.0.0.0/28"}}],
        "stores": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "stores"}}}],
    },
}
"Most values, each another than the default."


def helm(folder: Path, *arguments: str | Path, values: Values | None = None) -> subprocess.CompletedProcess[str]:
    """Runs helm, which keeps its own files in a folder."""
    command = [program(build.HELM), *arguments]
    if values is not None:
        file = folder / "values.json"
        file.write_text(json.dumps(values))
        command += ["-f", file]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    for name in ("CACHE", "CONFIG", "DATA"):
        environment[f"HELM_{name}_HOME"] = str(folder / "helm")
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def comparable(objects: list[Object], folder: Path) -> dict[str, Any]:
    """Returns objects by kind and name; of the injector's ConfigMap and arguments, what the injector makes of them."""
    found = {f"{thing['kind']}/{thing['metadata']['name']}": thing for thing in objects}
    assert len(found) == len(objects)
    name = "cache-sidecar-injector"
    deployment = found[f"Deployment/{name}"]
    loaded = configuration(deployment, found[f"ConfigMap/{name}"], folder)
    del deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    return found | {f"ConfigMap/{name}": loaded}
