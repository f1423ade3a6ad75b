// Calls a sidecar as a shop written for Node.js would, and prints what came of it as JSON:
//     node client.js TARGET PROTOS FOLDER_OF_GOOGLE
"use strict";

const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const protobuf = require("protobufjs");
const path = require("node:path");

const [target, ...includeDirs] = process.argv.slice(2);
const SECONDS = 20;

const options = { includeDirs, keepCase: true, longs: String, enums: String, defaults: true };
const files = ["product", "session"].map((noun) => `cache_sidecar/v1/${noun}_service.proto`);
const { ProductService, SessionService } = grpc.loadPackageDefinition(loader.loadSync(files, options)).cache_sidecar.v1;
const credentials = grpc.credentials.createInsecure();
const products = new ProductService(target, credentials);
const sessions = new SessionService(target, credentials);

function call(client, method, request, seconds = SECONDS) {
  return new Promise((resolve, reject) => {
    const deadline = Date.now() + seconds * 1000;
    client[method](request, { deadline }, (error, reply) => (error ? reject(error) : resolve(reply)));
  });
}

async function refused(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("the call succeeded");
}

// The google.rpc.ErrorInfo that comes with an error.
function reason(error) {
  const root = new protobuf.Root();
  root.resolvePath = (_, file) => path.join(includeDirs.at(-1), file);
  root.loadSync(["google/rpc/status.proto", "google/rpc/error_details.proto"]);
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  const { details } = root.lookupType("google.rpc.Status").decode(bytes);
  const info = details.find((detail) => detail.type_url.endsWith("google.rpc.ErrorInfo"));
  return root.lookupType("google.rpc.ErrorInfo").decode(info.value).reason;
}

// Watches from a version on until a product's change comes, and cancels.
function watchAndCancel(id, after_version) {
  return new Promise((resolve) => {
    let seen = false;
    const stream = products.WatchProducts({ after_version });
    stream.on("data", ({ product_id }) => {
      if (product_id !== id) return;
      seen = true;
      stream.cancel();
    });
    stream.on("error", (error) => resolve({ seen, code: grpc.status[error.code] }));
  });
}

async function main() {
  const id = `node-${process.pid}-${Date.now()}`;
  const price = { currency_code: "EUR", units: 12, nanos: 500000000 };
  const created = await call(products, "CreateProduct", { product: { product_id: id, title: "A mug", active: true, price } });
  const first = await call(products, "GetProduct", { product_id: id });
  const product = { product_id: id, title: "A cup" };
  await call(products, "UpdateProduct", { product, update_mask: { paths: ["title"] } });
  const watched = await watchAndCancel(id, first.cache.version);
  await call(products, "GetProduct", { product_id: id });
  const hit = await call(products, "GetProduct", { product_id: id });
  const batch = await call(products, "BatchGetProducts", { product_ids: [id, "nobody"] });
  const error = await refused(call(products, "GetProduct", { product_id: "nobody" }));
  const late = await refused(call(sessions, "CreateSession", { user_id: "u" }, 0.3));
  return {
    written: created.product.title,
    watched,
    hit: { title: hit.product.title, source: hit.cache.source },
    batch: { source: batch.cache.source, found: batch.products.length, missing: batch.missing },
    error: { code: grpc.status[error.code], reason: reason(error) },
    deadline: grpc.status[late.code],
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
