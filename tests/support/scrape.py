"""What a process serves at /metrics."""

import asyncio
import contextlib

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.support.until import DEADLINE

METRICS = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
Values = dict[str, dict[tuple[str, ...], float]]
"""All samples by their names and the values of their labels."""


async def fetch(address: str, head: bytes = METRICS + b"\r\n") -> tuple[str, str]:
    """Returns the head and the body of a response; empty if the connection was closed without one."""
    first, _, body = (await fetch_bytes(address, head)).decode().partition("\r\n\r\n")
    return first, body


async def fetch_bytes(address: str, head: bytes) -> bytes:
    """Returns a response as it is."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(head)
        return await asyncio.wait_for(reader.read(), DEADLINE)
    finally:
        await closed(writer)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def values(address: str) -> Values:
    _, body = await fetch(address)
    found: Values = {}
    for family in parse_text(body):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


async def served(address: str) -> set[str]:
    """Returns the names of the metrics, as Prometheus reads them in OpenMetrics."""
    _, body = await fetch(address, METRICS + b"Accept: application/openmetrics-text; version=1.0.0\r\n\r\n")
    return {family.name for family in parse_openmetrics(body)}
