"""Etags: they differ whenever two versions of a resource do, and callers send them back to change only what they read."""

from cache_sidecar.core.errors import EtagMismatch


def etag_of(version: int) -> str:
    """Returns the etag of a version."""
    return f"{version:x}"


def check_etag(resource: str, id: str, *, given: str, current: str) -> None:
    """Raises EtagMismatch if an etag is given and is not the current one."""
    if given and given != current:
        raise EtagMismatch(resource, id, current)
