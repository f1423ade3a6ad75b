"""The ids of a file: which come twice, and which a spreadsheet has shortened."""

import re
from collections import Counter
from collections.abc import Iterator

# Ids that are remembered to find those that come twice, unless all are needed: some 100 MB.
MAX_IDS = 1_000_000
_SHOWN = 5
_SHORTENED = re.compile(r"[0-9](?:[.,][0-9]+)?E\+?[0-9]{1,3}", re.IGNORECASE)


class Ids:
    """Counts ids."""

    def __init__(self, *, keeps_all: bool = False) -> None:
        self._seen: set[str] = set()
        self._keeps_all = keeps_all
        self._repeated: Counter[str] = Counter()
        self._shortened: Counter[str] = Counter()

    def add(self, key: str) -> None:
        """Adds the id of a row."""
        if _SHORTENED.fullmatch(key) and (key in self._shortened or len(self._shortened) < MAX_IDS):
            self._shortened[key] += 1
        if key in self._seen:
            self._repeated[key] += 1
        elif self._keeps_all or len(self._seen) < MAX_IDS:
            self._seen.add(key)

    def __contains__(self, key: object) -> bool:
        return key in self._seen

    def lines(self) -> Iterator[str]:
        """Yields what is worth a word in the report."""
        if self._repeated:
            count = self._repeated.total()
            yield f"{count:,} rows repeat an id, of which the last one counts: {_show(self._repeated, extra=1)}"
        if self._shortened:
            yield (
                f"warning: {self._shortened.total():,} rows have an id that looks like a number that a spreadsheet shortened, "
                f"and different products may share it: {_show(self._shortened)}; format the column as text before saving"
            )


def _show(counts: Counter[str], *, extra: int = 0) -> str:
    shown = ", ".join(f"{key} {count + extra} times" for key, count in counts.most_common(_SHOWN))
    return shown + (f" and {len(counts) - _SHOWN:,} more" if len(counts) > _SHOWN else "")
