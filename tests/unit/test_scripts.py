"""How the Lua source becomes scripts."""

import pytest

from cache_sidecar.tiers.redis.scripts import FLAGS, SCRIPTS, load

SOURCE = "\n\n".join(
    [
        "local A, B = 1, 2",
        "local function used()  -- read\n  return A\nend",
        *(f"-- fill\nlocal function {name}(keys, args)\n  return 0\nend" for name in FLAGS if name not in ("read", "fill")),
        "local function fill(keys, args)\n  return B\nend",
        "local function read(keys, args)\n  return used()\nend",
    ]
)


def test_a_script_has_what_it_uses_and_nothing_else() -> None:
    assert load(SOURCE)["read"].source.splitlines() == [
        "#!lua flags=allow-cross-slot-keys",
        "local A, B = 1, 2",
        "local function used()",
        "  return A",
        "end",
        "local function read(keys, args)",
        "  return used()",
        "end",
        "return read(KEYS, ARGV)",
    ]


def test_comments_do_not_change_a_script() -> None:
    assert load(SOURCE + "\n-- Another comment.") == load(SOURCE)


def test_another_source_has_another_digest() -> None:
    assert load(SOURCE.replace("1, 2", "3, 2"))["read"].digest != load(SOURCE)["read"].digest


@pytest.mark.parametrize("name", FLAGS)
def test_every_script_is_defined(name: str) -> None:
    assert f"local function {name}(" in SCRIPTS[name].source
    assert len(SCRIPTS[name].digest) == 40
