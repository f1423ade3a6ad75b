"""The pages: one file each, which loads nothing else, with the policy that keeps browsers from running anything besides."""

import base64
import gzip
import hashlib
import re
from functools import cache
from http import HTTPStatus
from importlib.resources import files

from cache_sidecar.server import http
from cache_sidecar.server.http import Request

# What is not said in a page's own policy, but holds for all that is served to browsers.
SAFE = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_STYLE, _SCRIPT = re.compile(r"<style>(.*?)</style>", re.DOTALL), re.compile(r"<script>(.*?)</script>", re.DOTALL)


@cache
def page(name: str) -> tuple[bytes, str]:
    """Returns a page of this package and its Content-Security-Policy.

    What pages have in common is put in where they say so: `shared.css` and `shared.js`.
    """
    folder = files(__package__) / "files"
    text = (folder / f"{name}.html").read_text()
    for kind in ("css", "js"):
        text = text.replace(f"/* shared.{kind} */", (folder / f"shared.{kind}").read_text())
    policy = [
        "default-src 'none'",
        f"script-src {_hashes(_SCRIPT, text)}",
        f"style-src {_hashes(_STYLE, text)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ]
    return text.encode(), "; ".join(policy)


def respond(request: Request, name: str) -> bytes:
    """Returns the response with a page."""
    body, policy = page(name)
    headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy, **SAFE}
    if "gzip" in ",".join(request.headers["accept-encoding"]):
        headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        body = _compress(name)
    full = http.response(HTTPStatus.OK, body, headers)
    return full if request.method == "GET" else full[: -len(body)]


@cache
def _compress(name: str) -> bytes:
    return gzip.compress(page(name)[0], 9, mtime=0)


def _hashes(part: re.Pattern[str], text: str) -> str:
    digests = [hashlib.sha256(found.encode()).digest() for found in part.findall(text)]
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
