"""From which pages a browser may send requests: only from ours.

There are no cookies, so other sites could use nothing of their visitors but the place where they are: a browser next to a
sidecar that lets loopback callers in. A name that an attacker resolves to 127.0.0.1 (DNS rebinding) fails the check of Host, a
request that another site has a browser send fails that of Origin.
"""

import ipaddress
import re
from http import HTTPStatus

from cache_sidecar.page.documents import SAFE
from cache_sidecar.server import http
from cache_sidecar.server.http import Request

_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<name>[0-9A-Za-z.]+))(?::[0-9]{1,5})?")


def refusal(request: Request) -> bytes | None:
    """Returns the response to a request that may come from another site; None for one that does not."""
    headers = request.headers
    if len(headers["host"]) != 1 or not _is_safe(headers["host"][0]):
        text = "the Host header must be an IP address or localhost: other names may be somebody else's\n"
        return error(HTTPStatus.MISDIRECTED_REQUEST, text)
    is_ours = all(origin == f"http://{headers['host'][0]}" for origin in headers["origin"])
    # Browsers say `none` when a user has typed the address.
    if not is_ours or not all(site in {"same-origin", "none"} for site in headers["sec-fetch-site"]):
        if request.method in {"GET", "HEAD"} and headers["sec-fetch-mode"] == ["navigate"]:
            return None  # a link from elsewhere opens the page, but does not read it
        return error(HTTPStatus.FORBIDDEN, "the request comes from the page of another site\n")
    return None


def error(status: HTTPStatus, text: str, more: dict[str, str] | None = None) -> bytes:
    """Returns a response of one line."""
    return http.response(status, text.encode(), {"Content-Type": "text/plain; charset=utf-8", **SAFE, **(more or {})})


def _is_safe(host: str) -> bool:
    """Returns whether a Host header has a name that only this machine's owner can give away."""
    # With nothing but a port behind the name: what looks like `[::1].shop.example` is a name that somebody else has.
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    if (found["name"] or "").lower() == "localhost":
        return True
    try:
        return bool(ipaddress.IPv6Address(found["v6"]) if found["v6"] else ipaddress.IPv4Address(found["name"]))
    except ValueError:
        return False
