"""What a tier holds of an id, for an operator who wants to know where a key is."""

from typing import NamedTuple

from cache_sidecar.tiers.ports import Record, Source, UnreadableRow


class Held(NamedTuple):
    """What one tier holds of one id."""

    id: str
    source: Source
    record: Record | UnreadableRow | None = None
    "None for nothing. PostgreSQL's is as of now."
    is_served: bool = False
    "Whether a read without options would be answered with it, if the tiers before it do not answer."
    is_stale: bool = False
    "Whether it would be marked stale then."
    known_version: int = 0
    "The newest version that L1 knows of, from its entry or an invalidation; 0 in other tiers."
    problem: str = ""
    "Why the tier could not be asked."
