"""The level of a process's logs, which operators may change for a while."""

import asyncio
import logging
from collections.abc import MutableMapping
from typing import Any

import structlog

from cache_sidecar.core.clock import Clock, SystemClock

LEVELS = ("debug", "info", "warning", "error")
_NUMBERS = logging.getLevelNamesMapping()


class LogLevel:
    """A structlog processor that drops what is below the level. Lines of the audit log pass at any level."""

    def __init__(self, level: str = "info", *, clock: Clock | None = None) -> None:
        self.configured = level
        "The setting `log_level`."
        self.current = level
        self.reset_at: float | None = None
        "When it is reset to the setting, in seconds since the epoch; None if it was not changed."
        self._clock = clock or SystemClock()
        self._number = _NUMBERS[level.upper()]
        self._resetting: asyncio.TimerHandle | None = None

    @property
    def shows_debug(self) -> bool:
        """Whether the level is `debug`."""
        return self._number <= logging.DEBUG

    def __call__(self, _logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Returns the event, or raises DropEvent."""
        if _NUMBERS[method.upper()] < self._number and "audit" not in event:
            raise structlog.DropEvent
        return event

    def configure(self, level: str) -> None:
        """Sets the level of the settings."""
        self.configured = level
        self.reset()

    def change(self, level: str, seconds: float) -> None:
        """Sets another level for so many seconds. To be called in the event loop."""
        self.reset()
        self._set(level)
        self.reset_at = self._clock.now() + seconds
        self._resetting = asyncio.get_running_loop().call_later(seconds, self.reset)

    def reset(self) -> None:
        """Sets the level of the settings again."""
        if self._resetting is not None:
            self._resetting.cancel()
        self._resetting = self.reset_at = None
        self._set(self.configured)

    def _set(self, level: str) -> None:
        self.current, self._number = level, _NUMBERS[level.upper()]
