"""The password was changed in Redis, and not yet in the sidecar; nobody stays connected."""

from tests.failure.outages.ground import PASSWORD, USER, Ground, Outage
from tests.failure.outages.load import KINDS
from tests.failure.outages.trial import Trial


async def _begin(ground: Ground) -> None:
    await ground.each_node("ACL", "SETUSER", USER, "resetpass", ">changed")
    ground.redis.cut()
    await ground.redis.heal()


async def _end(ground: Ground) -> None:
    await ground.each_node("ACL", "SETUSER", USER, "resetpass", f">{PASSWORD}")


OUTAGE = Outage("Redis refusing auth", _begin, _end)


async def test_nobody_notices(on_cluster: Trial) -> None:
    load = await on_cluster.of(OUTAGE)
    for kind in KINDS:
        assert not load.phases["during"][kind].codes
