"""The ACL user that k8s/README.md has platforms create: the contract tests run as that user."""

import asyncio
from pathlib import Path

from cache_sidecar.devstack.valkey import ValkeyCluster, ValkeyServer

PASSWORD = "of-the-contract"


def line() -> str:
    """Returns the line of the guide."""
    guide = (Path(__file__).parents[2] / "k8s/README.md").read_text()
    (found,) = [line for line in guide.splitlines() if line.startswith("user cs_app ")]
    return found


def rules(namespace: str) -> list[str]:
    """Returns its rules for a namespace, with a password."""
    _, _, found = line().split(" ", 2)
    return found.replace("~cs:", f"~{namespace}:").replace("&cs:", f"&{namespace}:").replace("PASSWORD", PASSWORD).split()


async def allow(cluster: ValkeyCluster, namespace: str) -> dict[str, str]:
    """Creates the user for a namespace on every node, and returns the settings of a sidecar that logs in as it."""

    async def make(node: ValkeyServer) -> None:
        async with node.client() as client:
            await client.execute_command("ACL", "SETUSER", namespace, "reset", *rules(namespace))

    await asyncio.gather(*map(make, cluster.nodes))
    return {"redis_username": namespace, "redis_password": PASSWORD}


async def refusals(cluster: ValkeyCluster, namespace: str) -> list[str]:
    """Returns what the nodes denied to the user of a namespace."""
    found = []
    for node in cluster.nodes:
        async with node.client() as client:
            entries = await client.acl_log()
            found += [f"{entry['reason']}: {entry['object']}" for entry in entries if entry["username"] == namespace]
    return found
