"""AdmissionReviews as an API server sends them."""

import base64
import json
from typing import Any

import jsonpatch

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "web-", "labels": {"app": "web"}},
    "spec": {"containers": [{"name": "web", "image": "shop/web:1", "env": [{"name": "A", "value": "a"}]}]},
}


def review(pod: Any = None, **request: Any) -> dict[str, Any]:
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "operation": "CREATE",
            "namespace": "shop",
            "object": POD if pod is None else pod,
            "dryRun": False,
        }
        | request,
    }


def patched(answer: dict[str, Any], pod: Any = None) -> dict[str, Any]:
    """Returns the pod with an answer's patch in it."""
    operations = json.loads(base64.b64decode(answer["response"]["patch"]))
    return jsonpatch.apply_patch(POD if pod is None else pod, operations)
