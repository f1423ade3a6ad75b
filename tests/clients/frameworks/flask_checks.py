"""Runs the Flask example against the sidecar of CACHE_SIDECAR_ADDRESS, in an environment of its own."""

import os

import cache_sidecar_client
import flask_shop

RUN = os.environ["RUN"]
with cache_sidecar_client.connect() as shop:
    shop.products.create(f"{RUN}-mug", title="Mug", price="9.99 EUR")

browser = flask_shop.app.test_client()
reply = browser.get(f"/products/{RUN}-mug")
assert reply.status_code == 200, reply.data
assert (reply.json["title"], reply.json["price"]) == ("Mug", "9.99 EUR")
reply = browser.post(f"/carts/{RUN}", json={"product_id": f"{RUN}-mug", "quantity": 2})
assert reply.json == {"totals": ["19.98 EUR"]}, reply.data
reply = browser.get(f"/products/{RUN}-none")
assert (reply.status_code, reply.json["reason"]) == (404, "NOT_FOUND")
reply = browser.post(f"/carts/{RUN}", json={"product_id": f"{RUN}-mug", "quantity": 1000})
assert (reply.status_code, reply.json["reason"]) == (409, "LIMIT_REACHED"), reply.data
print("passed")
