"""Which clients may send reviews, by their certificates, whose CA the TLS handshake has checked. No I/O."""

import ssl
from collections.abc import Collection
from typing import Any


def refusal(certificate: dict[str, Any] | None, allowed: Collection[str], *, now: float) -> str:
    """Returns why a client may not send reviews, an empty string if it may.

    `certificate` is that of `SSLSocket.getpeercert`, None on a connection without one. `allowed` has the accepted common names,
    DNS names and URIs; all are accepted if it is empty. Connections outlive certificates, so the expiry is checked, too.
    """
    if not certificate:
        return "a client certificate is required"
    if ssl.cert_time_to_seconds(certificate["notAfter"]) <= now:
        return "the client certificate has expired"
    uris, others = _names(certificate)
    # A name of one kind does not pass for one of another: a CA may check some kinds less carefully.
    if allowed and not any(name in (uris if "://" in name else others) for name in allowed):
        names = ", ".join(sorted(uris | others))[:200]
        return f"the client certificate of {names or 'nobody'} is not in server.allowed_clients"
    return ""


def _names(certificate: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Returns the URIs, and the common and DNS names."""
    subject = [pair for attributes in certificate.get("subject", ()) for pair in attributes]
    found = [*subject, *certificate.get("subjectAltName", ())]
    return {value for kind, value in found if kind == "URI"}, {value for kind, value in found if kind in {"commonName", "DNS"}}
