"""Objects of Kubernetes: what Prometheus scrapes, and an example for Alertmanager."""

from typing import Any

import injector_alerts
from alerts import JOB, RELAY_JOB
from writing import HEADER, as_yaml

NAMESPACE = "cache-sidecar"
PORT = 9464
_LABELS = {"app.kubernetes.io/part-of": "cache-sidecar"}


def _addressed(job: str, container: str) -> list[dict[str, Any]]:
    """Returns the relabelling for a container that declares no port: the pod's address with ours, also of IPv6."""
    return [
        {"sourceLabels": ["__meta_kubernetes_pod_container_name"], "regex": container, "action": "keep"},
        {
            "sourceLabels": ["__meta_kubernetes_pod_ip"],
            "regex": r"([\d.]+)",
            "replacement": f"$1:{PORT}",
            "targetLabel": "__address__",
        },
        {
            "sourceLabels": ["__meta_kubernetes_pod_ip"],
            "regex": "(.*:.*)",
            "replacement": f"[$1]:{PORT}",
            "targetLabel": "__address__",
        },
        {"targetLabel": "job", "replacement": job},
    ]


def _monitor(
    job: str, selector: dict[str, str], namespaces: dict[str, Any], relabelings: list[dict[str, Any]], **more: str
) -> dict[str, Any]:
    endpoint = {**more, "path": "/metrics", "interval": "15s", "relabelings": relabelings}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": job, "namespace": NAMESPACE, "labels": dict(_LABELS)},
        "spec": {
            "namespaceSelector": namespaces,
            "selector": {"matchLabels": selector},
            "podMetricsEndpoints": [endpoint],
        },
    }


def _monitors() -> list[dict[str, Any]]:
    ours = [
        _monitor(
            job,
            {"app.kubernetes.io/name": job},
            {"matchNames": [NAMESPACE]},
            [{"targetLabel": "job", "replacement": job}],
            port="web",
        )
        for job in (RELAY_JOB, injector_alerts.JOB)
    ]
    return [_monitor(JOB, {"cache-sidecar.io/injected": "true"}, {"any": True}, _addressed(JOB, JOB)), *ours]


def _alertmanager() -> dict[str, Any]:
    """An example: pages at once, tickets once a day, and no page for what another page explains."""
    return {
        "route": {
            "receiver": "tickets",
            "group_by": ["alertname"],
            "group_wait": "30s",
            "group_interval": "5m",
            "repeat_interval": "24h",
            "routes": [{"receiver": "on-call", "matchers": ['severity="page"'], "repeat_interval": "4h"}],
        },
        "inhibit_rules": [
            {
                # Without Redis or PostgreSQL everything else follows.
                "source_matchers": ['alertname=~"CacheSidecar(RedisNodeFails|PostgresFails)"'],
                "target_matchers": [
                    'alertname=~"CacheSidecar(RelayMissing|RepliesStale|InvalidationsMissed|HitRatioCollapses|EventsWait)"'
                ],
            },
            {
                "source_matchers": ['alertname=~"CacheSidecar.*BurnsFast"'],
                "target_matchers": ['alertname=~"CacheSidecar.*BurnsSlowly"'],
            },
        ],
        "receivers": [
            {"name": "on-call", "webhook_configs": [{"url": "http://on-call.monitoring/alerts", "send_resolved": True}]},
            {"name": "tickets", "webhook_configs": [{"url": "http://tickets.monitoring/alerts", "send_resolved": True}]},
        ],
    }


def files(dashboards: list[str]) -> dict[str, str]:
    """Returns the files; `dashboards` are the names of those of Grafana."""
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["monitors.yaml", "prometheus-rule.yaml"],
        # Grafana's sidecar looks for this label.
        "configMapGenerator": [
            {
                "name": "cache-sidecar-dashboards",
                "namespace": NAMESPACE,
                "files": dashboards,
                "options": {"labels": {"grafana_dashboard": "1"}},
            }
        ],
        "generatorOptions": {"disableNameSuffixHash": True},
    }
    return {
        "monitors.yaml": HEADER + as_yaml(*_monitors()),
        "alertmanager.yaml": f"{HEADER}# An example: put the addresses of yours into `receivers`.\n{as_yaml(_alertmanager())}",
        "kustomization.yaml": HEADER + as_yaml(kustomization),
    }
