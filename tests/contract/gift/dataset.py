"""The store, the service and the specification of gifts; their messages are generated for the test."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc_tools
from grpc_tools import protoc

from cache_sidecar import datasets
from cache_sidecar.config import policy
from cache_sidecar.config.policy import DatasetPolicy, Policy
from cache_sidecar.core.errors import NotFound
from cache_sidecar.datasets import DatasetSpec, Parts, Service
from cache_sidecar.server.limiter import Priority
from cache_sidecar.services.shared import fast_path, wire
from cache_sidecar.services.shared.freshness import describe, freshness_of
from cache_sidecar.store.database import Database
from cache_sidecar.store.versions import Table
from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.ports import L1, Load, Row, UnreadableRow

ROOT = Path(__file__).parents[3]
# What its migration would say.
MIGRATION = """
CREATE TABLE cache_sidecar.gifts (
    gift_id text PRIMARY KEY,
    title   text NOT NULL,
    version bigint NOT NULL DEFAULT 0
);
CREATE TRIGGER gifts_version BEFORE INSERT OR UPDATE ON cache_sidecar.gifts
    FOR EACH ROW EXECUTE FUNCTION cache_sidecar.next_version();
CREATE TRIGGER gifts_change AFTER INSERT OR UPDATE OR DELETE ON cache_sidecar.gifts
    FOR EACH ROW EXECUTE FUNCTION cache_sidecar.emit_change('gift', 'gift_id');
"""


def generated(folder: Path) -> tuple[Any, Any]:
    """Returns the modules of the messages and of the service, generated into a folder the first time."""
    if "gift_service_pb2" not in sys.modules:
        here = Path(__file__).parent
        folders = [here, ROOT / "protos", Path(grpc_tools.__file__).parent / "_proto"]
        written = [f"--python_out={folder}", f"--grpc_python_out={folder}"]
        failed = protoc.main(["", *(f"-I{one}" for one in folders), *written, str(here / "gift_service.proto")])
        assert not failed
        sys.path.insert(0, str(folder))
        try:
            importlib.import_module("gift_service_pb2_grpc")
        finally:
            sys.path.remove(str(folder))
    return sys.modules["gift_service_pb2"], sys.modules["gift_service_pb2_grpc"]


def loader(database: Database, pb: Any) -> Load:
    """Returns what gifts are read with."""

    async def load(ids: Sequence[str]) -> Mapping[str, Row | UnreadableRow]:
        found = await database.fetch(
            "SELECT gift_id, title, version FROM cache_sidecar.gifts WHERE gift_id = ANY(%s)", [list(ids)]
        )
        return {
            id: Row(version, pb.GetGiftResponse(gift=pb.Gift(gift_id=id, title=title)).SerializeToString())
            for id, title, version in found
        }

    return load


def spec(pb: Any, pb_grpc: Any) -> DatasetSpec:
    """Returns the specification."""

    class GiftService(pb_grpc.GiftServiceServicer):  # type: ignore[misc, name-defined]
        def __init__(self, gifts: Dataset) -> None:
            self._gifts = gifts

        async def GetGift(self, request: Any, context: Any) -> bytes:
            answer = await self._gifts.get(request.gift_id, freshness_of(request.options, context))
            if answer.value is None:
                raise NotFound("gift", request.gift_id)
            reply = pb.GetGiftResponse()
            describe(answer, reply.cache)
            return answer.value + bytes(reply.SerializeToString())

    def is_entry(id: str, value: bytes) -> bool:
        entry = wire.parse(pb.GetGiftResponse, value)
        return entry is not None and entry.gift.gift_id == id and wire.has_only(entry, "gift")

    def build(_parts: Parts, dataset: Dataset, _memory: L1) -> Service:
        return Service(GiftService(dataset))

    return DatasetSpec(
        name="gift",
        role="catalog",
        table=Table("gifts", "gift_id"),
        load=lambda parts: loader(parts.database, pb),
        is_entry=is_entry,
        memory=1,
        service="shop.v1.GiftService",
        register=pb_grpc.add_GiftServiceServicer_to_server,
        build=build,
        priority=Priority.NORMAL,
        fast_path={"GetGift": fast_path.by_id},
        native=["GetGift"],
    )


def with_gifts(pb: Any, pb_grpc: Any) -> dict[str, Any]:
    """Returns what sidecars are started with that have gifts, too: the list, and the policy."""
    its_own = DatasetPolicy(
        l1_soft_ttl=240,
        l1_hard_ttl=300,
        l2_ttl=3600,
        negative_ttl=10,
        stale_limit=2,
        staleness_bound=1,
        inspect_every=1,
    )
    shipped: Policy = policy.default()
    return {"specs": [*datasets.ALL, spec(pb, pb_grpc)], "default_policy": {**shipped, "gift": its_own}}
