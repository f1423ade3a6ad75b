"""A shop with Flask: `flask --app flask_shop run`."""

from cache_sidecar_client.contrib.flask import CacheSidecar, current_shop
from flask import Flask, jsonify, request

app = Flask(__name__)
CacheSidecar(app)


@app.get("/products/<product_id>")
def product(product_id):
    found = current_shop.products.get(product_id)
    return jsonify(title=found.title, price=str(found.price), source=found.cache.source)


@app.post("/carts/<user_id>")
def add(user_id):
    row = request.get_json()
    product = current_shop.products.get(row["product_id"])
    cart = current_shop.carts.add(user_id, product.product_id, row["quantity"], product.price)
    return jsonify(totals=[str(total) for total in cart.totals])
