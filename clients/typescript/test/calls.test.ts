import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { status } from "@grpc/grpc-js";

import { DeadlineExceeded, Money, NotFound, OutOfStock, Overloaded, Unavailable, type CallInfo } from "../src/index.js";
import { ChangeKind } from "../src/stubs.js";
import { Failed, Sidecar, type Answer } from "./sidecar.js";

const opened: Sidecar[] = [];
afterEach(() => opened.splice(0).forEach((sidecar) => sidecar.close()));

async function serving(...given: ConstructorParameters<typeof Sidecar>): Promise<Sidecar> {
  const sidecar = new Sidecar(...given);
  opened.push(sidecar);
  return sidecar.start();
}

const PRODUCT: Answer = ({ request }) => ({ product: { productId: request["productId"], title: "A mug" }, cache: { version: 7n } });
const BATCH: Answer = ({ request }) => {
  const ids = request["productIds"] as string[];
  const found = ids.filter((id) => id !== "none" && id !== "odd");
  return {
    products: found.map((productId) => ({ productId, title: productId })),
    productCaches: found.map(() => ({ version: 1n })),
    missing: ids.filter((id) => id === "none"),
  };
};

test("a write is repeated with its request ID while the sidecar is away", async () => {
  const sidecar = await serving({
    AddCartItem: (_, number) => (number < 8 ? new Failed(status.UNAVAILABLE) : { cart: { userId: "u" } }),
  });
  const shop = sidecar.connect();
  await shop.carts.add("u", { productId: "mug", quantity: 1, unitPrice: Money.of("1", "EUR") }, { timeout: 60_000 });
  const ids = sidecar.of("AddCartItem").map(({ request }) => request["requestId"]);
  assert.equal(ids.length, 8);
  assert.match(String(ids[0]), /^[0-9a-f-]{36}$/);
  assert.equal(new Set(ids).size, 1);
  assert.equal(shop.counters.retries, 7);
});

test("two writes have two request IDs, and a given one is used", async () => {
  const sidecar = await serving({ ClearCart: () => ({ cart: {} }) });
  const shop = sidecar.connect();
  await shop.carts.clear("u");
  await shop.carts.clear("u");
  await shop.carts.clear("u", { requestId: "6f1e3b4c-58a1-4b6e-9d0f-7f3f4f1e2d3c" });
  const [first, second, third] = sidecar.of("ClearCart").map(({ request }) => request["requestId"]);
  assert.notEqual(first, second);
  assert.equal(third, "6f1e3b4c-58a1-4b6e-9d0f-7f3f4f1e2d3c");
});

test("a sidecar that is overloaded is asked again twice, if it says when", async () => {
  const sidecar = await serving({
    GetProduct: () => new Failed(status.RESOURCE_EXHAUSTED, "OVERLOADED", {}, 1),
    ClearCart: () => new Failed(status.RESOURCE_EXHAUSTED),
  });
  const shop = sidecar.connect();
  await assert.rejects(shop.products.get("mug", { timeout: 60_000 }), Overloaded);
  await assert.rejects(shop.carts.clear("u", { timeout: 60_000 }), Overloaded);
  assert.deepEqual([sidecar.of("GetProduct").length, sidecar.of("ClearCart").length], [3, 1]);
});

test("no retry begins after the deadline, and the error is the last one", async () => {
  const sidecar = await serving({ GetProduct: () => new Failed(status.UNAVAILABLE, "TIER_UNAVAILABLE", { tier: "PostgreSQL" }, 60_000) });
  await assert.rejects(sidecar.connect().products.get("mug"), (error) => error instanceof Unavailable && error.tier === "PostgreSQL");
  assert.equal(sidecar.calls.length, 1);
});

