"""Django's sessions in SessionService: `SESSION_ENGINE = "cache_sidecar_client.contrib.django.sessions"`.

The sidecar's policy decides when a session ends, not SESSION_COOKIE_AGE. Sessions of a user who has logged in have the user's
ID, so that `shop().sessions.delete_all(user_id)` logs the user out everywhere.
"""

from typing import Any

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.base import SessionBase, UpdateError

from cache_sidecar_client.contrib.django import shop
from cache_sidecar_client.errors import InvalidRequest, NotFound

_CHUNK = 1024
_MOST_CHUNKS = 64
"What the sidecar accepts: 64 attributes of 1,024 characters."


class SessionStore(SessionBase):
    """One session. The signed text that Django makes of its content is kept in attributes named 0, 1, and so on."""

    _session_key: str | None

    def load(self) -> dict[str, Any]:
        """Returns the content; nothing if the session has ended."""
        try:
            attributes = shop().sessions.get(self.session_key).attributes if self.session_key else {}
        except (NotFound, InvalidRequest):  # a cookie can be anything
            attributes = {}
        if not attributes:
            self._session_key = None
            return {}
        content: dict[str, Any] = self.decode("".join(attributes[key] for key in sorted(attributes, key=int)))
        return content

    def exists(self, session_key: str) -> bool:
        """Returns whether a session exists; extends its expiry."""
        try:
            shop().sessions.touch(session_key)
        except (NotFound, InvalidRequest):
            return False
        return True

    def create(self) -> None:
        """Makes a session, whose key the sidecar chooses."""
        content = self._get_session(no_load=True)
        made = shop().sessions.create(user_id=_user_id(content), attributes=self._attributes(content))
        self._session_key = made.session_id
        self.modified = True

    def save(self, must_create: bool = False) -> None:
        """Stores the content; raises UpdateError if the session has ended, as when its user logged out elsewhere."""
        if must_create or self.session_key is None:
            self.create()
            return
        content = self._get_session(no_load=False)
        try:
            shop().sessions.replace(self.session_key, user_id=_user_id(content), attributes=self._attributes(content))
        except NotFound:
            raise UpdateError from None

    def delete(self, session_key: str | None = None) -> None:
        """Ends a session."""
        key = session_key or self.session_key
        if key:
            try:
                shop().sessions.delete(key)
            except NotFound:
                return

    def cycle_key(self) -> None:
        """Gives the session a new key at login, and makes the old one worthless."""
        content = self._get_session(no_load=False)
        if self.session_key is None:
            self.create()
            return
        try:
            self._session_key = shop().sessions.rotate(self.session_key).session_id
        except NotFound:
            self._session_key = None
            self.create()
        self._session_cache = content
        self.modified = True

    @classmethod
    def clear_expired(cls) -> None:
        """Does nothing: the sidecar's relay removes sessions that have ended."""

    def _attributes(self, content: dict[str, Any]) -> dict[str, str]:
        text = self.encode(content)
        chunks = [text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK)]
        if len(chunks) > _MOST_CHUNKS:
            raise ValueError(f"the session would have {len(text)} characters, but can have {_CHUNK * _MOST_CHUNKS}")
        return {str(number): chunk for number, chunk in enumerate(chunks)}


def _user_id(content: dict[str, Any]) -> str:
    return str(content.get(SESSION_KEY, ""))
