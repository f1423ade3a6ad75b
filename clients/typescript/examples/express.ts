/**
 * A shop's pages in Express: sessions, products and a cart.
 *
 *     node examples/express.js          # after `npm run example`, with a sidecar on 127.0.0.1:50051
 *     curl -c cookies -b cookies http://127.0.0.1:8080/
 */
import express from "express";

import { connect, Money, NotFound } from "../src/index.js";
import { sessionOf, sessions } from "../src/express.js";

const shop = connect();
const app = express();
app.use(express.json());
app.use(sessions(shop, { secure: false })); // the example has no TLS

app.get("/", (request, response) => {
  const session = sessionOf(request);
  session.set("visits", String(Number(session.get("visits") ?? 0) + 1));
  response.json({ visits: Number(session.get("visits")), user: session.userId });
});

app.post("/login", async (request, response) => {
  await sessionOf(request).login(String((request.body as { user: string }).user));
  response.json({ user: sessionOf(request).userId });
});

app.post("/logout", async (request, response) => {
  await sessionOf(request).logout();
  response.json({});
});

app.get("/products/:id", async (request, response) => {
  try {
    response.json(await shop.products.get(request.params.id));
  } catch (error) {
    if (!(error instanceof NotFound)) throw error;
    response.status(404).json({ error: error.message });
  }
});

app.post("/cart/:id", async (request, response) => {
  const { price } = await shop.products.get(request.params.id);
  const user = sessionOf(request).userId || "guest";
  const cart = await shop.carts.edit(user, (edit) => edit.add(request.params.id, 1, price ?? Money.of("0", "EUR")));
  response.json({ quantity: cart?.quantity, totals: cart?.totals });
});

// bigint, of which versions are, is no type of JSON.
app.set("json replacer", (_key: string, value: unknown) => (typeof value === "bigint" ? String(value) : value));

const server = app.listen(Number(process.env["PORT"] ?? 8080), "127.0.0.1", () => {
  const address = server.address();
  console.log(`http://127.0.0.1:${typeof address === "object" ? address?.port : ""}/`);
});
process.once("SIGTERM", () => {
  shop.close();
  server.close();
});
