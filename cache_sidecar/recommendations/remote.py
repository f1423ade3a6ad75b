"""The generator `remote`: the shop's own model, behind a small gRPC service that the shop implements.

It is one more server that may be slow, full or down, so it is guarded as Redis and PostgreSQL are: a deadline, a limit on calls
in progress, and a breaker, which reports to the dependency `recommendation model`. Whatever happens to it, its caller goes on
with the next generator.
"""

import asyncio
import json
import math
import re
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import grpc

from cache_sidecar.config.settings import Settings, split_address
from cache_sidecar.core import telemetry, tracing
from cache_sidecar.core.client_tls import client_credentials
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.core.tracing import Attribute, Kind, Span
from cache_sidecar.core.watched_files import LOOK_EVERY, WatchedFiles
from cache_sidecar.recommendations.generator import GeneratedList, ListRequest
from cache_sidecar.recommendations.provided import in_order
from cache_sidecar.tiers.resilience.breaker import Breaker
from cache_sidecar.tiers.resilience.guard import Guard
from cache_sidecar.v1 import recommendation_generator_pb2 as pb
from cache_sidecar.v1 import recommendation_pb2 as messages
from cache_sidecar.v1.recommendation_generator_pb2_grpc import RecommendationGeneratorServiceStub

DEPENDENCY = "recommendation model"
EFFECT = "lists come from the generators that follow it in recommendation_generators"
# A model that answers, but with an error.
ANSWERS = "answers"
_METHOD = "cache_sidecar.v1.RecommendationGeneratorService/GenerateRecommendations"
# Calls in progress, and calls that may wait.
RUNNING, WAITING = 64, 64
# The last second of a timestamp: the year 9999.
_LATEST = 253_402_300_799
# What no id may contain; PostgreSQL refuses some of it.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Bytes of a reply.
MAX_REPLY = 256 * 1024
MAX_ID_CHARACTERS, MAX_VERSION_CHARACTERS = 128, 64
_OPTIONS: Sequence[tuple[str, Any]] = (
    # Not shared with other channels of the process, whose reconnect backoff would be this one's.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # One whose machine is gone is noticed.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_receive_message_length", MAX_REPLY),
    # Over all addresses of a name, such as that of a headless service.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
)
# What a status says of the server; any other one is an answer.
_FAILURES = {
    grpc.StatusCode.UNAVAILABLE: Failure.UNREACHABLE,
    grpc.StatusCode.CANCELLED: Failure.UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Failure.TIMEOUT,
}


