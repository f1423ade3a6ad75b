"""What only the native engine does about certificates: hits without Python look at them, and connections end with them."""

import asyncio
import ssl
from pathlib import Path

import pytest

from tests.contract.test_access import get, is_hit
from tests.contract.test_client_certificates import (
    CLIENT,
    OK,
    OTHER,
    UNAUTHENTICATED,
    answered,
    before_expiry,
    is_invalid,
    resuming,
    with_crl,
)
from tests.contract.test_tls import AUTHORITY, SERVER, credentials
from tests.support import inside
from tests.support.authority import listen
from tests.support.engine_params import needs_native
from tests.support.raw import RawConnection
from tests.support.shop import Open, refused
from tests.support.until import DEADLINE, until

pytestmark = [needs_native, pytest.mark.parametrize("engine", ["native"], indirect=True, scope="package")]
# Longer than any test takes.
LONG = 600.0


async def test_a_hit_counts_the_seconds_of_the_certificate(open_shop: Open, tmp_path: Path) -> None:
    clock, settings = before_expiry(5), listen(tmp_path, SERVER, AUTHORITY.cert)
    async with open_shop(clock=clock, credentials=credentials(CLIENT), max_connection_age_grace=LONG, **settings) as shop:
        id = (await shop.create()).product_id
        await until(lambda: is_hit(shop, id))
        counters = inside.engine_of(shop.app.server).counters
        before = counters()["handed"]
        assert await is_hit(shop, id)
        assert counters()["handed"] == before, "it was answered without Python"
        clock.advance(6)
        assert is_invalid(await refused(get(shop, id)))


async def test_a_connection_ends_with_its_certificate(open_shop: Open, tmp_path: Path) -> None:
    clock, settings = before_expiry(1000), listen(tmp_path, SERVER, AUTHORITY.cert)
    context = resuming(tmp_path, CLIENT, ssl.TLSVersion.TLSv1_3)
    grace = {"max_connection_age_grace": 0.2}
    async with open_shop(clock=clock, credentials=credentials(OTHER), **settings, **grace) as shop:
        id = (await shop.create()).product_id
        async with RawConnection.open(shop.address, tls=context) as raw:
            assert await answered(raw, id) == OK
            assert not raw.told_to_go
            clock.advance(1001)
            await asyncio.wait_for(raw.closed.wait(), DEADLINE)
            assert raw.told_to_go


async def test_a_connection_ends_when_its_certificate_is_revoked(open_shop: Open, tmp_path: Path) -> None:
    crl = tmp_path / "crl.pem"
    crl.write_bytes(AUTHORITY.crl())
    context = resuming(tmp_path, CLIENT, ssl.TLSVersion.TLSv1_3)
    grace = {"max_connection_age_grace": 0.2}
    async with open_shop(credentials=credentials(AUTHORITY.client("third.shop")), **with_crl(tmp_path, crl), **grace) as shop:
        id = (await shop.create()).product_id
        async with RawConnection.open(shop.address, tls=context) as raw:
            assert await answered(raw, id) == OK
            crl.write_bytes(AUTHORITY.crl(CLIENT.cert))
            await asyncio.wait_for(raw.closed.wait(), DEADLINE)
            assert raw.told_to_go
        # Once more: it hears why, and then has to come again, maybe with a new certificate.
        async with RawConnection.open(shop.address, tls=context) as raw:
            assert await answered(raw, id) == UNAUTHENTICATED
            await asyncio.wait_for(raw.closed.wait(), DEADLINE)
            assert raw.told_to_go
