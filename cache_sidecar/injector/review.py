"""An AdmissionReview (admission.k8s.io/v1) and the answer to it: dict in, dict out. No I/O."""

import base64
import hashlib
import json
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cache_sidecar.core.errors import InputError
from cache_sidecar.injector import pods
from cache_sidecar.injector.annotations import BadAnnotation
from cache_sidecar.injector.config import InjectorConfig
from cache_sidecar.injector.consider import consider
from cache_sidecar.injector.decide import Place

Object = dict[str, Any]


class Answer(NamedTuple):
    """What to send back, and what to count and tell."""

    body: Object
    outcome: str
    reason: str
    event: Object | None
    "An Event to make, for a bad annotation that did not keep the pod from being made."


class Context(NamedTuple):
    """What is the same for all reviews that one webhook sends."""

    config: InjectorConfig
    version: tuple[int, int]
    own_namespace: str
    enabled: bool
    "Whether the webhook's selector is the label of the namespace; else it is the pod's own."


def answer(review: object, context: Context, *, now: float) -> Answer:
    """Returns the answer. Raises InputError with one line for what is no AdmissionReview."""
    request = _request(review)
    if request.get("operation") != "CREATE" or (request.get("resource") or {}).get("resource") != "pods":
        return Answer(_body(request, {"allowed": True}), "skipped", "not_a_pod", None)
    if request.get("subResource"):
        return Answer(_body(request, {"allowed": True}), "skipped", "not_a_pod", None)
    place = Place(request.get("namespace") or "", enabled=context.enabled, own_namespace=context.own_namespace)
    try:
        verdict = consider(request.get("object"), place, context.config.sidecar, context.version)
    except BadAnnotation as error:
        return _refused(request, str(error), context.config.bad_annotations == "deny", now)
    except InputError as error:
        return Answer(_body(request, _denial(str(error))), "denied", "no_pod", None)
    if verdict.reason:
        told = {"allowed": True, "auditAnnotations": {"skipped": verdict.reason.code}}
        return Answer(_body(request, told), "skipped", verdict.reason.code, None)
    response: Object = {"allowed": True}
    if verdict.patch:
        patch = json.dumps(verdict.patch, separators=(",", ":")).encode()
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch).decode()}
    return Answer(_body(request, response), "injected", "", None)


def _request(review: object) -> Object:
    if not isinstance(review, dict) or review.get("kind") != "AdmissionReview":
        raise InputError("the body must be an AdmissionReview")
    if review.get("apiVersion") != "admission.k8s.io/v1":
        raise InputError("apiVersion must be admission.k8s.io/v1")
    request = review.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("uid"), str):
        raise InputError("request.uid must be a string")
    for name, kind in (("namespace", str), ("resource", dict), ("subResource", str)):
        if not isinstance(request.get(name), kind | None):
            raise InputError(f"request.{name} must be {'an object' if kind is dict else 'a string'}")
    return request


def _refused(request: Object, problem: str, denies: bool, now: float) -> Answer:
    if denies:
        return Answer(_body(request, _denial(problem)), "denied", "bad_annotation", None)
    told: Object = {"allowed": True, "auditAnnotations": {"skipped": "bad_annotation"}}
    told["warnings"] = [f"no cache sidecar: {problem}"[:250]]
    # `sideEffects: NoneOnDryRun` is what the webhook's configuration promises.
    made = None if request.get("dryRun") else event(_about(request), "BadAnnotation", f"no cache sidecar: {problem}", now)
    return Answer(_body(request, told), "skipped", "bad_annotation", made)


def _denial(problem: str) -> Object:
    return {"allowed": False, "status": {"code": 422, "reason": "Invalid", "message": problem}}


def _body(request: Object, response: Object) -> Object:
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": request["uid"]} | response}


def _about(request: Object) -> Object:
    """Returns what an Event can be about: the pod's controller, as the pod itself is not there yet, or else the pod."""
    namespace = request.get("namespace") or "default"
    metadata = pods.check(request["object"]).get("metadata") or {}
    owners = metadata.get("ownerReferences")
    for owner in owners if isinstance(owners, list) else []:
        if isinstance(owner, dict) and owner.get("controller") is True:
            known = {key: str(owner.get(key) or "") for key in ("apiVersion", "kind", "name", "uid")}
            return known | {"namespace": namespace}
    name = str(metadata.get("name") or metadata.get("generateName") or "")
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "namespace": namespace}


def event(about: Object, reason: str, message: str, now: float) -> Object:
    """Returns a Warning about an object. The same warning about the same object always has the same name."""
    time = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    digest = hashlib.sha256(json.dumps([about, reason, message]).encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"cache-sidecar-injector.{digest}", "namespace": about["namespace"]},
        "involvedObject": about,
        "reason": reason,
        "message": message[:1024],
        "type": "Warning",
        "source": {"component": "cache-sidecar-injector"},
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }
