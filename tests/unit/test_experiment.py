"""Experiments: who is in which variant."""

import pytest

from cache_sidecar.config import policy
from cache_sidecar.config.experiment import Variant, choose, order_of, parse
from cache_sidecar.core.errors import SettingsError

VARIANTS = [Variant("control", 90, []), Variant("model", 10, ["remote", "shop"])]
KNOWN = [
    "control",
    "control",
    "control",
    "control",
    "control",
    "control",
    "model",
    "control",
    "control",
    "control",
    "control",
    "control",
]
USERS = [f"user-{number}" for number in range(20_000)]


def test_variants_have_names_weights_and_generators() -> None:
    assert parse("control=90; model=10:remote,shop") == VARIANTS
    assert parse("") == []
    assert order_of("shop, popular") == ["shop", "popular"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("control", "no variant"),
        ("control=-1", "no variant"),
        ("a=1:best", "no generator"),
        ("a=1:shop,shop", "twice"),
        ("a=1; a=2", "twice"),
        ("a=0; b=0", "weight above 0"),
    ],
)
def test_what_is_no_experiment_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_a_user_stays_in_a_variant_and_variants_get_their_part() -> None:
    chosen = {user: choose(VARIANTS, salt="1", user_id=user).name for user in USERS}
    assert chosen == {user: choose(VARIANTS, salt="1", user_id=user).name for user in reversed(USERS)}
    assert list(chosen.values()).count("model") == pytest.approx(2000, abs=250)
    # Known values: a change of the hash would move users.
    assert [chosen[user] for user in USERS[:12]] == KNOWN


def test_another_salt_draws_anew() -> None:
    first, second = ({user for user in USERS if choose(VARIANTS, salt=salt, user_id=user).name == "model"} for salt in "12")
    assert len(first & second) == pytest.approx(200, abs=80)


def test_nobody_is_in_a_variant_without_weight() -> None:
    variants = [Variant("a", 0, []), Variant("b", 1, []), Variant("c", 0, [])]
    assert {choose(variants, salt="", user_id=user).name for user in USERS[:1000]} == {"b"}


def test_the_policy_checks_it() -> None:
    found = policy.parse(
        '[recommendation]\nexperiment_id = "e"\nexperiment_variants = "a=1"\n', origin="here", base=policy.default()
    )
    assert found["recommendation"].experiment_id == "e"
    for text in ('experiment_id = "e"', 'experiment_variants = "a=1"', 'experiment_id = "e"\nexperiment_variants = "a"'):
        with pytest.raises(SettingsError, match="here: recommendation"):
            policy.parse(f"[recommendation]\n{text}\n", origin="here", base=policy.default())