test("errors have a type by reason, and their details", async () => {
  const sidecar = await serving({
    GetProduct: () => new Failed(status.NOT_FOUND, "NOT_FOUND", { resource: "product", id: "mug" }),
    ReplaceCart: () => new Failed(status.FAILED_PRECONDITION, "OUT_OF_STOCK", { product_id: "mug", available: "3" }),
    ClearCart: () => new Failed(status.ABORTED, "SOMETHING_NEW"),
  });
  const shop = sidecar.connect();
  await assert.rejects(shop.products.get("mug"), (error) => error instanceof NotFound && error.resource === "product" && error.id === "mug");
  await assert.rejects(shop.carts.replace("u", []), (error) => error instanceof OutOfStock && error.productId === "mug" && error.available === 3);
  await assert.rejects(shop.carts.clear("u"), { name: "SidecarError", code: "ABORTED", reason: "SOMETHING_NEW" });
});

test("the stack of an error names its caller, and no other error loses its stack", async () => {
  const sidecar = await serving({ GetProduct: () => new Failed(status.NOT_FOUND) });
  const limit = Error.stackTraceLimit;
  const shop = sidecar.connect({ joinGets: false });
  async function page(): Promise<void> {
    await shop.products.get("mug");
  }
  await assert.rejects(page(), ({ stack }: Error) => /at async page/.test(stack ?? ""));
  assert.equal(Error.stackTraceLimit, limit);
});

test("every call has a deadline: two seconds for a read, five for a write, or as the caller says", async () => {
  const sidecar = await serving({ GetProduct: PRODUCT, ClearCart: () => ({ cart: {} }) });
  const shop = sidecar.connect();
  const began = Date.now();
  await shop.products.get("mug");
  await shop.carts.clear("u");
  await shop.carts.clear("u", { timeout: 100_000 });
  // The server reckons with what is left: less than was given, and more than the call can have taken.
  const ended = Date.now();
  for (const [index, timeout] of [2_000, 5_000, 100_000].entries()) {
    const { deadline } = sidecar.calls[index] as { deadline: number };
    assert.ok(deadline <= ended + timeout + 50 && deadline >= began + timeout - 50, `${deadline - began}`);
  }
});

test("a signal ends a call with its own reason, also one that waits with others", async () => {
  let answer: (() => void) | undefined;
  const sidecar = await serving({ BatchGetProducts: (call) => new Promise((resolve) => (answer = () => resolve(BATCH(call, 1)))) });
  const shop = sidecar.connect();
  const controller = new AbortController();
  const [aborted, other] = [shop.products.get("a", { signal: controller.signal }), shop.products.get("b", { timeout: 60_000 })];
  const stays = shop.products.get("a", { timeout: 60_000 });
  controller.abort(new Error("the user has left"));
  await assert.rejects(aborted, /the user has left/);
  while (answer === undefined) await new Promise(setImmediate);
  answer();
  assert.equal((await other).title, "b");
  assert.equal((await stays).title, "a");
});

test("the gets of one turn are one batch, and each has its own result", async () => {
  const sidecar = await serving({ BatchGetProducts: BATCH, GetProduct: () => new Failed(status.DATA_LOSS, "UNREADABLE_ROW") });
  const shop = sidecar.connect();
  const found = await Promise.allSettled(["a", "b", "none", "a", "odd"].map((id) => shop.products.get(id)));
  assert.deepEqual(found.map((result) => (result.status === "fulfilled" ? result.value.title : (result.reason as Error).name)), ["a", "b", "NotFound", "a", "UnreadableRow"]);
  assert.deepEqual(sidecar.of("BatchGetProducts").map(({ request }) => request["productIds"]), [["a", "b", "none", "odd"]]);
});

test("gets with other options are other batches, and a get alone is none", async () => {
  const sidecar = await serving({ BatchGetProducts: BATCH, GetProduct: PRODUCT });
  const shop = sidecar.connect();
  await Promise.all([shop.products.get("a"), shop.products.get("b"), shop.products.get("c", { maxAge: 1 })]);
  assert.deepEqual(sidecar.calls.map(({ method }) => method).sort(), ["BatchGetProducts", "GetProduct"]);
});

test("a batch that is too large is halved", async () => {
  const sidecar = await serving({
    GetProduct: PRODUCT,
    BatchGetProducts: (call, number) => ((call.request["productIds"] as []).length > 2 ? new Failed(status.FAILED_PRECONDITION, "REPLY_TOO_LARGE") : BATCH(call, number)),
  });
  const shop = sidecar.connect();
  const found = await Promise.all(["a", "b", "c", "d"].map((id) => shop.products.get(id)));
  assert.deepEqual(found.map(({ productId }) => productId), ["a", "b", "c", "d"]);
});

