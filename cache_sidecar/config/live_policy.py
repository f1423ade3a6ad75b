"""The policy in force: what ships, under what the policy file says, under what was changed by AdminService.

The file is looked at a few times a second, and read again when it, or what a symlink on the way to it names, is another one.
A file that cannot be used changes nothing. What AdminService changed lies over the file, also over a new one, until it is
given back or the process ends: it is kept nowhere else.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum, auto
from functools import partial
from typing import Any

from cache_sidecar.config import policy
from cache_sidecar.config.policy import DatasetPolicy, Policy
from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.core.tasks import log_failure
from cache_sidecar.core.watched_files import WatchedFiles, poll

Follow = Callable[[str, DatasetPolicy], None]
"""Hears that the policy of a dataset is another one, and which one it was."""


class Origin(Enum):
    """Where a value in force is from."""

    BUILT_IN = auto()
    FILE = auto()
    OVERRIDE = auto()


class LivePolicy(Mapping[str, DatasetPolicy]):
    """The policy in force, by dataset."""

    def __init__(self, file: str, *, clock: Clock, default: Policy | None = None) -> None:
        """Reads the file, if one is named, over `default`, or what ships. Raises SettingsError."""
        self.file = file
        self._clock = clock
        self._watched = WatchedFiles(file)
        self._default = policy.default() if default is None else default
        self._tables = policy.read(file)
        self._overrides: dict[str, dict[str, Any]] = {}
        self._in_force = dict(self._merged(self._tables, self._overrides))
        self._followers: list[Follow] = []
        self._task: asyncio.Task[None] | None = None
        self.version = 1
        "Grows with every change of what is in force; 1 at the start."
        self.load_time = clock.now()
        "When the file was last taken, in seconds since the epoch."
        self.refused = 0
        "How often a changed file could not be used."
        self.last_error = ""
        "Why the file as it is now cannot be used; empty when it is in force."
        self.last_error_time = 0.0

    def __getitem__(self, dataset: str) -> DatasetPolicy:
        return self._in_force[dataset]

    def __iter__(self) -> Iterator[str]:
        return iter(self._in_force)

    def __len__(self) -> int:
        return len(self._in_force)

    def reader(self, dataset: str) -> Callable[[], DatasetPolicy]:
        """Returns what reads the policy of a dataset, as fast as a look into a dict."""
        return partial(self._in_force.__getitem__, dataset)

    def origin(self, dataset: str, key: str) -> Origin:
        """Returns where a value is from."""
        if key in self._overrides.get(dataset, {}):
            return Origin.OVERRIDE
        return Origin.FILE if key in self._tables.get(dataset, {}) else Origin.BUILT_IN

    def follow(self, follower: Follow) -> None:
        """Tells somebody of every change from now on, at once."""
        self._followers.append(follower)

    def start(self) -> None:
        """Starts looking at the file in the background."""
        if self.file:
            self._task = asyncio.get_running_loop().create_task(poll(self.look))
            self._task.add_done_callback(log_failure)

    async def stop(self) -> None:
        """Stops looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def look(self) -> None:
        """Reads the file again if it has changed."""
        if self._watched.have_changed():
            self._reload()

    def _reload(self) -> None:
        try:
            tables = policy.read(self.file)
            merged = self._merged(tables, self._overrides)
        except SettingsError as error:
            self.refused += 1
            self.last_error, self.last_error_time = str(error), self._clock.now()
            telemetry.log.error("invalid policy file ignored; the previous policy stays in effect", error=str(error))
            return
        self._tables, self.load_time, self.last_error = tables, self._clock.now(), ""
        self._enforce(merged, by="file")

    def override(self, dataset: str, values: Mapping[str, Any], *, give_back: Collection[str] = ()) -> None:
        """Puts values over those of the file, after giving keys back to it. Raises SettingsError, and changes nothing then."""
        kept = {key: value for key, value in self._overrides.get(dataset, {}).items() if key not in give_back}
        overrides = self._overrides | {dataset: {**kept, **values}}
        merged = self._merged(self._tables, overrides)
        self._overrides = overrides
        self._enforce(merged, by="AdminService")

    def _merged(self, tables: policy.Tables, overrides: policy.Tables) -> Policy:
        under = policy.over(self._default, tables, origin=self.file or "policy")
        return (
            policy.over(under, overrides, origin=f"{self.file or 'the built-in policy'} and what AdminService changed")
            if overrides
            else under
        )

    def _enforce(self, merged: Policy, *, by: str) -> None:
        old = {name: self._in_force[name] for name, dataset in merged.items() if self._in_force[name] != dataset}
        if not old:
            return
        self.version += 1
        changes = [line for name, dataset in old.items() for line in _changes(name, dataset, merged[name])]
        telemetry.log.info("policy changed", by=by, version=self.version, changes=changes)
        self._in_force.update(merged)
        for name, dataset in old.items():
            for follower in self._followers:
                follower(name, dataset)


def _changes(name: str, old: DatasetPolicy, new: DatasetPolicy) -> list[str]:
    before, after = old.model_dump(), new.model_dump()
    return [f"{name}.{key}: {before[key]} -> {after[key]}" for key in before if before[key] != after[key]]
