"""Recording and alerting rules, their tests for promtool, and the same rules as an object of the Prometheus operator."""

from typing import Any

import alerts
import objectives
from alert import Alert, name
from writing import HEADER, as_yaml

from cache_sidecar.metrics import definitions as d

RUNBOOK = "https://github.com/cache-sidecar/cache-sidecar/blob/main/k8s/monitoring/runbook.md"
_BY = "dataset, tier"


def _recorded() -> list[dict[str, str]]:
    hits, misses = (f"sum by ({_BY}) (rate({name(metric)}[5m]))" for metric in (d.HITS, d.MISSES))
    found = [
        # A tier that has no misses, or no hits, since the start counts as having had 0. Nothing while there are no reads: with
        # one 0 / 0 in a night, a day's average would be no number, and no alert could compare with it.
        {"record": "cache_sidecar:reads_hit:ratio5m", "expr": f"{hits} / ({hits} + {misses} > 0)"},
    ]
    for objective in objectives.ALL:
        found += [{"record": objective.bad, "expr": objective.bad_expr}, {"record": objective.all, "expr": objective.all_expr}]
    for objective in objectives.ALL:
        for window in objectives.WINDOWS:
            expr = f"avg_over_time({objective.bad}[{window}]) / avg_over_time({objective.all}[{window}])"
            found.append({"record": objective.ratio(window), "expr": expr})
    return found


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": f"CacheSidecar{alert.name}",
        "expr": alert.expr,
        **({} if alert.lasts == "0m" else {"for": alert.lasts}),
        "labels": {"severity": alert.severity},
        "annotations": {
            "summary": alert.summary,
            "description": alert.effect,
            "runbook_url": f"{RUNBOOK}#{alert.name.lower()}",
        },
    }


def groups() -> list[dict[str, Any]]:
    """Returns the groups of rules; those that are recorded come first, as others use them."""
    return [
        {"name": "cache-sidecar-recorded", "rules": _recorded()},
        *({"name": f"cache-sidecar-{group}", "rules": [_rule(one) for one in found]} for group, found in alerts.GROUPS.items()),
    ]


def _test(alert: Alert) -> dict[str, Any]:
    firing = f'count(ALERTS{{alertname="CacheSidecar{alert.name}", alertstate="firing"}})'
    times = [(time, True) for time in alert.story.firing] + [(time, False) for time in alert.story.quiet]
    return {
        "name": alert.name,
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in alert.story.series.items()],
        "promql_expr_test": [
            {"expr": firing, "eval_time": time, "exp_samples": [{"labels": "{}", "value": 1}] if fires else []}
            for time, fires in times
        ],
    }


def files() -> dict[str, str]:
    """Returns the files with rules."""
    made = {"groups": groups()}
    tests = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [_test(one) for one in alerts.ALL]}
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "cache-sidecar",
            "namespace": "cache-sidecar",
            "labels": {"app.kubernetes.io/part-of": "cache-sidecar"},
        },
        "spec": made,
    }
    return {
        "rules.yaml": HEADER + as_yaml(made),
        "rules.test.yaml": f"{HEADER}# promtool test rules rules.test.yaml\n{as_yaml(tests)}",
        "prometheus-rule.yaml": HEADER + as_yaml(rule),
    }
