// A shop's pages, called as `clients/README.md` tells Node.js to: see `tests/interop/test_service_config.py`.
//     node shop.js TARGET CONFIG PLAN
"use strict";

const grpc = require("@grpc/grpc-js");
const fs = require("node:fs");

const [target, config, file] = process.argv.slice(2);
const plan = JSON.parse(fs.readFileSync(file, "utf8"));
const options = {
  "grpc.service_config": fs.readFileSync(config, "utf8"),
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1000,
};
const client = new grpc.Client(target, grpc.credentials.createInsecure(), options);
const raw = (bytes) => bytes;

function call([path, request]) {
  return new Promise((resolve) => {
    // grpc-js does not read waitForReady in the service config.
    const metadata = new grpc.Metadata({ waitForReady: true });
    const deadline = plan.deadline ? { deadline: Date.now() + plan.deadline * 1000 } : {};
    client.makeUnaryRequest(path, raw, raw, Buffer.from(request, "hex"), metadata, deadline, (error) =>
      resolve(error ? `${grpc.status[error.code]}: ${error.details}` : "OK"),
    );
  });
}

async function main() {
  if (plan.once) {
    const began = process.hrtime.bigint();
    const code = (await call(plan.once)).split(":")[0];
    return { code, seconds: Number(process.hrtime.bigint() - began) / 1e9 };
  }
  const failed = [];
  let isOver = false;
  process.stdin.resume().on("end", () => (isOver = true));
  const visit = async (page) => {
    while (!isOver) {
      for (const one of page) {
        const outcome = await call(one);
        if (outcome !== "OK") failed.push(`${one[0]}: ${outcome}`);
      }
      console.log("page");
    }
  };
  await Promise.all(plan.users.map(visit));
  return { failed };
}

main().then((result) => {
  console.log(JSON.stringify(result));
  process.exit(0);
});
