"""Answers an AdmissionReview (admission.k8s.io/v1): dict in, dict out. No I/O."""

import base64
import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cache_sidecar.core.errors import InputError
from cache_sidecar.injector import pods
from cache_sidecar.injector.annotations import BadAnnotation
from cache_sidecar.injector.config import InjectorConfig
from cache_sidecar.injector.consider import consider
from cache_sidecar.injector.decide import Place

Object = dict[str, Any]

# RFC 1123, as Kubernetes names namespaces. Anyone who reaches the port can send a review, and the namespace ends up in a path.
_DNS_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
# Kubernetes limits names to 253 characters; what is longer would only fill the queue of Events.
_LONGEST = 253


class Answer(NamedTuple):
    """The reply, its outcome for the metrics, and an Event to create."""

    body: Object
    outcome: str
    reason: str
    event: Object | None
    "An Event about a bad annotation, if the pod is created nevertheless."


class Context(NamedTuple):
    """What all reviews of one webhook have in common."""

    config: InjectorConfig
    version: tuple[int, int]
    own_namespace: str
    enabled: bool
    "Whether the webhook selects by the label of the namespace, rather than by that of the pod."


def answer(review: object, context: Context, *, now: float) -> Answer:
    """Returns the answer. Raises InputError with one line if this is not an AdmissionReview."""
    request = _request(review)
    if request.get("operation") != "CREATE" or (request.get("resource") or {}).get("resource") != "pods":
        return Answer(_body(request, {"allowed": True}), "skipped", "not_a_pod", None)
    if request.get("subResource"):
        return Answer(_body(request, {"allowed": True}), "skipped", "not_a_pod", None)
    place = Place(_namespace(request), enabled=context.enabled, own_namespace=context.own_namespace)
    try:
        verdict = consider(request.get("object"), place, context.config.sidecar, context.version)
    except BadAnnotation as error:
        return _reject(request, str(error), context.config.bad_annotations == "deny", now)
    except InputError as error:
        return Answer(_body(request, _denial(str(error))), "denied", "no_pod", None)
    if verdict.reason:
        allowed = {"allowed": True, "auditAnnotations": {"skipped": verdict.reason.code}}
        return Answer(_body(request, allowed), "skipped", verdict.reason.code, None)
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
    if request.get("namespace"):
        _namespace(request)
    return request


def _namespace(request: Object) -> str:
    """Returns the namespace, which every pod has. Raises InputError if it is not a DNS label."""
    namespace = request.get("namespace") or ""
    if not _DNS_LABEL.fullmatch(namespace):
        raise InputError(
            f"request.namespace: {namespace[:80]!r} must be a DNS label (RFC 1123): at most 63 of a-z, 0-9 and -, "
            "neither first nor last a -"
        )
    return namespace


def _reject(request: Object, problem: str, denies: bool, now: float) -> Answer:
    if denies:
        return Answer(_body(request, _denial(problem)), "denied", "bad_annotation", None)
    allowed: Object = {"allowed": True, "auditAnnotations": {"skipped": "bad_annotation"}}
    allowed["warnings"] = [f"no cache sidecar: {problem}"[:250]]
    # The webhook's configuration promises `sideEffects: NoneOnDryRun`.
    made = None if request.get("dryRun") else event(_about(request), "BadAnnotation", f"no cache sidecar: {problem}", now)
    return Answer(_body(request, allowed), "skipped", "bad_annotation", made)


def _denial(problem: str) -> Object:
    return {"allowed": False, "status": {"code": 422, "reason": "Invalid", "message": problem}}


def _body(request: Object, response: Object) -> Object:
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": request["uid"]} | response}


def _about(request: Object) -> Object:
    """Returns the object of an Event: the pod's controller, because the pod does not exist yet, or the pod if it has none."""
    namespace = _namespace(request)
    metadata = pods.check(request["object"]).get("metadata") or {}
    owners = metadata.get("ownerReferences")
    for owner in owners if isinstance(owners, list) else []:
        if isinstance(owner, dict) and owner.get("controller") is True:
            known = {key: _short(owner.get(key)) for key in ("apiVersion", "kind", "name", "uid")}
            return known | {"namespace": namespace}
    name = _short(metadata.get("name") or metadata.get("generateName"))
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "namespace": namespace}


def _short(value: object) -> str:
    """Returns a text of a review for an Event, an empty one for anything else or one too long to be a name."""
    return value if isinstance(value, str) and len(value) <= _LONGEST else ""


def event(about: Object, reason: str, message: str, now: float) -> Object:
    """Returns a Warning about an object. Its name depends only on the object and the warning, so repetitions are counted."""
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
