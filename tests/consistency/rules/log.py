"""What breaks a rule, counted by dataset and rule."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

# Violations of each rule of each dataset that are kept to be shown; all are counted.
KEPT = 20


class Violation(NamedTuple):
    """Something that a rule does not allow."""

    dataset: str
    rule: str
    during: str
    "The fault that was going on."
    facts: Mapping[str, Any]
    "What was read, and what is known; times in seconds of one clock."

    def __str__(self) -> str:
        facts = ", ".join(f"{name}={_short(value)}" for name, value in self.facts.items())
        return f"{self.dataset}: {self.rule}, during {self.during}: {facts}"


class Log:
    """Collects them."""

    def __init__(self) -> None:
        self.during = "the test"
        "The fault that is going on."
        self.counts: Counter[tuple[str, str]] = Counter()
        "By dataset and rule, kept or not."
        self.kept: list[Violation] = []

    @property
    def broken(self) -> int:
        """How many there are."""
        return self.counts.total()

    def add(self, dataset: str, rule: str, **facts: Any) -> None:
        """Takes a violation."""
        self.counts[dataset, rule] += 1
        if self.counts[dataset, rule] <= KEPT:
            self.kept.append(Violation(dataset, rule, self.during, facts))


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