class RemoteGenerator:
    """Asks the shop's own model."""

    name = "remote"

    def __init__(self, settings: Settings, *, clock: Clock, dependency: Dependency) -> None:
        """Connects with the first call. `dependency` is reported as failing while the model does not answer."""
        self._settings = settings
        self._dependency = dependency
        breaker = Breaker(Tier.MODEL, clock=clock, dependency=dependency, effect=EFFECT)
        self._guard = Guard(
            Tier.MODEL,
            timeout=settings.recommendation_remote_timeout,
            max_running=RUNNING,
            max_waiting=WAITING,
            breaker=breaker,
        )
        files = (settings.recommendation_remote_tls_ca, settings.recommendation_remote_tls_cert)
        self._files = [file for file in (*files, settings.recommendation_remote_tls_key) if file]
        self._watched = WatchedFiles(*self._files)
        self._channel: grpc.aio.Channel | None = None
        self._calls: dict[bytes, asyncio.Task[pb.GenerateRecommendationsResponse]] = {}
        "Those in progress, by request."
        self._spans: WeakKeyDictionary[asyncio.Task[Any], Span] = WeakKeyDictionary()
        "Their spans, as far as they are traced."
        host, port = split_address(settings.recommendation_remote_address)
        self._attributes: dict[str, Attribute] = {
            "rpc.system.name": "grpc",
            "rpc.method": _METHOD,
            "server.address": host,
            "server.port": port,
        }
        self._tasks = BackgroundTasks()

    def start(self) -> None:
        """Looks at the TLS files from time to time."""
        if self._files:
            self._tasks.poll(LOOK_EVERY, self.look, delay=LOOK_EVERY)

    async def generate(self, request: ListRequest) -> GeneratedList | None:
        """Returns the model's list; None if that is empty. Raises TierFailed.

        Equal requests at the same time are one call. A caller in a hurry waits for half of its time: the other half is for the
        generators that follow.
        """
        message = _message(request)
        half = request.freshness.half(asyncio.get_running_loop().time(), longest=self._guard.timeout)
        try:
            # Outside of the guard: that a caller had no time says nothing about the model.
            async with asyncio.timeout_at(half):
                reply = await self._join(message)
        except TimeoutError:
            raise TierFailed(Tier.MODEL, Failure.TIMEOUT) from None
        return _list(reply, request.size)

    async def _join(self, message: pb.GenerateRecommendationsRequest) -> pb.GenerateRecommendationsResponse:
        """Returns the reply of the call with this request that is in progress, or of a new one."""
        key = message.SerializeToString(deterministic=True)
        # `done`, because a task's callbacks run later than its end: what has failed is not the answer to a later caller.
        if (call := self._calls.get(key)) is None or call.done():

            def forget(done: asyncio.Task[Any]) -> None:
                if self._calls.get(key) is done:
                    del self._calls[key]

            call = self._calls[key] = self._tasks.spawn(self._guard.run(lambda: self._call(message)))
            call.add_done_callback(forget)
        elif tracing.current() is not None:
            with tracing.within("wait for the call of the recommendation model") as span:
                await asyncio.wait([call])
                if span is not None and (shared := self._spans.get(call)) is not None:
                    span.link(shared)
        # Whoever leaves does not take the reply from the others.
        return await asyncio.shield(call)

    async def _call(self, message: pb.GenerateRecommendationsRequest) -> pb.GenerateRecommendationsResponse:
        stub = RecommendationGeneratorServiceStub(self._ensure_channel())
        try:
            with tracing.within(_METHOD, Kind.CLIENT, self._attributes) as span:
                if span is not None and (task := asyncio.current_task()) is not None:
                    self._spans[task] = span
                metadata = span.headers() if span is not None else None
                reply = await stub.GenerateRecommendations(message, timeout=self._guard.timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            failure = _FAILURES.get(error.code(), Failure.REFUSED)
            reason = f"{error.code().name}: {error.details()}"
            if failure is Failure.REFUSED:
                self._dependency.report_failure(reason, effect=EFFECT, problem=ANSWERS)
            raise TierFailed(Tier.MODEL, failure, reason) from None
        self._dependency.report_success(ANSWERS)
        return reply

    def look(self) -> None:
        """Connects anew if the TLS files have changed; calls in progress end on the old connection."""
        if not self._watched.have_changed() or self._channel is None:
            return
        try:
            channel = self._connect()
        except OSError as error:
            telemetry.log.error("TLS files of recommendation_remote ignored", error=f"{error.filename}: {error.strerror}")
            return
        self._tasks.spawn(self._channel.close(grace=self._guard.timeout))
        self._channel = channel

    async def close(self) -> None:
        """Closes the connection."""
        await self._tasks.stop()
        if self._channel is not None:
            await self._channel.close()

    def _ensure_channel(self) -> grpc.aio.Channel:
        try:
            self._channel = self._channel or self._connect()
        except OSError as error:
            raise TierFailed(Tier.MODEL, Failure.UNREACHABLE, f"{error.filename}: {error.strerror}") from None
        return self._channel

    def _connect(self) -> grpc.aio.Channel:
        """Returns a new channel. Raises OSError if a TLS file cannot be read."""
        settings = self._settings
        if not settings.recommendation_remote_tls:
            return grpc.aio.insecure_channel(settings.recommendation_remote_address, options=_OPTIONS)
        credentials = client_credentials(
            settings.recommendation_remote_tls_ca,
            settings.recommendation_remote_tls_cert,
            settings.recommendation_remote_tls_key,
        )
        return grpc.aio.secure_channel(settings.recommendation_remote_address, credentials, options=_OPTIONS)


def _message(request: ListRequest) -> pb.GenerateRecommendationsRequest:
    return pb.GenerateRecommendationsRequest(
        user_id=request.user_id,
        placement=messages.RecommendationPlacement.Value(f"RECOMMENDATION_PLACEMENT_{request.place}"),
        model=messages.RecommendationModel.Value(f"RECOMMENDATION_MODEL_{request.kind}"),
        page_size=request.size,
        context_product_ids=request.page,
        cart_product_ids=request.cart,
        exclude_product_ids=sorted(request.exclude),
    )


def _list(reply: pb.GenerateRecommendationsResponse, size: int) -> GeneratedList | None:
    """Returns what a reply has of use. The model is another program: what it sends is not trusted."""
    scores: dict[str, float] = {}
    for one in reply.recommendations:
        if 0 < len(one.product_id) <= MAX_ID_CHARACTERS and not _CONTROL.search(one.product_id):
            scores.setdefault(one.product_id, one.score if math.isfinite(one.score) else 0.0)
    if not scores:
        return None
    # Events of users have it in their attribution_token, which has no control characters either.
    version = _CONTROL.sub("", reply.model_version)[:MAX_VERSION_CHARACTERS]
    time = reply.model_time.seconds + reply.model_time.nanos / 1e9
    return GeneratedList(in_order(scores, size), version, time if 0 < time <= _LATEST else 0.0)
