"""The policy: what ships, what a file puts over it, and what is wrong with a file."""

from importlib import resources
from pathlib import Path

import pytest

from cache_sidecar.config import policy
from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.core.errors import SettingsError


def error_of(text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        policy.parse(text, origin="my.toml", base=policy.default())
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("my.toml")
    return str(caught.value)


def test_what_ships_is_valid_and_as_designed() -> None:
    product = policy.default()["product"]
    assert product.l2_ttl == 3600
    assert product.jitter == 0.1
    assert product.stale_limit == 2
    assert product.l1_soft_ttl < product.l1_hard_ttl


def test_every_key_is_explained_in_the_file_that_ships() -> None:
    text = resources.files("cache_sidecar.config").joinpath("policy.toml").read_text()
    for key in DatasetPolicy.model_fields:
        assert f"# {key} " in text


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("[product]\nl2_ttl = 60\n")
    changed, default = policy.load(str(file))["product"], policy.default()["product"]
    assert changed == default.model_copy(update={"l2_ttl": 60.0})


def test_what_can_be_switched_off_is_on_at_first() -> None:
    for name, dataset in policy.default().items():
        switches = dataset.rollout, dataset.shadow, dataset.l1_enabled, dataset.l2_enabled, dataset.native_hits
        assert switches == (100, False, True, True, True), name


@pytest.mark.parametrize("name", ["product", "cart", "inventory"])
def test_what_is_only_a_copy_can_be_migrated_in_steps(name: str) -> None:
    switches = {"rollout": 12.5, "shadow": True, "l1_enabled": False, "l2_enabled": False}
    changed = policy.over(policy.default(), {name: switches}, origin="x")
    assert changed[name] == policy.default()[name].model_copy(update=switches)


def test_no_file_is_what_ships() -> None:
    assert policy.load("") == policy.default()


def test_a_symlink_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("[product]\nl2_ttl = 60\n")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert policy.load(str(tmp_path / "link"))["product"].l2_ttl == 60


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[product", "is not TOML"),
        ("[sofa]\nl2_ttl = 1", "there is no dataset 'sofa'; there are: "),
        ("product = 5", "product must be a table: [product]"),
        ("[product]\nl2_tll = 5", "l2_tll"),
        ("[product]\nl2_ttl = 0", "greater than 0"),
        ("[product]\nl2_ttl = -1", "greater than 0"),
        ("[product]\nl2_ttl = 'long'", "number"),
        ("[product]\nl2_ttl = nan", "less than or equal to 2592000"),
        ("[product]\nnegative_ttl = nan", "less than or equal to 2592000"),
        ("[product]\nl2_ttl = inf", "less than or equal to 2592000"),
        ("[product]\nstale_limit = -1", "greater than or equal to 0"),
        ("[product]\njitter = 0.6", "less than or equal to 0.5"),
        ("[product]\njitter = nan", "less than or equal to 0.5"),
        ("[product]\nl2_ttl = true", "number"),
        ("[product]\nl2_ttl = '60'", "number"),
        ("[product]\nrollout = -1", "greater than or equal to 0"),
        ("[product]\nrollout = 100.5", "less than or equal to 100"),
        ("[product]\nrollout = true", "number"),
        ("[product]\nshadow = 1", "boolean"),
        ("[product]\nl1_enabled = 'off'", "boolean"),
        ("a = " + "[" * 100_000, "is not TOML"),
        ("[session]\nrollout = 99", "session.rollout must be 100: the uses of a session are recorded in Redis"),
        ("[session]\nshadow = true", "session.shadow must be false: the uses"),
        ("[session]\nl2_enabled = false", "session.l2_enabled must be true: the uses"),
        ('[recommendation]\nexperiment_id = "a\\u0001b"', "recommendation.experiment_id: String should match"),
        ('[recommendation]\nexperiment_id = "a\\n"', "recommendation.experiment_id: String should match"),
        ("[product]\nl1_soft_ttl = 301", "l1_soft_ttl (301) must not be above l1_hard_ttl (300)"),
    ],
)
def test_one_line_says_what_is_wrong(text: str, expected: str) -> None:
    line = error_of(text)
    assert expected in line
    assert any(word in line for word in ("TOML", "product", "recommendation", "session", "sofa"))


def test_an_unknown_key_is_told_the_known_ones() -> None:
    assert "l2_ttl" in error_of("[product]\nttl = 5")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read the policy file .*: No such file"):
        policy.load(str(tmp_path / "none.toml"))
    with pytest.raises(SettingsError, match=r"cannot read the policy file .*: Is a directory"):
        policy.load(str(tmp_path))


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="is not UTF-8 text"):
        policy.load(str(file))


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        policy.default()["product"].l2_ttl = 5
