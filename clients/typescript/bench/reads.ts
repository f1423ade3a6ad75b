/**
 * Reads products by the library and by the bare stub: programs that `make bench ONLY='client_typescript*'` compares.
 *
 *     node build/bench/reads.js KIND JOB.json      # the job: {"address", "keys", "workers"}
 *
 * KIND is `bare`; `client`, which joins no gets; `joined`; or `l0`. Prints `ready`, and for each number of seconds that it reads,
 * what it has measured, as JSON.
 */
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { create, fromBinary, toBinary, type MessageShape } from "@bufbuild/protobuf";
import { Client, credentials, Metadata } from "@grpc/grpc-js";

import { connect } from "../src/index.js";
import { GetProductRequestSchema, GetProductResponseSchema } from "../src/stubs.js";

type Read = (productId: string) => Promise<unknown>;
interface Job {
  address: string;
  keys: string[];
  workers: number;
}

/** Between two looks at the clock: a read of L0 takes about as long as one. */
const RUNS = 100;
const WARM_UP = 5_000;

/** As the generated stub of grpc-js does it, with a deadline, as every call needs one. */
function bareRead(address: string): Read {
  const client = new Client(address, credentials.createInsecure());
  const serialize = (message: MessageShape<typeof GetProductRequestSchema>) => Buffer.from(toBinary(GetProductRequestSchema, message));
  const deserialize = (bytes: Buffer) => fromBinary(GetProductResponseSchema, bytes);
  return (productId) =>
    new Promise((resolve, reject) => {
      client.makeUnaryRequest(
        "/cache_sidecar.v1.ProductService/GetProduct",
        serialize,
        deserialize,
        create(GetProductRequestSchema, { productId }),
        new Metadata(),
        { deadline: Date.now() + 2000 },
        (error, reply) => (error ? reject(error) : resolve(reply)),
      );
    });
}

async function readOf(kind: string, { address, keys }: Job): Promise<Read> {
  if (kind === "bare") return bareRead(address);
  const shop = connect({ address, joinGets: kind === "joined", ...(kind === "l0" && { localCache: { maxAge: 3600 } }) });
  if (kind === "l0")
    for (const key of keys)
      while ((await shop.products.get(key)).cache?.source !== "l0") await new Promise((resolve) => setTimeout(resolve, 10));
  return (productId) => shop.products.get(productId);
}

async function measure(read: Read, { keys, workers }: Job, seconds: number, runs: number) {
  const began = performance.now();
  const end = began + seconds * 1000;
  const times: number[] = [];
  let next = 0;
  const work = async () => {
    for (let before = performance.now(); before < end; ) {
      for (let run = 0; run < runs; run++) await read(keys[next++ % keys.length] as string);
      const now = performance.now();
      times.push(((now - before) * 1000) / runs);
      before = now;
    }
  };
  await Promise.all(Array.from({ length: workers }, work));
  const took = (performance.now() - began) / 1000;
  times.sort((a, b) => a - b);
  const at = (percent: number) => times[Math.floor((times.length * percent) / 100)];
  return { calls: times.length * runs, seconds: took, percentiles_us: { 50: at(50), 99: at(99) } };
}

const [kind = "", file = ""] = process.argv.slice(2);
const job = JSON.parse(readFileSync(file, "utf8")) as Job;
const read = await readOf(kind, job);
// What is called often is compiled meanwhile; a program that has just started says how long that takes, not what a read costs.
for (let run = 0; run < WARM_UP; run++) await read(job.keys[run % job.keys.length] as string);
console.log("ready");
for await (const seconds of createInterface({ input: process.stdin }))
  console.log(JSON.stringify(await measure(read, job, Number(seconds), kind === "l0" ? RUNS : 1)));
process.exit();
