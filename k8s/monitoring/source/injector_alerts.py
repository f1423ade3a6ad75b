"""Alerts of the injector."""

from alert import PAGE, TICKET, Alert, Story, name

from cache_sidecar.metrics import definitions as d

JOB = "cache-sidecar-injector"
_ADMISSIONS, _MISSING, _FAILURES = map(name, (d.ADMISSIONS, d.PODS_MISSING, d.INJECTOR_FAILURES))
_SECONDS = name(d.ADMISSION_SECONDS, "_bucket")
_LOGS = "kubectl -n cache-sidecar logs -l app.kubernetes.io/name=cache-sidecar-injector --since=30m --prefix"
_PODS = "kubectl -n cache-sidecar get pods -l app.kubernetes.io/name=cache-sidecar-injector"

ALERTS = (
    Alert(
        "InjectorDown",
        f'sum(up{{job="{JOB}"}}) == 0 or absent(up{{job="{JOB}"}})',
        "5m",
        PAGE,
        "No injector can be reached.",
        "New pods get no sidecar, or with `failurePolicy: Fail` are not created. Pods that run are not affected.",
        {"its pods": _PODS, "what they log": _LOGS},
        [
            "It blocks pods that are needed now: `kubectl delete mutatingwebhookconfiguration cache-sidecar-injector`.",
            "Later, `kubectl apply -k` restores it.",
        ],
        Story({f'up{{job="{JOB}", instance="a"}}': "1+0x9 0+0x19 1+0x40"}, ["20m"], ["5m", "40m"]),
    ),
    Alert(
        "InjectorErrors",
        f'sum(rate({_ADMISSIONS}{{outcome="error"}}[5m])) > 0',
        "5m",
        TICKET,
        "{{ $value | humanize }} admission reviews a second are invalid.",
        "Something else than an API server calls the webhook, or one of a version that the injector does not know.",
        {"who": _LOGS},
        ["Narrow the network policy to the control plane: `k8s/README.md`, *Who reaches the webhook*."],
        Story({f'{_ADMISSIONS}{{outcome="error", reason="x"}}': "0+0x9 60+60x19 1200+0x60"}, ["20m"], ["5m", "50m"]),
    ),
    Alert(
        "InjectorDenies",
        f'sum by (reason) (increase({_ADMISSIONS}{{outcome="denied"}}[15m])) > 0',
        "0m",
        TICKET,
        "Pods are denied: {{ $labels.reason }}.",
        "The pod is not created; its Deployment waits.",
        {"which": "kubectl get events -A --field-selector reason=FailedCreate", "what the injector says": _LOGS},
        ["Correct the annotation of the pod: the event says which; `cache-sidecar check -f FILE` says it before."],
        Story({f'{_ADMISSIONS}{{outcome="denied", reason="x"}}': "0+0x9 1+1x9 10+0x60"}, ["15m"], ["5m", "50m"]),
    ),
    Alert(
        "InjectorSlow",
        f"histogram_quantile(0.99, sum by (le) (rate({_SECONDS}[5m]))) > 0.5",
        "5m",
        TICKET,
        "One of a hundred admission reviews takes over {{ $value | humanizeDuration }}.",
        "Pods are created more slowly; after the webhook's `timeoutSeconds` its failure policy decides.",
        {"CPU": "kubectl -n cache-sidecar top pod", "what the injector says": _LOGS},
        ["Give it CPU, or another replica."],
        Story(
            {
                f'{_SECONDS}{{le="0.5"}}': "0+60x9 540+0x20 600+60x60",
                f'{_SECONDS}{{le="2.5"}}': "0+60x9 600+60x20 1860+60x60",
                f'{_SECONDS}{{le="+Inf"}}': "0+60x9 600+60x20 1860+60x60",
            },
            ["20m"],
            ["5m", "50m"],
        ),
    ),
    Alert(
        "PodsWithoutSidecar",
        f"sum by (namespace) ({_MISSING}) > 0",
        "30m",
        TICKET,
        "{{ $value }} pods of {{ $labels.namespace }} should have a sidecar and have none.",
        "They work without a cache: slower, not wrong.",
        {"which": "kubectl get events -A --field-selector reason=CacheSidecarMissing"},
        ["Restart their Deployments, or add the component `overlays/evict`."],
        Story({f'{_MISSING}{{namespace="shop"}}': "0+0x9 2+0x49 0+0x40"}, ["50m"], ["30m", "70m"]),
    ),
    Alert(
        "InjectorWorkFails",
        f"sum by (work) (increase({_FAILURES}[30m])) > 3",
        "0m",
        TICKET,
        "The injector's background work fails again and again: {{ $labels.work }}.",
        "None at once; certificates are not renewed, or pods without a sidecar not found.",
        {
            "why": _LOGS,
            "its permissions": "kubectl auth can-i --list --as=system:serviceaccount:cache-sidecar:cache-sidecar-injector",
        },
        ["A missing permission: apply `k8s/base/injector-rights.yaml` again."],
        Story({f'{_FAILURES}{{work="reconcile"}}': "0+0x9 1+1x19 20+0x90"}, ["25m"], ["5m", "80m"]),
    ),
)
