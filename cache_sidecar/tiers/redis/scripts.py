"""The Lua scripts that run in Redis, each called by the digest of its source (EVALSHA).

Not functions (FUNCTION LOAD): a library is called by its name, so another tenant of the same Redis who may load libraries could
replace ours, and it would run with our rights. A digest stands for one source only. Nodes neither replicate scripts nor keep
them over a restart: one that answers NOSCRIPT is sent all of them, and the call is repeated.

A script has only the parts of `scripts.lua` that it uses. Redis builds every local function anew for each call, and all of them
together would cost more than most calls.
"""

import hashlib
import re
from importlib import resources
from typing import NamedTuple

# What each script declares; one that declares nothing may write, and is refused when memory is full.
FLAGS = {
    # Reads many slots of one node at once: a call per slot costs three times as much. The keys that it does not declare are on
    # the same node as the one it does; for those that no longer are, it returns false.
    "read": "allow-cross-slot-keys",
    "own_reading": "no-writes,allow-cross-slot-keys",
    "shared_reading": "allow-oom,allow-cross-slot-keys",
    "fill": "",
    "put_if_newer": "",
    # Run even when Redis is full: these free memory, or need as little as a bare version does.
    "put_if_newer_when_full": "allow-oom",
    "invalidate_many": "allow-oom",
    "retract": "allow-oom",
    "drop": "allow-oom",
    "drop_partition": "allow-oom",
    "release": "allow-oom",
    "replace": "",
    "touch": "",
    "extend_ttl": "",
    "append_events": "",
    # Run even when Redis is full: what is taken is about to be removed.
    "take_events": "allow-oom",
    "finish_events": "allow-oom",
    "backlog_of_events": "no-writes",
    "check": "",
}


class Script(NamedTuple):
    """A script as Redis gets it."""

    source: str
    digest: str

    def __call__(self, *keys_and_arguments: object, keys: int) -> tuple[object, ...]:
        """Returns the command that runs it, with so many keys."""
        return ("EVALSHA", self.digest, keys, *keys_and_arguments)


def _parts(source: str) -> dict[str, str]:
    """Returns the parts of the file, which blank lines separate, by the names that each defines."""
    parts: dict[str, str] = {}
    for part in re.split(r"\n\n+(?=local |--)", source):
        code = re.sub(r"\s*--.*", "", part).strip()
        for names in re.findall(r"^local (?:function )?(\w+(?:, \w+)*)", code, re.MULTILINE):
            parts |= dict.fromkeys(names.split(", "), code)
    return parts


def _script(name: str, parts: dict[str, str]) -> Script:
    used, unread = {name}, [name]
    while unread:
        found = set(re.findall(r"\w+", parts[unread.pop()])) & parts.keys() - used
        used |= found
        unread += found
    code = dict.fromkeys(code for part, code in parts.items() if part in used)
    flags = f" flags={FLAGS[name]}" if FLAGS[name] else ""
    source = "\n".join([f"#!lua{flags}", *code, f"return {name}(KEYS, ARGV)"])
    return Script(source, hashlib.sha1(source.encode()).hexdigest())  # noqa: S324  # Redis' own choice


def load(source: str) -> dict[str, Script]:
    """Returns the scripts that a Lua source defines, by name."""
    parts = _parts(source)
    return {name: _script(name, parts) for name in FLAGS}


SCRIPTS = load(resources.files("cache_sidecar.tiers.redis").joinpath("scripts.lua").read_text())