test("a fallback is used at once while the sidecar is away, is counted, logged once, and bounded", async () => {
  const sidecar = await serving({ GetProduct: PRODUCT });
  const lines: string[] = [];
  const shop = sidecar.connect({ maxFallbacks: 1, log: (line) => lines.push(line) });
  const fallback = () => ({ productId: "mug", title: "from elsewhere" });
  assert.equal((await shop.products.get("mug", { fallback })).title, "A mug");
  sidecar.kill();
  for (let count = 0; count < 3; count++) {
    const found = await shop.products.get("mug", { fallback, timeout: 60_000 });
    assert.deepEqual([found.title, found.cache?.source, found.cache?.stale], ["from elsewhere", "fallback", true]);
  }
  let release!: (product: { productId: string }) => void;
  const slow = shop.products.get("mug", { fallback: () => new Promise((resolve) => (release = resolve)) });
  while (release === undefined) await new Promise(setImmediate);
  await assert.rejects(shop.products.get("mug", { fallback }), Unavailable);
  release({ productId: "mug" });
  await slow;
  assert.deepEqual([shop.counters.fallbacks, shop.counters.refusedFallbacks, lines.length], [4, 1, 1]);
});

test("an error that the sidecar answers is no reason for a fallback", async () => {
  const sidecar = await serving({ GetProduct: () => new Failed(status.NOT_FOUND, "NOT_FOUND") });
  const fallback = () => ({ productId: "mug" });
  await assert.rejects(sidecar.connect().products.get("mug", { fallback }), NotFound);
});

test("a sidecar that is not there is named when the deadline has passed", async () => {
  const sidecar = await serving({});
  const shop = sidecar.connect();
  sidecar.kill();
  await assert.rejects(shop.carts.get("u", { timeout: 200 }), (error) => {
    assert.ok(error instanceof DeadlineExceeded);
    assert.match(error.message, /no cache sidecar answers at 127\.0\.0\.1:/);
    return true;
  });
  await assert.rejects(shop.ready({ timeout: 200 }), Unavailable);
});

test("modify begins again when somebody else was faster", async () => {
  const sidecar = await serving({
    GetProduct: (_, number) => ({ product: { productId: "mug", title: `${number}`, etag: `e${number}` } }),
    UpdateProduct: ({ request }, number) => (number < 3 ? new Failed(status.ABORTED, "ETAG_MISMATCH") : { product: request["product"] }),
  });
  const shop = sidecar.connect();
  const product = await shop.products.modify("mug", ({ title }) => ({ title: `${title}!` }));
  assert.deepEqual([product.title, product.etag], ["3!", "e3"]);
  assert.deepEqual(sidecar.of("GetProduct").map(({ request }) => (request["options"] as { bypass?: boolean } | undefined)?.bypass), [false, true, true]);
});

test("an edit of a cart is one call, and an edit without changes none", async () => {
  const sidecar = await serving({ ApplyCartChanges: () => ({ cart: { userId: "u" } }) });
  const shop = sidecar.connect();
  await shop.carts.edit("u", (cart) => cart.add("mug", 2, Money.of("9.99", "EUR")).setQuantity("cup", 3).remove("pot", { size: "L" }));
  assert.equal(await shop.carts.edit("u", () => undefined), undefined);
  assert.equal(sidecar.calls.length, 1);
  const changes = (sidecar.calls[0]?.request as unknown as { changes: { change: { case: string } }[] }).changes;
  assert.deepEqual(changes.map(({ change }) => change.case), ["addItem", "setItemQuantity", "removeItem"]);
});

