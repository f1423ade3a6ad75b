"""The policy of a running sidecar: its file, AdminService, and what a migration in steps looks like to callers."""

from pathlib import Path
from typing import Any

import psycopg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode

from cache_sidecar.tiers.path import shadow
from cache_sidecar.tiers.path.rollout import is_in
from cache_sidecar.v1 import admin_service_pb2 as pb
from cache_sidecar.v1.product_service_pb2 import BatchGetProductsRequest
from tests.support import inside
from tests.support.clocks import ManualClock
from tests.support.config_map import ConfigMap
from tests.support.customers import Customer, item
from tests.support.shop import L1, L2, STORE, Open, Shop, refused
from tests.support.stockroom import Stockroom
from tests.support.until import until

EXACT = "[product]\nl1_soft_ttl = 100\nl1_hard_ttl = 200\nl2_ttl = 1000\njitter = 0\nnegative_ttl = 10\nstale_limit = 5\n"
IN = [id for number in range(200) if is_in(id := f"p{number}", 10)]
OUT = [id for number in range(200) if not is_in(id := f"p{number}", 10)]


@pytest.fixture
def config(tmp_path: Path) -> ConfigMap:
    folder = tmp_path / "mount"
    folder.mkdir()
    return ConfigMap(folder, EXACT)


async def change(shop: Shop, dataset: str = "product", *, reset: list[str] = [], **values: Any) -> pb.DatasetPolicy:  # noqa: B006
    """Changes the policy of one sidecar."""
    asked = pb.UpdatePolicyRequest(policy=pb.DatasetPolicy(dataset=dataset, **values), reset_mask=FieldMask(paths=reset))
    reply: pb.UpdatePolicyResponse = await shop.admin.UpdatePolicy(asked)
    return reply.policy


async def get_policy(shop: Shop, dataset: str = "product") -> tuple[pb.DatasetPolicy, pb.PolicyStatus]:
    reply = await shop.admin.GetPolicy(pb.GetPolicyRequest())
    (found,) = [row for row in reply.datasets if row.dataset == dataset]
    return found, reply.status


async def shadow_of(shop: Shop, dataset: str = "product") -> pb.ShadowStats:
    reply = await shop.admin.GetStats(pb.GetStatsRequest(dataset=dataset))
    (found,) = reply.shadows
    return found


