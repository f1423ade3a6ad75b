"""What the tiers hold of a key, as AdminService.InspectKey returns it."""

from collections.abc import Sequence

from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.tiers.path.held import Held
from cache_sidecar.tiers.ports import Source, UnreadableRow
from cache_sidecar.v1 import admin_service_pb2 as pb


async def inspect(dataset: Dataset, keys: Sequence[str], *, now: float) -> pb.InspectKeyResponse:
    """Returns what each tier holds of keys, by key: of those that are somewhere and, if none is, of the first one.

    `now` is in seconds since the epoch.
    """
    held = await dataset.find_held(keys)
    somewhere = {row.id for row in held if row.record is not None}
    rows = [row for row in held if row.id in somewhere or row.id == keys[0]]
    order = {key: number for number, key in enumerate(keys)}
    rows.sort(key=lambda row: (order[row.id], row.source))
    return pb.InspectKeyResponse(tiers=[_message(row, now) for row in rows])


def _message(held: Held, now: float) -> pb.HeldKey:
    record = held.record
    made = pb.HeldKey(
        key=held.id,
        tier=held.source.name.lower(),
        served=held.is_served,
        stale=held.is_stale,
        known_version=held.known_version,
        problem=held.problem,
    )
    if held.problem:
        return made
    if isinstance(record, UnreadableRow):
        made.problem = record.why
        return made
    if record is None:
        made.state = pb.KEY_STATE_NOT_FOUND if held.source is Source.STORE else pb.KEY_STATE_ABSENT
        return made
    made.state = pb.KEY_STATE_NOT_FOUND if record.value is None else pb.KEY_STATE_VALUE
    made.version, made.bytes = record.version, len(record.value or b"")
    if held.source is not Source.STORE:
        made.age.FromNanoseconds(max(0, int((now - record.read_at) * 1e9)))
    return made
