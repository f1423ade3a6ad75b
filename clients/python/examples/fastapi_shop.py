"""A shop with FastAPI: `uvicorn fastapi_shop:app`."""

from cache_sidecar_client import Options
from cache_sidecar_client.contrib.fastapi import Shop, add_error_handler, lifespan
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI(lifespan=lifespan(Options(join=True)))
add_error_handler(app)


class Row(BaseModel):
    product_id: str
    quantity: int


@app.get("/products/{product_id}")
async def product(product_id: str, shop: Shop) -> dict[str, str]:
    found = await shop.products.get(product_id)
    return {"title": found.title, "price": str(found.price), "source": found.cache.source}


@app.post("/carts/{user_id}")
async def add(user_id: str, row: Row, shop: Shop) -> dict[str, list[str]]:
    product = await shop.products.get(row.product_id)
    cart = await shop.carts.add(user_id, product.product_id, row.quantity, product.price)
    return {"totals": [str(total) for total in cart.totals]}
