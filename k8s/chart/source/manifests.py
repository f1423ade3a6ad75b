"""The manifests of k8s as trees that depend on the chart's values."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from tree import If, Items, Text, Tree

from cache_sidecar import __version__

Object = dict[str, Any]
K8S = Path(__file__).parents[2]
DASHBOARDS = sorted((K8S / "monitoring" / "dashboards").glob("*.json"))
_INJECTOR, _RELAY, _MIGRATE = (f"cache-sidecar-{name}" for name in ("injector", "relay", "migrate"))
_NAMESPACE = Text("{{ $.Values.namespace.name | quote }}")
_REGION = "$region.name"
_FILES = (
    *(f"base/{name}.yaml" for name in ("namespace", "injector", "injector-rights", "webhook", "relay", "migrate", "network")),
    "overlays/ha/budgets.yaml",
    "overlays/evict/rights.yaml",
    "overlays/cert-manager/certificate.yaml",
    "monitoring/monitors.yaml",
    "monitoring/prometheus-rule.yaml",
)
# The kustomizations whose patches are applied under a condition. Not `evict`, as the mode is a value of its own.
_COMPONENTS = {
    "openshift": "$.Values.openshift",
    "cert-manager": "$.Values.injector.certManager",
    "client-certificate": "$.Values.injector.clientCertificates",
}
_CONFIGURATION = """\
bad_annotations = {{ $.Values.injector.badAnnotations | toJson }}

[sidecar]
image = {{ default (include "cache-sidecar.image" $) $.Values.sidecar.image | toJson }}
{{- range $key, $value := omit $.Values.sidecar "image" }}
{{ $key }} = {{ $value | toString | toJson }}
{{- end }}