test("hooks see each call, and add headers", async () => {
  const sidecar = await serving({ GetProduct: PRODUCT });
  const seen: CallInfo[] = [];
  const hooks = { headers: () => ({ traceparent: "00-1" }), onCall: (info: CallInfo) => seen.push(info) };
  await sidecar.connect({ token: "secret", hooks }).products.get("mug");
  assert.deepEqual(seen.map(({ method, attempts, code }) => [method, attempts, code]), [["ProductService/GetProduct", 1, "OK"]]);
  const headers = sidecar.calls[0]?.headers;
  assert.deepEqual([headers?.get("traceparent"), headers?.get("authorization")], [["00-1"], ["Bearer secret"]]);
});

test("a hook that fails does not fail the call, and is logged once", async () => {
  const sidecar = await serving({ GetProduct: PRODUCT });
  const lines: string[] = [];
  const onCall = () => {
    throw Object.assign(new Error("no label"), { code: status.UNAVAILABLE });
  };
  const shop = sidecar.connect({ hooks: { onCall }, log: (line: string) => lines.push(line) });
  assert.equal((await shop.products.get("mug")).title, "A mug");
  assert.equal((await shop.products.get("cup")).title, "A mug");
  assert.equal(sidecar.calls.length, 2);
  assert.equal(lines.length, 1);
  assert.match(lines[0] ?? "", /no label/);
});

const started = (version: bigint) => ({ kind: ChangeKind.WATCH_STARTED, version });
const updated = (version: bigint) => ({ kind: ChangeKind.UPDATED, version, productId: "mug" });

test("a watch resumes after the last version, and says nothing of it", async () => {
  const sidecar = await serving({}, {
    WatchProducts: async function* (_, number) {
      if (number === 2) throw new Failed(status.UNAVAILABLE, "DRAINING");
      yield started(number === 1 ? 10n : 11n);
      yield updated(number === 1 ? 11n : 12n);
    },
  });
  const seen: [string, bigint][] = [];
  for await (const { kind, version } of sidecar.connect().products.watch()) if (seen.push([kind, version]) === 3) break;
  assert.deepEqual(seen, [["started", 10n], ["updated", 11n], ["updated", 12n]]);
  assert.deepEqual(sidecar.of("WatchProducts").map(({ request }) => request["afterVersion"]), [0n, 11n, 11n]);
});

test("a watch that cannot resume says that changes may have been missed, and goes on", async () => {
  const sidecar = await serving({}, {
    WatchProducts: async function* (_, number) {
      if (number === 2) throw new Failed(status.OUT_OF_RANGE, "CHANGES_EXPIRED");
      yield started(number === 1 ? 10n : 90n);
    },
  });
  const seen: string[] = [];
  for await (const { kind } of sidecar.connect().products.watch()) if (seen.push(kind) === 2) break;
  assert.deepEqual(seen, ["started", "missed"]);
  assert.deepEqual(sidecar.of("WatchProducts").map(({ request }) => request["afterVersion"]), [0n, 10n, 0n]);
});

test("a watch that is to resume after a version that is no longer retained begins with `missed`", async () => {
  const sidecar = await serving({}, {
    WatchProducts: async function* (_, number) {
      if (number === 1) throw new Failed(status.OUT_OF_RANGE, "CHANGES_EXPIRED");
      yield started(90n);
    },
  });
  const { value } = await sidecar.connect().products.watch({ afterVersion: 5n }).next();
  assert.deepEqual([value?.kind, value?.version], ["missed", 90n]);
});

test("a watch that never began throws what is wrong, and one that is aborted the reason", async () => {
  const sidecar = await serving({}, {
    WatchProducts: async function* (_, number) {
      if (number === 1) throw new Failed(status.PERMISSION_DENIED, "ROLE_MISSING");
      yield started(1n);
      await new Promise(() => undefined);
    },
  });
  const shop = sidecar.connect();
  await assert.rejects(shop.products.watch({ afterVersion: 5n }).next(), { name: "PermissionDenied" });
  const controller = new AbortController();
  const events = shop.products.watch({ signal: controller.signal });
  await events.next();
  const pending = events.next();
  controller.abort(new Error("enough"));
  await assert.rejects(pending, /enough/);
});

