// Uses carts and sessions as a shop in JavaScript or TypeScript would, and prints what it read as JSON:
//     node carts.js TARGET proto-loader PROTOS FOLDER_OF_GOOGLE
//     node carts.js TARGET ts-proto FOLDER_OF_GENERATED_CODE
// Neither of the two runtimes merges a message field that comes twice: they keep the last one.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { randomUUID } = require("node:crypto");
const grpc = require("@grpc/grpc-js");

const [target, runtime, ...folders] = process.argv.slice(2);
const SERVICES = ["cart", "session"].map((noun) => `cache_sidecar/v1/${noun}_service`);

function loaded() {
  const loader = require("@grpc/proto-loader");
  const files = SERVICES.map((name) => `${name}.proto`);
  const options = { includeDirs: folders, longs: String, defaults: true };
  return grpc.loadPackageDefinition(loader.loadSync(files, options)).cache_sidecar.v1;
}

function generated() {
  const typescript = require("typescript");
  const compilerOptions = { module: typescript.ModuleKind.CommonJS, target: typescript.ScriptTarget.ES2022 };
  require.extensions[".ts"] = (module, file) => {
    const { outputText } = typescript.transpileModule(fs.readFileSync(file, "utf8"), { compilerOptions });
    module._compile(outputText, file);
  };
  const [carts, sessions] = SERVICES.map((name) => require(path.join(folders[0], `${name}.ts`)));
  return { CartService: carts.CartServiceClient, SessionService: sessions.SessionServiceClient };
}

const { CartService, SessionService } = runtime === "ts-proto" ? generated() : loaded();
const credentials = grpc.credentials.createInsecure();
const carts = new CartService(target, credentials);
const sessions = new SessionService(target, credentials);

// Methods of clients begin with a small letter; all fields of a request are given, as generated types want it.
function call(client, method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, (error, reply) => (error ? reject(error) : resolve(reply)));
  });
}

function lines(cart) {
  return cart.items.map(({ productId, quantity }) => [productId, quantity]);
}

function item(productId, quantity) {
  const unitPrice = { currencyCode: "EUR", units: 2, nanos: 500000000 };
  return { productId, quantity, unitPrice, options: {} };
}

async function main() {
  const userId = `node-${randomUUID()}`;
  for (const [productId, quantity] of [["mug", 2], ["cup", 1]]) {
    await call(carts, "addCartItem", { userId, item: item(productId, quantity), requestId: randomUUID() });
  }
  const read = await call(carts, "getCart", { userId });
  const replaced = await call(carts, "replaceCart", { cart: read.cart, requestId: "" });
  const changes = [{ addItem: item("pot", 3) }];
  const changed = await call(carts, "applyCartChanges", { userId, changes, requestId: randomUUID() });
  const again = await call(carts, "getCart", { userId });

  const client = { ipAddress: "192.0.2.7", userAgent: "node" };
  const created = await call(sessions, "createSession", { userId, attributes: { theme: "dark" }, client, requestId: "" });
  const found = await call(sessions, "getSession", { sessionId: created.sessionId });
  const { session } = found;
  return {
    read: { lines: lines(read.cart), hasEtag: read.cart.etag.length === 16, user: read.cart.userId === userId },
    replaced: lines(replaced.cart),
    changed: lines(changed.cart),
    again: lines(again.cart),
    total: again.cart.totals.map(({ units, nanos }) => [Number(units), nanos]),
    session: {
      user: session.userId === userId,
      theme: session.attributes.theme,
      from: session.client.ipAddress,
      hasEtag: session.etag === created.session.etag,
      hasTimes: Boolean(session.createTime && session.expireTime && session.endTime),
    },
    sources: [read, again, found].map(({ cache }) => cache.source),
  };
}

main().then(
  (result) => {
    console.log(JSON.stringify(result));
    process.exit(0);
  },
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