[reconciler]
{{- range $key, $value := $.Values.injector.reconciler }}
{{ $key }} = {{ $value | toJson }}
{{- end }}
"""


def read(name: str) -> list[Object]:
    """Returns the objects of a file below k8s."""
    return list(YAML(typ="safe").load_all((K8S / name).read_text()))


def resources() -> dict[str, Any]:
    """Returns the resources of each workload in the base."""
    found = {}
    for name in ("injector", "relay", "migrate"):
        workload = next(thing for thing in read(f"base/{name}.yaml") if thing["kind"] in {"Deployment", "Job"})
        found[name] = workload["spec"]["template"]["spec"]["containers"][0]["resources"]
    return found


def load() -> dict[str, Object]:
    """Returns all objects by `Kind/name`, with the patches of the overlays under their conditions."""
    found = {f"{thing['kind']}/{thing['metadata']['name']}": thing for name in _FILES for thing in read(name)}
    version = __version__.replace(".", "-")
    found["Job/cache-sidecar-migrate"] = found.pop(f"Job/cache-sidecar-migrate-{version}")
    for component, condition in _COMPONENTS.items():
        _add(found, component, dict.fromkeys((_INJECTOR, _RELAY, _MIGRATE), condition))
    _add(found, "ha", {name: f"gt (int $.Values.{name.rpartition('-')[2]}.replicas) 1" for name in (_INJECTOR, _RELAY)})
    return found


def _add(found: dict[str, Object], kustomization: str, conditions: dict[str, str]) -> None:
    """Applies the patches of a kustomization under the condition for the name of what they change."""
    for patch in read(f"overlays/{kustomization}/kustomization.yaml")[0]["patches"]:
        target = patch["target"]
        name = target["name"].removesuffix("-.*")
        for operation in YAML(typ="safe").load(patch["patch"]):
            _change(found[f"{target['kind']}/{name}"], conditions[name], **operation)


def _change(thing: Any, condition: str, op: str, path: str, value: Any = None) -> None:
    """Applies an operation of a JSON patch under a condition."""
    *parts, last = path.lstrip("/").split("/")
    for part in parts:
        thing = thing[int(part)] if isinstance(thing, list) else thing[part]
    if isinstance(thing, list):
        if last == "-":
            thing.append(If(condition, value))
        else:
            thing[int(last)] = If(condition, value if op == "replace" else None, thing[int(last)])
    else:
        # What another component changes is nested in the condition of this one.
        thing[last] = If(condition, None if op == "remove" else value, thing.get(last))


def place(node: Any) -> Any:
    """Returns a tree whose namespaces and image are those of the values."""
    if isinstance(node, If):
        return If(node.condition, place(node.then), place(node.otherwise))
    if isinstance(node, list):
        return [place(item) for item in node]
    if isinstance(node, dict):
        is_of_names = node.get("key") == "kubernetes.io/metadata.name"
        return {key: _placed("matchNames" if is_of_names and key == "values" else key, value) for key, value in node.items()}
    return _placed_text(node) if isinstance(node, str) else node


def _placed(key: str, value: Any) -> Any:
    if key == "namespace" and value == "cache-sidecar":
        return _NAMESPACE
    if key == "kubernetes.io/metadata.name" and value == "monitoring":
        return Text("{{ $.Values.monitoring.namespace | quote }}")
    if key == "matchNames" and isinstance(value, list):
        return [_NAMESPACE if name == "cache-sidecar" else name for name in value]
    return place(value)


def _placed_text(text: str) -> str | Text:
    if text == f"cache-sidecar:{__version__}":
        return Text('{{ include "cache-sidecar.image" $ | quote }}')
    if text == "cache-sidecar/cache-sidecar-injector":
        return Text('{{ printf "%s/cache-sidecar-injector" $.Values.namespace.name | quote }}')
    if ".cache-sidecar.svc" in text:
        return Text(text.replace(".cache-sidecar.svc", ".{{ $.Values.namespace.name }}.svc"))
    return text


def _named(found: dict[str, Object], name: str) -> list[Object]:
    return [thing for key, thing in found.items() if key.endswith(f"/{name}")]


def injector(found: dict[str, Object]) -> list[Object | If]:
    """Returns the objects of the injector."""
    deployment, webhook = found[f"Deployment/{_INJECTOR}"], found[f"MutatingWebhookConfiguration/{_INJECTOR}"]
    container = _configure_pods(deployment, "injector")
    deployment["spec"]["replicas"] = Text("{{ $.Values.injector.replicas }}")
    security = deployment["spec"]["template"]["spec"]["securityContext"]
    security["fsGroup"] = If("$.Values.openshift", None, security["fsGroup"])
    further = "$.Values.injector.configuration"
    found[f"ConfigMap/{_INJECTOR}"]["data"] |= {
        "injector.toml": Text(_CONFIGURATION),
        "values.toml": If(further, Text(f"{{{{ toToml {further} | toJson }}}}")),
    }
    container["args"].append(If(further, "--config=/etc/cache-sidecar-injector/values.toml"))
    for hook in webhook["webhooks"]:
        hook["failurePolicy"] = Text("{{ $.Values.injector.failurePolicy }}")
        hook["timeoutSeconds"] = Text("{{ $.Values.injector.timeoutSeconds }}")
        of_namespaces = hook["namespaceSelector"]["matchExpressions"]
        names = next(each for each in of_namespaces if each["key"] == "kubernetes.io/metadata.name")
        names["values"].append(Items("$.Values.injector.excludedNamespaces"))
        only = "$.Values.injector.onlyNamespaces"
        of_namespaces.append(If(only, {"key": names["key"], "operator": "In", "values": Tree(only)}))
    budget = found.pop(f"PodDisruptionBudget/{_INJECTOR}")
    own = [thing for thing in _named(found, _INJECTOR) if thing["kind"] not in {"PodMonitor", "Issuer", "Certificate"}]
    return [*own, If("gt (int $.Values.injector.replicas) 1", budget)]


def certificate(found: dict[str, Object]) -> list[Object]:
    """Returns the objects of cert-manager."""
    return [found[f"{kind}/{_INJECTOR}"] for kind in ("Issuer", "Certificate")]


def eviction(found: dict[str, Object]) -> list[Object]:
    """Returns the right to evict pods."""
    return _named(found, "cache-sidecar-evict")


def relay(found: dict[str, Object]) -> list[Object | If]:
    """Returns the objects of the relay of `$region`."""
    deployment, budget = found[f"Deployment/{_RELAY}"], found[f"PodDisruptionBudget/{_RELAY}"]
    container = _configure_pods(deployment, "relay")
    deployment["spec"]["replicas"] = Text("{{ $.Values.relay.replicas }}")
    config_map, secret = (
        Text(f'{{{{ $region.{key} | default (include "cache-sidecar.relay" $region) }}}}') for key in ("configMap", "secret")
    )
    container["envFrom"][0]["configMapRef"]["name"] = config_map
    container["env"].append(If(_REGION, {"name": "CACHE_SIDECAR_REGION", "value": Text("{{ $region.name | quote }}")}))
    postgres, redis = (Text(f"{{{{ $.Values.relay.{key} }}}}") for key in ("postgresCaSecret", "redisTlsSecret"))
    _name_secrets(deployment, {"files": secret, "postgres-ca": postgres, "redis-tls": redis})
    for thing in (deployment, budget):
        thing["metadata"]["name"] = Text('{{ include "cache-sidecar.relay" $region }}')
        _label_region(thing)
    is_several = "gt (int $.Values.relay.replicas) 1"
    return [_settings(config_map, "$region.settings"), deployment, If(is_several, budget)]


def _label_region(node: Any) -> None:
    """Labels everything of a relay, and its selectors, with its region."""
    if isinstance(node, If):
        _label_region(node.then)
    elif isinstance(node, list):
        for item in node:
            _label_region(item)
    elif isinstance(node, dict):
        for value in node.values():
            _label_region(value)
        if node.get("app.kubernetes.io/name") == _RELAY:
            node["cache-sidecar.io/region"] = If(_REGION, Text("{{ $region.name | quote }}"))


def migrate(found: dict[str, Object]) -> list[Object | If]:
    """Returns the objects of the migration."""
    job = found[f"Job/{_MIGRATE}"]
    container = _configure_pods(job, "migrate")
    # As in the base, without what names of objects may not have.
    version = '{{ regexReplaceAll "[^a-z0-9]+" (include "cache-sidecar.version" $ | lower) "-" | trunc 20 }}'
    job["metadata"]["name"] = Text(f"{_MIGRATE}-{version}{{{{ with $.Values.migrate.suffix }}}}-{{{{ . }}}}{{{{ end }}}}")
    config_map, secret, postgres = (
        Text(f"{{{{ $.Values.migrate.{key} }}}}") for key in ("configMap", "secret", "postgresCaSecret")
    )
    container["envFrom"][0]["configMapRef"]["name"] = config_map
    _name_secrets(job, {"files": secret, "postgres-ca": postgres})
    return [_settings(config_map, "$.Values.migrate.settings"), job]


def _configure_pods(thing: Object, workload: str) -> Object:
    """Puts the values that every workload has into one; returns its container."""
    template = thing["spec"]["template"]
    value = f"$.Values.{workload}"
    template["metadata"]["annotations"] = If(f"{value}.podAnnotations", Tree(f"{value}.podAnnotations"))
    for key, where in {"nodeSelector": value, "tolerations": value, "imagePullSecrets": "$.Values"}.items():
        template["spec"][key] = If(f"{where}.{key}", Tree(f"{where}.{key}"))
    (container,) = template["spec"]["containers"]
    container["resources"] = Tree(f"{value}.resources")
    container["imagePullPolicy"] = Text("{{ $.Values.image.pullPolicy }}")
    return container


def _name_secrets(thing: Object, names: dict[str, Text]) -> None:
    volumes = {volume["name"]: volume for volume in thing["spec"]["template"]["spec"]["volumes"]}
    for volume, name in names.items():
        volumes[volume]["secret"]["secretName"] = name


def _settings(name: Text, expression: str) -> If:
    metadata = {"name": name, "namespace": "cache-sidecar"}
    return If(expression, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": Tree(expression)})


def network(found: dict[str, Object]) -> list[Object]:
    """Returns the network policies."""
    of_injector, of_stores = (found[f"NetworkPolicy/{name}"]["spec"] for name in ("injector", "stores"))
    api_server, stores = (f"$.Values.networkPolicy.{name}" for name in ("apiServer", "stores"))
    of_injector["ingress"][0]["from"] = of_injector["egress"][0]["to"] = If(api_server, Tree(api_server))
    of_stores["egress"][0]["to"] = If(stores, Tree(stores))
    return [thing for key, thing in found.items() if key.startswith("NetworkPolicy/")]


def monitoring(found: dict[str, Object]) -> list[Object]:
    """Returns what Prometheus' operator and Grafana read."""
    (made,) = read("monitoring/kustomization.yaml")[0]["configMapGenerator"]
    assert sorted(made["files"]) == [f"dashboards/{file.name}" for file in DASHBOARDS]
    dashboards = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": made["name"], "namespace": made["namespace"], "labels": made["options"]["labels"]},
        "data": {file.name: Text(f'{{{{ $.Files.Get "dashboards/{file.name}" | toJson }}}}') for file in DASHBOARDS},
    }
    return [*(thing for key, thing in found.items() if key.startswith(("PodMonitor/", "PrometheusRule/"))), dashboards]
