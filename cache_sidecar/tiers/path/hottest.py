"""Which ids are read most: a sketch of bounded size (Space-Saving, Metwally et al., 2005), fed with samples of the hits."""

from typing import NamedTuple

# Ids counted at a time. An id with more than one in so many of the samples is always among them.
COUNTED = 256
# When so many samples were counted, all counts are halved: what was hot an hour ago fades.
HALVED_AT = 20_000


class Hot(NamedTuple):
    """An id that is read often."""

    id: str
    samples: int
    "Samples of it, too many by at most `error`."
    error: int


class HottestIds:
    """The ids with the most samples."""

    def __init__(self) -> None:
        self.total = 0
        "Samples, halved as the counts are."
        self._counts: dict[str, int] = {}
        self._errors: dict[str, int] = {}

    def count(self, id: str) -> None:
        """Counts a sample."""
        self.total += 1
        if id not in self._counts and len(self._counts) >= COUNTED:
            # The new id takes over the count of the least one: it may have been sampled that often before, and forgotten.
            least = min(self._counts, key=self._counts.__getitem__)
            self._errors[id] = self._counts[id] = self._counts.pop(least)
            self._errors.pop(least, None)
        self._counts[id] = self._counts.get(id, 0) + 1
        if self.total >= HALVED_AT:
            self.total //= 2
            self._counts = {id: half for id, count in self._counts.items() if (half := count // 2)}
            self._errors = {id: half for id, error in self._errors.items() if (half := error // 2) and id in self._counts}

    def top(self, size: int) -> list[Hot]:
        """Returns the ids with the most samples, the first one first."""
        first = sorted(self._counts.items(), key=lambda one: one[1] - self._errors.get(one[0], 0), reverse=True)[:size]
        return [Hot(id, count, self._errors.get(id, 0)) for id, count in first]
