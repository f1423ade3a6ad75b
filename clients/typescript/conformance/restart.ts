/**
 * Customers that write without a pause while a test kills their sidecar and starts it again; see `tests/clients/restarts.py`.
 *
 *     node restart.js < plan.json       # {"address", "users", "timeout": seconds, "prefix"}, and then "stop" on a line of its own
 *
 * Prints a line for each write that was acknowledged, and in the end what was acknowledged, what failed, and what the watch told.
 */
import { createInterface } from "node:readline";

import { connect, Money, NotFound } from "../src/index.js";

interface Plan {
  address: string;
  users: number;
  timeout: number;
  prefix: string;
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const { address, users, timeout: seconds, prefix } = JSON.parse((await lines.next()).value as string) as Plan;
const timeout = seconds * 1000;
const shop = connect({ address });
await shop.ready({ timeout });

const errors: string[] = [];
const added: Record<string, number> = {};
const versions: number[] = [];
const told: number[] = [];
let missed = 0;
let slowest = 0;
let isOver = false;

async function repeat(write: () => Promise<void>): Promise<void> {
  while (!isOver) {
    const began = performance.now();
    try {
      await write();
      console.log("written");
    } catch (error) {
      errors.push(String(error));
    }
    slowest = Math.max(slowest, performance.now() - began);
  }
}

const price = Money.of("1.25", "EUR");
const product = `${prefix}watched`;
await shop.products.create(product, { title: "0", price });

const watching = new AbortController();
const events = shop.products.watch({ signal: watching.signal });
await events.next();
const watched = (async () => {
  try {
    for await (const event of events) {
      if (event.kind === "missed") missed++;
      if (event.productId === product) told.push(Number(event.version));
      if (event.productId === `${prefix}end`) return;
    }
  } catch (error) {
    errors.push(`watch: ${error}`);
  }
})();

const customers = Array.from({ length: users }, (_, number) => {
  const user = `${prefix}user-${number}`;
  added[user] = 0;
  return repeat(async () => {
    // A cart holds 999 pieces of a product.
    const item = { productId: `mug-${Math.floor(added[user]! / 900)}`, quantity: 1, unitPrice: price };
    await shop.carts.add(user, item, { timeout });
    added[user]!++;
  });
});
const editor = repeat(async () => {
  const { etag } = await shop.products.update(product, { title: String(versions.length + 1) }, { timeout });
  versions.push(parseInt(etag, 16));
});
const reader = repeat(async () => {
  try {
    await shop.products.get(`${prefix}nothing`, { timeout });
  } catch (error) {
    if (!(error instanceof NotFound)) throw error;
  }
});

await lines.next();
isOver = true;
await Promise.all([...customers, editor, reader]);
await shop.products.create(`${prefix}end`, { title: "end", price }, { timeout });
await watched;
shop.close();
const { retries } = shop.counters;
console.log(JSON.stringify({ added, versions, told, missed, errors, retries, slowest: slowest / 1000 }));
// The test keeps its end open, which would keep this process.
process.stdin.destroy();
