"""The policy in effect: the built-in policy, overridden by the policy file, overridden by AdminService.

The file is checked a few times a second, and read again when it, or a symlink on its path, has changed. An invalid file is
ignored. Overrides by AdminService also override later versions of the file, until they are removed or the process ends: they
are not stored anywhere.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum, auto
from functools import partial
from typing import Any

from cache_sidecar.config import policy
from cache_sidecar.config.policy import DatasetPolicy, Policy
from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.core.tasks import BackgroundTasks
from cache_sidecar.core.watched_files import LOOK_EVERY, WatchedFiles

Follow = Callable[[str, DatasetPolicy], None]
"""Called with the name of a dataset whose policy has changed, and its previous policy."""


class Origin(Enum):
    """The source of a value."""

    BUILT_IN = auto()
    FILE = auto()
    OVERRIDE = auto()


class LivePolicy(Mapping[str, DatasetPolicy]):
    """The policy in effect, by dataset."""

    def __init__(self, file: str, *, clock: Clock, default: Policy | None = None) -> None:
        """Reads the file, if one is named; `default` replaces the built-in policy. Raises SettingsError."""
        self.file = file
        self._clock = clock
        self._watched = WatchedFiles(file)
        self._default = policy.default() if default is None else default
        self._tables = policy.read(file)
        self._overrides: dict[str, dict[str, Any]] = {}
        self._effective = dict(self._merge(self._tables, self._overrides))
        self._followers: list[Follow] = []
        self._background = BackgroundTasks()
        self.version = 1
        "Incremented with every change of a value; 1 at the start."
        self.load_time = clock.now()
        "When the file was last loaded, in seconds since the epoch."
        self.refused = 0
        "How often a changed file was invalid."
        self.last_error = ""
        "Why the present file is invalid; empty when it is in effect."
        self.last_error_time = 0.0

    def __getitem__(self, dataset: str) -> DatasetPolicy:
        return self._effective[dataset]

    def __iter__(self) -> Iterator[str]:
        return iter(self._effective)

    def __len__(self) -> int:
        return len(self._effective)

    def reader(self, dataset: str) -> Callable[[], DatasetPolicy]:
        """Returns a function that returns the policy of a dataset, as fast as a dict lookup."""
        return partial(self._effective.__getitem__, dataset)

    def origin(self, dataset: str, key: str) -> Origin:
        """Returns the source of a value."""
        if key in self._overrides.get(dataset, {}):
            return Origin.OVERRIDE
        return Origin.FILE if key in self._tables.get(dataset, {}) else Origin.BUILT_IN

    def follow(self, follower: Follow) -> None:
        """Calls `follower` with every change from now on."""
        self._followers.append(follower)

    def start(self) -> None:
        """Starts watching the file."""
        if self.file:
            self._background.poll(LOOK_EVERY, self.look, delay=LOOK_EVERY)

    async def stop(self) -> None:
        """Stops watching the file."""
        await self._background.stop()

    def look(self) -> None:
        """Reads the file again if it has changed."""
        if self._watched.have_changed():
            self._reload()

    def _reload(self) -> None:
        try:
            tables = policy.read(self.file)
            merged = self._merge(tables, self._overrides)
        except SettingsError as error:
            self.refused += 1
            self.last_error, self.last_error_time = str(error), self._clock.now()
            telemetry.log.error("invalid policy file ignored; the previous policy stays in effect", error=str(error))
            return
        self._tables, self.load_time, self.last_error = tables, self._clock.now(), ""
        self._enforce(merged, by="file")

    def override(self, dataset: str, values: Mapping[str, Any], *, give_back: Collection[str] = ()) -> None:
        """Overrides values, after removing those of the keys in `give_back`. Raises SettingsError without any change."""
        kept = {key: value for key, value in self._overrides.get(dataset, {}).items() if key not in give_back}
        overrides = self._overrides | {dataset: {**kept, **values}}
        merged = self._merge(self._tables, overrides)
        self._overrides = overrides
        self._enforce(merged, by="AdminService")

    def _merge(self, tables: policy.Tables, overrides: policy.Tables) -> Policy:
        under = policy.over(self._default, tables, origin=self.file or "policy")
        return (
            policy.over(under, overrides, origin=f"{self.file or 'the built-in policy'} with the overrides by AdminService")
            if overrides
            else under
        )

    def _enforce(self, merged: Policy, *, by: str) -> None:
        old = {name: self._effective[name] for name, dataset in merged.items() if self._effective[name] != dataset}
        if not old:
            return
        self.version += 1
        changes = [line for name, dataset in old.items() for line in describe_changes(name, dataset, merged[name])]
        telemetry.log.info("policy changed", by=by, version=self.version, changes=changes)
        self._effective.update(merged)
        for name, dataset in old.items():
            for follower in self._followers:
                follower(name, dataset)


def describe_changes(name: str, old: DatasetPolicy, new: DatasetPolicy) -> list[str]:
    """Returns what differs between two policies of a dataset, such as `product.rollout: 100.0 -> 50.0`."""
    before, after = old.model_dump(), new.model_dump()
    return [f"{name}.{key}: {before[key]} -> {after[key]}" for key in before if before[key] != after[key]]
