"""Checks what watches deliver. Pure.

1. *Back*: within a stream the versions of one resource never go back, and none comes twice.
2. *Gap*: a stream of changes, resumed after the last version it delivered, delivers every one that was acknowledged since it began.
3. *Last*: when nothing changes any more, the last thing that a stream delivered of a resource is its newest version.

A stream begins with its first message; whatever was called after that has to come.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping

from tests.consistency.rules.log import Log

# Changes that were delivered and not acknowledged, which are remembered: of writers that died, and of those that know it later.
REMEMBERED = 20_000


class Stream:
    """One watcher of one sidecar, who resumes when the stream breaks."""

    def __init__(self, dataset: str, log: Log, *, name: str, every: bool, keys: Collection[int] | None = None) -> None:
        """`every` says whether it delivers each change, rather than the newest state; `keys` of which resources, if not of all."""
        self.has_begun = False
        self.delivered = 0
        self.dataset = dataset
        self.log = log
        self._name = name
        self._every = every
        self._keys = keys
        self._last: dict[int, int] = {}
        "The version delivered last, of each resource."
        self._in_connection: dict[int, int] = {}
        "The same since the stream was resumed."
        self._missing: dict[int, int] = {}
        "The resources of acknowledged versions that were not delivered yet, by version."
        self.early: OrderedDict[int, None] = OrderedDict()
        "Versions that were delivered before they were acknowledged."

    def resumed(self) -> None:
        """Takes that the stream is another one from now on."""
        self._in_connection.clear()

    def takes(self, key: int, version: int) -> None:
        """Takes a message."""
        self.has_begun = True
        self.delivered += 1
        before = self._in_connection.get(key, -1)
        if version <= before:
            self.log.add(self.dataset, "back", stream=self._name, key=key, version=version, before=before)
        self._in_connection[key] = version
        self._last[key] = version
        if self._every and self._missing.pop(version, None) is None:
            self.early[version] = None
            if len(self.early) > REMEMBERED:
                self.early.popitem(last=False)

    def acknowledged(self, key: int, version: int) -> None:
        """Takes a change that was called after the stream had begun."""
        if self._every and version in self.early:
            del self.early[version]
        elif self._every:
            self._missing[version] = key

    def is_complete(self, newest: Mapping[int, int]) -> bool:
        """Whether it delivered all that it has to; `newest` are the newest versions, by resource."""
        return not self._missing and not self._behind(newest)

    def found_incomplete(self, newest: Mapping[int, int]) -> None:
        """Takes that it did not within all the time it had."""
        for version, key in self._missing.items():
            self.log.add(self.dataset, "gap", stream=self._name, key=key, version=version)
        for key, (last, version) in self._behind(newest).items():
            self.log.add(self.dataset, "last", stream=self._name, key=key, last=last, newest=version)

    def cannot_resume(self, why: str) -> None:
        """Takes that it was refused to resume although that cannot have been too late."""
        self.log.add(self.dataset, "gap", stream=self._name, refused=why)

    def _behind(self, newest: Mapping[int, int]) -> dict[int, tuple[int, int]]:
        """Of changes, only what was delivered once is behind; the others are missing if they have to come."""
        keys = self._last if self._every else newest if self._keys is None else self._keys
        expected = {key: newest[key] for key in keys}
        return {key: (self._last.get(key, -1), version) for key, version in expected.items() if self._last.get(key) != version}
