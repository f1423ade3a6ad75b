"""Carts and sessions, as the runtimes read them that keep only the last of a message field that comes twice."""

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cache_sidecar.devstack.valkey import ValkeyCluster
from cache_sidecar.v1.cache_pb2 import SOURCE_L2
from tests.interop.running import run
from tests.interop.test_sidecar import GOOGLE, PROTOS
from tests.support.launch import in_process, settings_for

SCRIPT = Path(__file__).parent / "carts.js"
SERVICES = [f"cache_sidecar/v1/{noun}_service.proto" for noun in ("cart", "session")]


@pytest.fixture
async def target(valkey_cluster: ValkeyCluster, database: str, namespace: str, engine: str) -> AsyncIterator[str]:
    """Where a sidecar is, on an engine."""
    more = {"engine": engine, "redis_timeout": 5.0, "postgres_timeout": 20.0}
    async with in_process(settings_for(",".join(valkey_cluster.addresses), database, namespace, **more)) as sidecar:
        yield sidecar.address


async def test_protobufjs(target: str, node: Path) -> None:
    await _check(target, node, "proto-loader", PROTOS, GOOGLE)


async def test_ts_proto(target: str, node: Path, tmp_path: Path) -> None:
    plugin = f"--plugin=protoc-gen-ts_proto={node / 'node_modules/.bin/protoc-gen-ts_proto'}"
    options = (f"-I{PROTOS}", f"-I{GOOGLE}", plugin, f"--ts_proto_out={tmp_path}")
    generating = "--ts_proto_opt=outputServices=grpc-js,esModuleInterop=true"
    done = await run(sys.executable, "-m", "grpc_tools.protoc", *options, generating, *SERVICES)
    assert done.code == 0, done.errors
    await _check(target, node, "ts-proto", tmp_path)


async def _check(target: str, node: Path, *runtime: object) -> None:
    done = await run("node", SCRIPT, target, *runtime, NODE_PATH=str(node / "node_modules"))
    assert done.code == 0, done.errors
    assert json.loads(done.said) == {
        "read": {"lines": [["mug", 2], ["cup", 1]], "hasEtag": True, "user": True},
        "replaced": [["mug", 2], ["cup", 1]],
        "changed": [["mug", 2], ["cup", 1], ["pot", 3]],
        "again": [["mug", 2], ["cup", 1], ["pot", 3]],
        "total": [[15, 0]],
        "session": {"user": True, "theme": "dark", "from": "192.0.2.7", "hasEtag": True, "hasTimes": True},
        "sources": [SOURCE_L2] * 3,
    }
