"""Sessions."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime

from cache_sidecar_client import _methods, values
from cache_sidecar_client._async.caller import Caller
from cache_sidecar_client.models import Session, cache_of, session_fields
from cache_sidecar_client.v1 import session_service_pb2


class Sessions:
    """Creates, uses and ends sessions."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def create(
        self,
        *,
        user_id: str = "",
        attributes: Mapping[str, str] | None = None,
        ip_address: str = "",
        user_agent: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> Session:
        """Creates a session; its `session_id` is the secret for the cookie, and is not returned again."""
        request = session_service_pb2.CreateSessionRequest(user_id=user_id, attributes=attributes, request_id=request_id)
        if ip_address or user_agent:
            request.client.ip_address, request.client.user_agent = ip_address, user_agent
        reply = await self._caller.call(_methods.CREATE_SESSION, request, timeout)
        return Session(reply.session, session_id=reply.session_id)

    async def get(self, session_id: str, *, timeout: float | None = None) -> Session:
        """Returns a session and extends its expiry. Raises NotFound if it does not exist or has ended."""
        request = session_service_pb2.GetSessionRequest(session_id=session_id)
        reply = await self._caller.call(_methods.GET_SESSION, request, timeout)
        return Session(reply.session, cache_of(reply.cache), session_id=session_id)

    async def touch(self, session_id: str, *, timeout: float | None = None) -> datetime | None:
        """Extends the expiry of a session, and returns when it now expires. Raises NotFound as `get`."""
        request = session_service_pb2.TouchSessionRequest(session_id=session_id)
        reply = await self._caller.call(_methods.TOUCH_SESSION, request, timeout)
        return values.time_of(reply.expire_time)

    async def update(
        self,
        session_id: str,
        *,
        user_id: str | None = None,
        attributes: Mapping[str, str] | None = None,
        remove_attributes: Sequence[str] = (),
        ip_address: str | None = None,
        user_agent: str | None = None,
        etag: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> Session:
        """Sets what is given, keeps all other attributes, and extends the expiry.

        Raises NotFound as `get`, and EtagMismatch if `etag` is given and is not the current one.
        """
        request = session_service_pb2.UpdateSessionRequest(request_id=request_id)
        request.session.session_id, request.session.etag = session_id, etag
        paths = session_fields(
            request.session,
            user_id=user_id,
            attributes=attributes,
            remove_attributes=remove_attributes,
            ip_address=ip_address,
            user_agent=user_agent,
        )
        request.update_mask.paths.extend(paths)
        reply = await self._caller.call(_methods.UPDATE_SESSION, request, timeout)
        return Session(reply.session, session_id=session_id)

    async def replace(
        self,
        session_id: str,
        *,
        user_id: str = "",
        attributes: Mapping[str, str],
        ip_address: str = "",
        user_agent: str = "",
        etag: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> Session:
        """Sets the whole content of a session: attributes that are not given are removed. Raises as `update`."""
        request = session_service_pb2.UpdateSessionRequest(request_id=request_id)
        request.session.session_id, request.session.etag, request.session.user_id = session_id, etag, user_id
        request.session.attributes.update(attributes)
        if ip_address or user_agent:
            request.session.client.ip_address, request.session.client.user_agent = ip_address, user_agent
        request.update_mask.paths.append("*")
        reply = await self._caller.call(_methods.UPDATE_SESSION, request, timeout)
        return Session(reply.session, session_id=session_id)

    async def delete(self, session_id: str, *, request_id: str = "", timeout: float | None = None) -> bool:
        """Ends a session; returns whether other sidecars may accept it for a moment. Raises NotFound."""
        request = session_service_pb2.DeleteSessionRequest(session_id=session_id, request_id=request_id)
        reply = await self._caller.call(_methods.DELETE_SESSION, request, timeout)
        return bool(reply.revocation_pending)

    async def rotate(self, session_id: str, *, request_id: str = "", timeout: float | None = None) -> Session:
        """Gives a session a new ID and makes the old one worthless: at every login. Raises NotFound."""
        request = session_service_pb2.RotateSessionRequest(session_id=session_id, request_id=request_id)
        reply = await self._caller.call(_methods.ROTATE_SESSION, request, timeout)
        return Session(reply.session, session_id=reply.session_id, revocation_pending=reply.revocation_pending)

    async def list(self, user_id: str, *, page_size: int = 0, timeout: float | None = None) -> AsyncGenerator[Session, None]:
        """Yields the sessions of a user, the newest first, without their IDs."""
        request = session_service_pb2.ListUserSessionsRequest(user_id=user_id, page_size=page_size)
        while True:
            reply = await self._caller.call(_methods.LIST_USER_SESSIONS, request, timeout)
            for message in reply.sessions:
                yield Session(message, cache_of(reply.cache))
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def delete_all(self, user_id: str, *, request_id: str = "", timeout: float | None = None) -> int:
        """Ends every session of a user; returns how many this call has ended."""
        request = session_service_pb2.DeleteUserSessionsRequest(user_id=user_id, request_id=request_id)
        reply = await self._caller.call(_methods.DELETE_USER_SESSIONS, request, timeout)
        return int(reply.deleted)