async def in_sql(dsn: str, text: str, *values: object) -> None:
    """Changes something that no cache hears of: nobody relays here."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(text, values)


# The file


async def test_a_swapped_config_map_is_in_force_also_for_what_is_cached(open_shop: Open, config: ConfigMap) -> None:
    clock = ManualClock()
    async with open_shop(clock=clock, policy_file=str(config.file)) as shop:
        id = (await shop.create()).product_id
        await shop.get(id)
        clock.advance(50)
        assert await shop.source(id) == L1
        config.swap(EXACT.replace("= 100\n", "= 20\n").replace("= 200\n", "= 20\n"))
        await until(lambda: inside.policy_of(shop.app).version == 2)
        assert await shop.source(id) == L2
        config.swap(EXACT.replace("= 1000\n", "= 49\n"))
        await until(lambda: inside.policy_of(shop.app).version == 3)
        clock.advance(30)
        await change(shop, l1_enabled=False)
        assert await shop.source(id) == STORE
        found, status = await get_policy(shop)
        assert (found.l2_ttl.seconds, status.version, status.file) == (49, 4, str(config.file))
        assert status.load_time.ToNanoseconds() / 1e9 == clock.now() - 30


async def test_a_wrong_file_changes_nothing_and_is_told(open_shop: Open, config: ConfigMap) -> None:
    clock = ManualClock()
    async with open_shop(clock=clock, policy_file=str(config.file)) as shop:
        config.swap("[product]\nl2_tll = 5\n")
        await until(lambda: inside.policy_of(shop.app).refused)
        found, status = await get_policy(shop)
        assert (found.l2_ttl.seconds, status.version, status.refused) == (1000, 1, 1)
        assert status.last_error.startswith(f"{config.file}: product.l2_tll is not a policy key; the keys are: l1_soft_ttl,")
        assert status.last_error_time.ToNanoseconds() / 1e9 == clock.now()
        stats = await shop.admin.GetStats(pb.GetStatsRequest(dataset="product"))
        assert stats.policy == status
        config.swap(EXACT.replace("1000", "900"))
        await until(lambda: inside.policy_of(shop.app).version == 2)
        _, status = await get_policy(shop)
        assert (status.refused, status.last_error, status.HasField("last_error_time")) == (1, "", False)


# UpdatePolicy


async def test_a_change_is_in_force_with_its_reply_and_tells_its_origin(open_shop: Open, config: ConfigMap) -> None:
    async with open_shop(policy_file=str(config.file)) as shop:
        id = (await shop.create()).product_id
        await shop.get(id)
        assert await shop.source(id) == L1
        changed = await change(shop, rollout=0.0, l2_ttl={"seconds": 7})
        assert [await shop.source(id) for _ in range(2)] == [STORE, STORE]
        found, status = await get_policy(shop)
        assert (found, status.version) == (changed, 2)
        origins = {key: pb.PolicyOrigin.Name(found.origins[key]) for key in ("rollout", "l2_ttl", "l1_soft_ttl", "shadow")}
        assert origins == {
            "rollout": "POLICY_ORIGIN_OVERRIDE",
            "l2_ttl": "POLICY_ORIGIN_OVERRIDE",
            "l1_soft_ttl": "POLICY_ORIGIN_FILE",
            "shadow": "POLICY_ORIGIN_BUILT_IN",
        }
        config.swap(EXACT.replace("1000", "900").replace("stale_limit = 5", "stale_limit = 6"))
        await until(lambda: inside.policy_of(shop.app).version == 3)
        found, _ = await get_policy(shop)
        assert (found.rollout, found.l2_ttl.seconds, found.stale_limit.seconds) == (0, 7, 6), "it lies over the new file, too"
        back = await change(shop, reset=["*"])
        assert (back.rollout, back.l2_ttl.seconds) == (100, 900)
        assert pb.POLICY_ORIGIN_OVERRIDE not in back.origins.values()
        assert [await shop.source(id) for _ in range(2)] == [L2, L1]


async def test_a_mask_names_what_is_changed(open_shop: Open) -> None:
    async with open_shop() as shop:
        policy = pb.DatasetPolicy(dataset="product", rollout=10, inspect_every=5)
        policy.stale_limit.seconds = 9
        mask = FieldMask(paths=["rollout", "jitter", "inspect_every"])
        reply = await shop.admin.UpdatePolicy(pb.UpdatePolicyRequest(policy=policy, update_mask=mask))
        changed = reply.policy
        assert (changed.rollout, changed.jitter, changed.inspect_every, changed.stale_limit.seconds) == (10, 0, 5, 2)
        again = await shop.admin.UpdatePolicy(pb.UpdatePolicyRequest(policy=policy, update_mask=mask))
        assert again == reply, "a repeat changes nothing more"


@pytest.mark.parametrize(
    ("fields", "masks", "field", "text"),
    [
        ({}, {}, "policy", "nothing to change"),
        ({"dataset": "sofa", "rollout": 10}, {}, "policy.dataset", "there is no dataset 'sofa'; there are: "),
        ({"rollout": 101}, {}, "policy", "product.rollout: Input should be less than or equal to 100"),
        ({"rollout": float("nan")}, {}, "policy", "product.rollout"),
        ({"l2_ttl": {"seconds": -1}}, {}, "policy", "greater than 0"),
        ({"l1_soft_ttl": {"seconds": 301}}, {}, "policy", "l1_soft_ttl (301) must not be above l1_hard_ttl (300)"),
        ({"dataset": "session", "rollout": 50}, {}, "policy", "session.rollout must be 100: the uses of a session"),
        ({"dataset": "session", "shadow": True}, {}, "policy", "session.shadow must be false"),
        ({"dataset": "session", "l2_enabled": False}, {}, "policy", "session.l2_enabled must be true"),
        ({"rollout": 5}, {"update_mask": ["roll_out"]}, "update_mask", "'roll_out' is not a policy key; the keys are: "),
        ({"rollout": 5}, {"update_mask": ["dataset"]}, "update_mask", "'dataset' is not a policy key"),
        ({"rollout": 5}, {"reset_mask": ["origins"]}, "reset_mask", "'origins' is not a policy key"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_changes_nothing(
    shop: Shop, fields: dict, masks: dict, field: str, text: str
) -> None:
    before = await shop.admin.GetPolicy(pb.GetPolicyRequest())
    policy = pb.DatasetPolicy(**{"dataset": "product"} | fields)
    given = {name: FieldMask(paths=paths) for name, paths in masks.items()}
    refusal = await refused(shop.admin.UpdatePolicy(pb.UpdatePolicyRequest(policy=policy, **given)))
    assert refusal.code == StatusCode.INVALID_ARGUMENT
    assert set(refusal.violations) == {field}
    assert text in refusal.violations[field]
    assert await shop.admin.GetPolicy(pb.GetPolicyRequest()) == before


# A migration


async def test_a_migration_in_steps_and_back(open_shop: Open, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "SETTLE", 0.0)

    async def through_caches() -> set[str]:
        """Reads everything twice, one by one and in a batch, and returns what came from a cache."""
        await shop.products.BatchGetProducts(BatchGetProductsRequest(product_ids=ids))
        reply = await shop.products.BatchGetProducts(BatchGetProductsRequest(product_ids=ids))
        found = {
            one.product_id for one, cache in zip(reply.products, reply.product_caches, strict=True) if cache.source != STORE
        }
        assert found == {id for id in ids if await shop.source(id) != STORE}
        assert [one.product_id for one in reply.products if one.title != "A mug"] == [ids[0]]
        return found

    async with open_shop() as shop:
        ids = [IN[0], *IN[1:3], *OUT[:10]]
        for id in ids:
            await shop.create(id)
            await shop.get(id)
        await change(shop, shadow=True)
        await in_sql(database, "UPDATE cache_sidecar.products SET title = 'planted' WHERE product_id = %s", ids[0])
        assert await through_caches() == set()
        await until(lambda: not inside.dataset(shop.app, "product").rollout.shadow.comparing.running)
        found = await shadow_of(shop)
        assert found.compared >= len(ids)
        assert found.mismatches > 0
        await shop.admin.Invalidate(pb.InvalidateRequest(dataset="product", ids=[ids[0]]))
        await change(shop, shadow=False, rollout=0.0)
        assert await through_caches() == set()
        await change(shop, rollout=10.0)
        assert await through_caches() == set(IN[:3])
        await change(shop, rollout=100.0)
        assert await through_caches() == set(ids)
        await change(shop, rollout=10.0)
        assert await through_caches() == set(IN[:3])


@pytest.mark.parametrize("off", [{"l1_enabled": False}, {"l2_enabled": False}, {"rollout": 0.0}, {"shadow": True}])
async def test_one_sidecar_may_differ_from_the_others(open_shop: Open, off: dict) -> None:
    async with open_shop() as one, open_shop() as other:
        id = (await one.create()).product_id
        for shop in (one, other):
            for _ in range(2):
                await shop.get(id)
        back = {key: not value if isinstance(value, bool) else 100.0 for key, value in off.items()}
        for number, (writer, settings) in enumerate([(one, off), (other, off), (one, back), (other, back)]):
            await change(one, **settings)
            changed = await writer.update(id, title=f"number {number}")
            for shop in (writer, other, one):
                await until(lambda shop=shop, changed=changed: sees(shop, changed))


async def sees(shop: Shop, wanted: Any) -> bool:
    return bool((await shop.get(wanted.product_id)).product == wanted)


async def test_a_product_as_it_was_written_is_no_mismatch(
    open_shop: Open, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "SETTLE", 0.0)
    async with open_shop() as shop:
        attributes = {"width": "80 cm", "colour": "red", "a": "1", "height": "2 m"}
        id = (await shop.create(attributes=attributes)).product_id
        await change(shop, shadow=True)
        await shop.get(id)
        await until(lambda: not inside.dataset(shop.app, "product").rollout.shadow.comparing.running)
        found = await shadow_of(shop)
        assert (found.compared, found.mismatches) == (1, 0)
        await in_sql(database, """UPDATE cache_sidecar.products SET attributes = attributes || '{"a": "2"}'""")
        await shop.get(id)
        await until(lambda: not inside.dataset(shop.app, "product").rollout.shadow.comparing.running)
        assert (await shadow_of(shop)).mismatches == 1


async def test_a_cart_can_be_migrated_too(open_shop: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "SETTLE", 0.0)
    async with open_shop() as shop, open_shop() as beside:
        customer, other = Customer(shop.sidecar), Customer(beside.sidecar)

        async def source() -> int:
            return (await customer.read("u")).cache.source

        await customer.replace("u", item("mug"))
        assert await source() == L2
        for settings in ({"rollout": 0.0}, {"l2_enabled": False}, {"shadow": True}):
            await change(shop, "cart", **settings)
            assert await source() == STORE
            await customer.add("u", item("mug"))
            assert (await customer.cart("u")).items[0].quantity == (await other.cart("u")).items[0].quantity
            await other.add("u", item("mug"))
            assert (await customer.cart("u")).items[0].quantity == (await other.cart("u")).items[0].quantity
            await until(lambda: not inside.dataset(shop.app, "cart").rollout.shadow.comparing.running)
            await change(shop, "cart", reset=["*"])
            reply = await customer.read("u")
            assert (reply.cart.items[0].quantity, reply.cache.source) == ((await other.cart("u")).items[0].quantity, L2)
        found = await shadow_of(shop, "cart")
        assert (found.compared > 0, found.mismatches) == (True, 0)


@pytest.mark.parametrize("settings", [{"rollout": 0.0}, {"l2_enabled": False}, {"shadow": True}])
async def test_stock_is_never_oversold_at_any_setting(open_shop: Open, settings: dict) -> None:
    async with open_shop() as shop:
        room = Stockroom(shop.channel)
        await change(shop, "inventory", **settings)
        await room.set("sofa", 3, bucket_count=2)
        for _ in range(3):
            await room.reserve({"sofa": 1})
        assert (await refused(room.reserve({"sofa": 1}))).reason == "OUT_OF_STOCK"
        assert (await room.read("sofa")).cache.source == STORE
