"""The status page of a sidecar: `/`, its events, and the policy that it changes.

The page itself is the same for everyone. What it shows needs the role that `GetStats` needs, and what it changes that of
`UpdatePolicy`: by a bearer token that the page sends, or from the loopback interface as far as that suffices for gRPC, too.
"""

import asyncio
from functools import partial
from http import HTTPStatus

from google.protobuf import json_format

from cache_sidecar.core.errors import SidecarError
from cache_sidecar.metrics.web import Stream
from cache_sidecar.page import callers, documents, origins
from cache_sidecar.page.callers import BrowserCall, Refused
from cache_sidecar.page.feed import Feed, Full, Json
from cache_sidecar.page.snapshot import Snapshots
from cache_sidecar.server import http
from cache_sidecar.server.auth import Access, Need
from cache_sidecar.server.engine import Engine
from cache_sidecar.server.http import Request
from cache_sidecar.server.middleware import Middleware
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import Source
from cache_sidecar.v1 import admin_service_pb2 as pb

_SERVICE = "cache_sidecar.v1.AdminService"
_STATS, _UPDATE = f"{_SERVICE}/GetStats", f"{_SERVICE}/UpdatePolicy"
# Bytes of a change, which has a few values.
MAX_CHANGE = 4096
# Hits a second that are sampled for the hottest keys, of each dataset, about.
SAMPLED = 100


class Page:
    """Answers what browsers ask; see `metrics.web.Pages`."""

    def __init__(self, snapshots: Snapshots, stack: Middleware, access: Access, engine: Engine) -> None:
        self._stack = stack
        self._access = access
        self.feed = Feed(_Sidecar(snapshots, engine))

    async def answer(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | Stream:
        """Returns a response, or what writes it."""
        routes = {"/": ("GET, HEAD", self._document), "/events": ("GET", self._events), "/policy": ("POST", self._change)}
        found = routes.get(request.target.partition("?")[0])
        if found is None:
            return origins.error(HTTPStatus.NOT_FOUND, "GET / is the status page, GET /metrics is for Prometheus\n")
        methods, route = found
        if request.method not in methods.split(", "):
            return origins.error(HTTPStatus.METHOD_NOT_ALLOWED, f"{methods} {request.target}\n", {"Allow": methods})
        if refusal := origins.refusal(request):
            return refusal
        try:
            return await route(request, reader, BrowserCall(request, writer.get_extra_info("peername")))
        except Refused as error:
            return origins.error(error.status, f"{error}\n")

    async def _document(self, request: Request, _reader: asyncio.StreamReader, _context: BrowserCall) -> bytes:
        return documents.respond(request, "status")

    async def _events(self, _request: Request, _reader: asyncio.StreamReader, context: BrowserCall) -> bytes | Stream:
        try:
            self.feed.admit()
        except Full:
            return origins.error(HTTPStatus.SERVICE_UNAVAILABLE, "too many pages are open: close one\n")
        # A call like any other: it is checked, counted, and in the audit log. The events that follow are only checked.
        await callers.call(self._stack.unary[_STATS], pb.GetStatsRequest().SerializeToString(), context, self._access)
        more: Json = {"may_change": not self._problem(Need.ADMIN_CHANGE, _UPDATE, context)}
        if not more["may_change"]:
            more["why_not"] = self._problem(Need.ADMIN_CHANGE, _UPDATE, context)
        refusal = partial(self._problem, Need.ADMIN_READ, _STATS, context)
        return partial(self.feed.send, refusal=refusal, more=more, head=documents.SAFE)

    async def _change(self, request: Request, reader: asyncio.StreamReader, context: BrowserCall) -> bytes:
        # Other sites' forms can send no JSON.
        if request.headers["content-type"] != ["application/json"]:
            return origins.error(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the change as application/json\n")
        try:
            body = await http.read_body(reader, request, limit=MAX_CHANGE)
            change = json_format.Parse(body, pb.UpdatePolicyRequest())
        except (ValueError, json_format.ParseError) as error:
            return origins.error(HTTPStatus.BAD_REQUEST, f"this is no UpdatePolicyRequest: {error}\n")
        reply = await callers.call(self._stack.unary[_UPDATE], change.SerializeToString(), context, self._access)
        text = json_format.MessageToJson(pb.UpdatePolicyResponse.FromString(reply), indent=None)
        return http.response(HTTPStatus.OK, text.encode(), {"Content-Type": "application/json", **documents.SAFE})

    def _problem(self, need: Need, method: str, context: BrowserCall) -> str:
        """Returns why a caller may not call a method; empty if it may."""
        try:
            self._access.check(need, method, context)
        except SidecarError as error:
            return callers.NEEDS_CERTIFICATE if self._access.needs_certificates else str(error)
        return ""


class _Sidecar:
    """What is shown of a sidecar; see `feed.Source`."""

    def __init__(self, snapshots: Snapshots, engine: Engine) -> None:
        self._snapshots = snapshots
        self._engine = engine
        # Nobody's ids: what is read by people's ids is not shown.
        self._watched = {name: one for name, one in snapshots.parts.datasets.items() if not one.is_private}
        self._hits: dict[str, int] = {}
        self._last_policy: object = None
        self._last_event = 0

    def begin(self) -> None:
        """Starts to sample the hottest keys."""
        self._hits = {name: _hits(dataset) for name, dataset in self._watched.items()}
        self._sample(dict.fromkeys(self._watched, 1))
        self._remember()

    def end(self) -> None:
        """Ends that."""
        self._sample(dict.fromkeys(self._watched, 0))

    async def whole(self) -> Json:
        """Returns all that a new reader needs."""
        return {
            **self._snapshots.identity(),
            **self._snapshots.figures(),
            "policy": self._snapshots.policy(),
            "events": self._snapshots.recent(),
        }

    async def news(self) -> Json:
        """Returns the figures, and policy and events if they have changed since the last time."""
        self._engine.collect_samples()
        before, self._hits = self._hits, {name: _hits(dataset) for name, dataset in self._watched.items()}
        # A power of two, so that it seldom changes: a change has the engine choose the next hit anew.
        self._sample({name: 1 << max(0, (hits - before[name]) // SAMPLED).bit_length() for name, hits in self._hits.items()})
        found = self._snapshots.figures()
        if self._snapshots.policy_state() != self._last_policy:
            found["policy"] = self._snapshots.policy()
        if self._snapshots.events.count != self._last_event:
            found["events"] = self._snapshots.recent()
        self._remember()
        return found

    def _remember(self) -> None:
        self._last_policy, self._last_event = self._snapshots.policy_state(), self._snapshots.events.count

    def _sample(self, every: dict[str, int]) -> None:
        before = {name: dataset.sampler.interval() for name, dataset in self._watched.items()}
        for name, dataset in self._watched.items():
            dataset.sampler.watch(every[name])
            dataset.sampler.arm(dataset.l1_hits)
        if any(dataset.sampler.interval() != before[name] for name, dataset in self._watched.items()):
            self._engine.apply_policies()


def _hits(dataset: Dataset) -> int:
    return dataset.stats()[Source.L1].counters.hits
