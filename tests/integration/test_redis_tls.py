"""TLS to a cluster whose certificate has one name, while its nodes announce addresses: `redis_tls_server_name`.

The Valkey of the wheel has no TLS, so proxies in front of the nodes speak it. The addresses that the cluster announces are theirs.
"""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from redis.exceptions import ConnectionError as RedisConnectionError

from cache_sidecar.core.errors import TierFailed
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.devstack.valkey import ValkeyCluster, ValkeyServer
from cache_sidecar.tiers.ports import Record
from tests.support import inside
from tests.support.authority import Authority
from tests.support.cluster_proxies import Line, line_to
from tests.support.dataset_case import fill, one_id_per_partition, open_l2
from tests.support.free_ports import ChoosePorts
from tests.support.listening import open_line
from tests.support.shop import L1, L2, Open
from tests.support.until import until

NAME = "redis.shop.internal"
IDS = one_id_per_partition()[:60]
AUTHORITY = Authority("the CA of Redis")


@pytest.fixture(scope="module")
async def cluster(processes: Processes, choose_ports: ChoosePorts) -> AsyncIterator[ValkeyCluster]:
    own = ValkeyCluster(processes, processes.state.path / "valkey-tls", choose_ports(6))
    await own.start()
    yield own
    await own.stop()


@pytest.fixture
async def healthy(cluster: ValkeyCluster) -> AsyncIterator[ValkeyCluster]:
    yield cluster
    await cluster.heal()


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    (tmp_path / "ca.crt").write_bytes(AUTHORITY.cert)
    return tmp_path / "ca.crt"


@pytest.fixture
async def line(cluster: ValkeyCluster, tmp_path: Path) -> AsyncIterator[Line]:
    """The nodes over TLS; their certificate has no address and no other name."""
    pair = AUTHORITY.signed(NAME, [x509.DNSName(NAME)])
    (tmp_path / "server.pem").write_bytes(pair.cert + pair.key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.pem")
    async with line_to(cluster.addresses, tls=tls) as opened:
        yield opened


def settings(ca: Path, name: str = NAME) -> dict[str, Any]:
    return {"redis_tls": True, "redis_tls_ca": str(ca), "redis_tls_server_name": name}


@pytest.mark.parametrize("name", ["", "redis.shop.example", "shop.internal", "127.0.0.1"])
async def test_a_node_with_another_name_is_refused(line: Line, ca: Path, namespace: str, name: str) -> None:
    async with open_l2(",".join(line.addresses), namespace, **settings(ca, name)) as l2:
        with pytest.raises(TierFailed, match="certificate verify failed"):
            await l2.read_leased("product", IDS)
        # The clients of subscriptions are others.
        host, _, port = line.addresses[0].partition(":")
        client = inside.connection_of(l2).to((host, int(port)))
        with pytest.raises(RedisConnectionError, match="certificate verify failed"):
            await client.ping()
        await client.aclose()


async def test_another_ca_is_refused_whatever_the_name(line: Line, tmp_path: Path, namespace: str) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes(Authority("another CA").cert)
    async with open_l2(",".join(line.addresses), namespace, **settings(other)) as l2:
        with pytest.raises(TierFailed, match="certificate verify failed"):
            await l2.read_leased("product", IDS)


async def test_sidecars_reach_all_nodes_and_hear_of_changes(line: Line, ca: Path, open_shop: Open) -> None:
    # Two addresses: the others are those that the cluster announces.
    some = {"redis": ",".join(line.addresses[:2]), **settings(ca)}
    async with open_shop(**some) as first, open_shop(**some) as second:
        made = await first.create()
        assert (await second.get(made.product_id)).cache.source == L2
        assert (await second.get(made.product_id)).cache.source == L1


async def test_they_follow_redirections_and_failovers(healthy: ValkeyCluster, line: Line, ca: Path, namespace: str) -> None:
    nodes = ",".join(line.addresses[:2])
    async with open_l2(nodes, namespace, **settings(ca)) as l2, open_line(nodes, namespace, **settings(ca)) as hearing:
        await fill(l2, "product", {id: Record(1, 0.0, id.encode()) for id in IDS}, ttl=600)

        async def are_all_read() -> bool:
            return set((await l2.read_leased("product", IDS)).records) == set(IDS)

        assert await are_all_read()
        # The slot map is that of before: the former primary answers MOVED.
        primary = (await healthy.primaries())[0]
        replica = await replica_of(healthy, primary)
        async with replica.client() as client:
            await client.execute_command("CLUSTER", "FAILOVER")
        await until(lambda: is_primary(replica))
        await until(are_all_read)
        assert line.in_front_of(replica.address).connections > 0
        # And a primary that dies.
        replica.kill()
        await until(lambda: is_primary(primary))
        await until(are_all_read)
        await until(hearing.coherence.is_trusted)


async def is_primary(node: ValkeyServer) -> bool:
    async with node.client() as client:
        return bool((await client.info("replication"))["role"] == "master")


async def replica_of(cluster: ValkeyCluster, primary: ValkeyServer) -> ValkeyServer:
    for node in cluster.nodes:
        async with node.client() as client:
            info = await client.info("replication")
        if info["role"] == "slave" and info["master_port"] == primary.port:
            return node
    raise AssertionError("no replica")