test("a watch of a cart says when it has begun again", async () => {
  const state = (version: bigint) => ({ cart: { userId: "u" }, cache: { version } });
  const sidecar = await serving({}, {
    WatchCart: async function* (_, number) {
      yield state(1n);
      if (number === 2) yield state(2n);
    },
  });
  const seen: [bigint | undefined, boolean][] = [];
  for await (const { cart, missed } of sidecar.connect().carts.watch("u")) if (seen.push([cart.cache?.version, missed]) === 3) break;
  assert.deepEqual(seen, [[1n, false], [1n, true], [2n, false]]);
});

test("the local cache answers what was read, until a change of it arrives", async () => {
  let change!: () => void;
  const changed = new Promise<void>((resolve) => (change = resolve));
  const sidecar = await serving({ GetProduct: (_, number) => ({ product: { productId: "mug", title: `${number}` }, cache: { version: BigInt(number) } }) }, {
    WatchProducts: async function* () {
      yield started(0n);
      await changed;
      yield { kind: ChangeKind.UPDATED, productId: "mug", version: 9n };
      await new Promise(() => undefined);
    },
  });
  const shop = sidecar.connect({ localCache: { maxAge: 3600 } });
  while ((await shop.products.get("mug")).cache?.source !== "l0");
  const held = (await shop.products.get("mug")).title;
  assert.equal((await shop.products.get("mug")).title, held);
  change();
  // A hit does not leave the event loop's turn: without a break, the change would never arrive.
  while ((await shop.products.get("mug")).title === held) await new Promise(setImmediate);
});

test("a closed client ends its calls and watches at once, and refuses others", async () => {
  const never = () => new Promise<never>(() => undefined);
  const sidecar = await serving({ GetProduct: never, BatchGetProducts: never, GetCart: () => new Failed(status.UNAVAILABLE, "", {}, 30_000), StreamUserEvents: never }, {
    WatchProducts: async function* () {
      yield started(1n);
      await never();
    },
  });
  const shop = sidecar.connect();
  const events = shop.products.watch();
  await events.next();
  const calls = [
    events.next(),
    shop.products.get("mug", { timeout: 60_000, maxAge: 1 }),
    shop.products.get("a", { timeout: 60_000 }),
    shop.products.get("b", { timeout: 60_000 }),
    shop.carts.get("ada", { timeout: 60_000 }),
    shop.events.stream([[{ eventType: "homePageView", userId: "ada" }]], { timeout: Infinity }).next(),
  ];
  while (sidecar.calls.length < 5) await new Promise(setImmediate);
  shop.close();
  // Nothing that the client waits for from elsewhere: a matter of turns, whatever their time.
  const later = async () => {
    for (let turn = 0; turn < 100; turn++) await new Promise(setImmediate);
    return "still under way";
  };
  await Promise.all(calls.map((call) => assert.rejects(Promise.race([call, later()]), /the client is closed/)));
  await assert.rejects(shop.products.get("mug"), /the client is closed/);
});

test("a watch that nobody has any more is ended", { timeout: 120_000 }, async () => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const sidecar = await serving({}, {
    WatchProducts: async function* () {
      yield started(1n);
      await new Promise(() => undefined);
    },
  });
  const shop = sidecar.connect();
  const kept = shop.products.watch();
  await kept.next();
  const left = async () => void (await shop.products.watch().next());
  for (let number = 0; number < 20; number++) await left();
  while (sidecar.cancelled < 20) {
    collect();
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  const pending = kept.next();
  shop.close();
  await assert.rejects(pending, /the client is closed/);
});

test("a stream of events waits for its replies as long as the caller says, and that may be for ever", async () => {
  const sidecar = await serving({
    StreamUserEvents: async (_, number) => {
      await new Promise((resolve) => setTimeout(resolve, 50));
      return { eventIds: [`${number}`] };
    },
  });
  const batch = [{ eventType: "homePageView", userId: "ada" }] as const;
  for (const timeout of [Infinity, 2 ** 40]) {
    const written = [];
    for await (const { eventIds } of sidecar.connect().events.stream([batch, batch], { timeout })) written.push(...eventIds);
    assert.equal(written.length, 2);
  }
  assert.equal(sidecar.of("StreamUserEvents").length, 4);
});
