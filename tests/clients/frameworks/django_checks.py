"""Runs the Django example against the sidecar of CACHE_SIDECAR_ADDRESS, in an environment of its own."""

import os

import cache_sidecar_client
import django
import django_shop
from django.contrib.sessions.backends.base import UpdateError
from django.core.cache import caches
from django.test import Client

django.setup()
assert django_shop.urlpatterns  # importing it configures Django
RUN = os.environ["RUN"]
shop = cache_sidecar_client.connect()
for name in ("mug", "cup"):
    shop.products.create(f"{RUN}-{name}", title=name, price="9.99 EUR")

browser, other = Client(), Client()
browser.get(f"/products/{RUN}-mug")
reply = browser.get(f"/products/{RUN}-cup")
assert reply.json() == {"title": "cup", "price": "9.99 EUR", "seen": [f"{RUN}-mug", f"{RUN}-cup"]}, reply.content
assert other.get(f"/products/{RUN}-cup").json()["seen"] == [f"{RUN}-cup"]
assert browser.get(f"/products/{RUN}-none").status_code == 404
key = browser.cookies["sessionid"].value
assert shop.sessions.get(key)
browser.get("/logout")
try:
    shop.sessions.get(key)
    raise AssertionError("the session is still there")
except cache_sidecar_client.NotFound:
    pass

# The engine as Django's own tests use it.
from cache_sidecar_client.contrib.django.sessions import SessionStore  # noqa: E402  # needs the settings

session = SessionStore()
session["_auth_user_id"] = f"{RUN}-user"
session["text"] = "ü" * 20_000
session.save()
key = session.session_key
again = SessionStore(key)
assert again["text"] == "ü" * 20_000
again["text"] = "short"
again.save()
assert SessionStore(key)["text"] == "short"
again.cycle_key()
assert again.session_key != key
assert not SessionStore().exists(key)
assert SessionStore(again.session_key)["text"] == "short"
assert shop.sessions.delete_all(f"{RUN}-user") == 1
assert dict(SessionStore(again.session_key).items()) == {}
try:
    again["text"] = "after logout"
    again.save()
    raise AssertionError("a session was saved that had ended")
except UpdateError:
    pass
for cookie in ("x" * 300, "eleven\tlong"):
    # The sidecar refuses such an ID; its visitor is one without a session.
    assert dict(SessionStore(cookie).items()) == {}
    assert not SessionStore().exists(cookie)
store = SessionStore()
store["text"] = [os.urandom(3).hex() for _ in range(30_000)]
try:
    store.save()
    raise AssertionError("a session was saved that is too large")
except ValueError as error:
    assert "can have 65536" in str(error), error

catalog = caches["default"]
assert set(catalog.get_many([f"{RUN}-mug", f"{RUN}-none"])) == {f"{RUN}-mug"}
assert catalog.get(f"{RUN}-none", "default") == "default"
assert f"{RUN}-mug" in catalog
try:
    catalog.set("x", "y")
    raise AssertionError("the catalogue was changed through its cache")
except NotImplementedError:
    pass
shop.close()
print("passed")
