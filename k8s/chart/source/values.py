"""The chart's values: what people set, with its default, its meaning and its schema."""

from typing import Any, NamedTuple, get_args

from ruamel.yaml import YAML
from tree import write

from cache_sidecar.injector.config import InjectorConfig, ReconcilerConfig
from cache_sidecar.injector.options import Options

Schema = dict[str, Any]
_TYPES = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}
_DIGEST = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
_NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"}
_SETTINGS = {"type": "object", "propertyNames": {"pattern": "^CACHE_SIDECAR_[A-Z0-9_]+$"}}
_SETTINGS |= {"additionalProperties": {"type": "string"}}


class Value(NamedTuple):
    """One value; the schema is by default the default's type."""

    default: Any
    meaning: str
    schema: Schema | None = None


def values(resources: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns all values as a tree; `resources` are those of the workloads in the base, by workload."""
    return {
        "namespace": {
            "name": Value("cache-sidecar", "Where everything is, whatever the release's namespace is.", _NAME),
            "create": Value(
                True,
                "Whether the chart makes it, with the Pod Security profile `restricted`. Not if the release itself is in it.",
            ),
        },
        "image": {
            "repository": Value("cache-sidecar", "The one image for everything, injected sidecars included."),
            "tag": Value("", "By default the chart's version."),
            "digest": Value(
                "", "Such as sha256:...; instead of the tag.", {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
            ),
            "pullPolicy": Value(
                "IfNotPresent", "Of the injector, relay and migration.", _one_of("Always", "IfNotPresent", "Never")
            ),
        },
        "imagePullSecrets": Value([], "Such as `- name: registry`; for those of sidecars, see `sidecar.image_pull_secrets`."),
        "openshift": Value(False, "No user and group ids: OpenShift chooses them from the namespace's range."),
        "injector": {
            "replicas": Value(1, "Of several, each is on a node of its own, and one at a time may be away.", _at_least(1)),
            "failurePolicy": Value(
                "Ignore",
                "Of a pod that cannot be injected: `Ignore` creates it without a sidecar, `Fail` refuses it.",
                _one_of("Ignore", "Fail"),
            ),
            "timeoutSeconds": Value(5, "How long the API server waits for the injector.", _at_least(1) | {"maximum": 30}),
            "onlyNamespaces": Value([], "Namespaces whose pods are considered, if labelled; by default all."),
            "excludedNamespaces": Value([], "Namespaces whose pods are not, besides Kubernetes' own and this one."),
            "badAnnotations": Value("deny", _meaning(InjectorConfig, "bad_annotations"), _one_of("deny", "skip")),
            "reconciler": Value(
                {"mode": "report"},
                "Of pods without their sidecar: keys of [reconciler], such as `mode: evict`, `evictions_per_minute: 2`.",
                _fields(ReconcilerConfig, {str: "string", int: "integer", float: "number"}),
            ),
            "configuration": Value({}, "Further sections of its file, such as `server: {log_level: debug}`."),
            "certManager": Value(
                False, "Whether cert-manager issues the webhook's certificate; by default, the injector does."
            ),
            "clientCertificates": Value(
                False, "Whether only the API server may send reviews; see `Who reaches the webhook` in k8s/README.md."
            ),
            **_workload(resources["injector"]),
        },
        "sidecar": Value(
            {},
            "Options of all sidecars, such as `memory_limit: 1Gi`; annotations of a pod override them.",
            _options(),
        ),
        "relay": {
            "enabled": Value(True, "Every region needs one."),
            "replicas": Value(1, "Of each region: one leads, the others wait for its failure.", _at_least(1)),
            "regions": Value(
                [{"name": ""}],
                "One relay for each. With a `name`, CACHE_SIDECAR_REGION and its objects have it. `settings` become its\n"
                "ConfigMap; or `configMap` names one that is there, by default cache-sidecar-relay, with -name. `secret`\n"
                "(by default of the same name) has its passwords, as files in /etc/cache-sidecar/files.",
                _regions(),
            ),
            **_stores(),
            "redisTlsSecret": Value(
                "redis-tls", "For Redis, if it exists: ca.crt; tls.crt and tls.key, too, for mutual TLS.", _NAME
            ),
            **_workload(resources["relay"]),
        },
        "migrate": {
            "enabled": Value(True, "Whether to run the migration, once per version."),
            "suffix": Value(
                "",
                "Added to its Job's name: with another suffix, it runs again. Needed where other values change it, as a Job\n"
                "cannot be changed.",
                {"type": "string", "pattern": "^[-a-z0-9]*$"},
            ),
            "settings": Value({}, "They become its ConfigMap; by default, that is there.", _SETTINGS),
            "configMap": Value("cache-sidecar-migrate", "The ConfigMap with its settings.", _NAME),
            "secret": Value("cache-sidecar-migrate", "Its passwords, as files in /etc/cache-sidecar/files.", _NAME),
            **_stores(),
            **_workload(resources["migrate"]),
        },
        "networkPolicy": {
            "enabled": Value(True, "Whether pods of the namespace accept and open only the connections that they need."),
            "apiServer": Value([], "What the API server is, such as `- ipBlock: {cidr: 10.0.0.0/28}`; by default all."),
            "stores": Value([], "What PostgreSQL and Redis are; by default all."),
        },
        "monitoring": {
            "enabled": Value(False, "Whether there are monitors, rules and dashboards; needs the Prometheus Operator's kinds."),
            "namespace": Value("monitoring", "Where Prometheus is, which the network policies let in.", _NAME),
        },
    }


def _workload(resources: dict[str, Any]) -> dict[str, Value]:
    return {
        "resources": Value(resources, "Requests and limits."),
        "podAnnotations": Value({}, "Annotations of its pods."),
        "nodeSelector": Value({}, "Labels of the nodes it may run on."),
        "tolerations": Value([], "Taints of nodes that it tolerates."),
    }


def _stores() -> dict[str, Value]:
    return {"postgresCaSecret": Value("postgres-ca", "For PostgreSQL, if it exists: ca.crt.", _NAME)}


def _one_of(*names: str) -> Schema:
    return {"enum": list(names)}


def _at_least(number: int) -> Schema:
    return {"type": "integer", "minimum": number}


def _meaning(model: Any, name: str) -> str:
    return str(model.model_fields[name].description)


def _regions() -> Schema:
    # As in cache_sidecar/config/settings.py; the name is part of names of objects.
    name = {"type": "string", "pattern": "^([a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?)?$"}
    properties = {"name": name, "configMap": _NAME, "secret": _NAME, "settings": _SETTINGS}
    item = {"type": "object", "properties": properties, "required": ["name"], "additionalProperties": False}
    return {"type": "array", "items": item, "minItems": 1, "uniqueItems": True}


def _options() -> Schema:
    return _fields(Options, {str: ["string", "integer"]})


def _fields(model: Any, types: dict[Any, Any]) -> Schema:
    properties = {}
    for name, field in model.model_fields.items():
        choices = [word for word in get_args(field.annotation) if isinstance(word, str)]
        kind = {"enum": choices} if choices else {"type": types[field.annotation]}
        properties[name] = kind | {"description": field.description}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def as_yaml(tree: dict[str, Any], header: str) -> str:
    """Returns `values.yaml`: every value with its meaning."""

    def lines(node: dict[str, Any], indent: str) -> list[str]:
        found = []
        for name, value in node.items():
            if isinstance(value, Value):
                found += [f"{indent}# {line}" for line in value.meaning.split("\n")]
                found += [indent + line for line in write({name: value.default}).splitlines()]
            else:
                found += [f"{indent}{name}:", *lines(value, f"{indent}  ")]
        return found

    text = header + "\n".join(lines(tree, "")) + "\n"
    assert YAML(typ="safe").load(text) == _defaults(tree)
    return text


def _defaults(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: value.default if isinstance(value, Value) else _defaults(value) for name, value in tree.items()}


def as_schema(tree: dict[str, Any]) -> Schema:
    """Returns `values.schema.json`, which refuses names that do not exist."""
    # Helm adds `global` where the chart is part of another one.
    return {"$schema": "http://json-schema.org/draft-07/schema#"} | _schema(tree | {"global": Value({}, "Not used.")})


def _schema(node: Any) -> Schema:
    if isinstance(node, Value):
        schema = node.schema or {"type": _TYPES[type(node.default)]}
        return {"description": node.meaning.replace("\n", " ")} | schema
    properties = {name: _schema(value) for name, value in node.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}
