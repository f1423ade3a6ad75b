"""The rules of UpdateSession. Pure: rows in, rows out."""

from collections.abc import Sequence

from cache_sidecar.core.errors import InvalidRequest
from cache_sidecar.services.shared.validation import validate
from cache_sidecar.store.session import SessionRow
from cache_sidecar.v1.session_pb2 import Session, SessionClient
from cache_sidecar.v1.session_service_pb2 import UpdateSessionRequest

CHANGEABLE = ("user_id", "client", "attributes")
ALL = "*"
_ATTRIBUTE = "attributes."


def paths(request: UpdateSessionRequest) -> Sequence[str]:
    """Returns the paths that an update changes: fields, `attributes.KEY`, or `*` alone. Raises InvalidRequest."""
    given = list(dict.fromkeys(request.update_mask.paths))
    if given == [ALL]:
        return given
    for path in given:
        if path not in CHANGEABLE and not (path.startswith(_ATTRIBUTE) and path != _ATTRIBUTE):
            known = ", ".join(CHANGEABLE)
            raise InvalidRequest(
                {"update_mask": f"{path[:64]!r} cannot be changed; these can: {known}, attributes.KEY, or * for all"}
            )
    present = [field.name for field, _ in request.session.ListFields() if field.name in CHANGEABLE]
    if not given and not present:
        raise InvalidRequest({"update_mask": "names no field, and session has none set: there is nothing to change"})
    return given or present


def update(row: SessionRow, given: Session, paths: Sequence[str]) -> SessionRow:
    """Returns the row with the given values of the paths. Raises InvalidRequest when the result breaks a rule."""
    attributes = dict(row.attributes)
    if ALL in paths:
        # AIP-134: a full replacement, also of attributes, which are merged when they are named.
        attributes, paths = {}, CHANGEABLE
    for path in paths:
        if path == "user_id":
            row = row._replace(user_id=given.user_id)
        elif path == "client":
            row = row._replace(ip_address=given.client.ip_address, user_agent=given.client.user_agent)
        elif path == "attributes":
            attributes |= given.attributes
        else:
            _set(attributes, path.removeprefix(_ATTRIBUTE), given)
    row = row._replace(attributes=attributes)
    client = SessionClient(ip_address=row.ip_address, user_agent=row.user_agent)
    result = Session(session_id=given.session_id, user_id=row.user_id, attributes=attributes, client=client)
    validate(result, path="session.")
    return row


def _set(attributes: dict[str, str], key: str, given: Session) -> None:
    if key in given.attributes:
        attributes[key] = given.attributes[key]
    else:
        attributes.pop(key, None)
