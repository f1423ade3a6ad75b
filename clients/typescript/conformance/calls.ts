/** The calls of the conformance suite, each with the library's own. */
import type { CallInfo, CacheSidecar, Cart, CartEvent, NewItem, Options, ProductEvent, InventoryEvent } from "../src/index.js";
import { connect } from "../src/index.js";
import {
  GetPolicyResponseSchema,
  GetStatsResponseSchema,
  InspectKeyResponseSchema,
  UpdatePolicyResponseSchema,
} from "../src/stubs.js";
import type { CartEdit } from "../src/index.js";
import { plain, plainMessage, typed, type Fields, type Json } from "./values.js";

/** What a step says beyond its arguments. */
export interface StepOptions {
  timeout?: number;
  fallback?: Fields;
  limit?: number;
  first_list?: number;
}

// Arguments are what the suite says, right or wrong: the sidecar is to judge them.
type Arguments = any;
type Call = (shop: CacheSidecar, args: Arguments, options: Arguments, step: StepOptions) => Promise<unknown>;

async function all<T>(elements: AsyncIterable<T>, limit = 1000): Promise<{ items: T[] }> {
  const items: T[] = [];
  if (limit === 0) return { items };
  for await (const element of elements) if (items.push(element) === limit) break;
  return { items };
}

const withoutCache = <T extends object>(name: string, found: T) => {
  const { cache, ...rest } = found as T & { cache?: unknown };
  return { [name]: rest, cache };
};

const cart = (found: Cart | undefined) => {
  if (found === undefined) return {};
  const { cataloguePrices, ...rest } = found;
  return { ...withoutCache("cart", rest), cataloguePrices };
};
const reservation = (found: unknown) => ({ reservation: found });

function edits(changes: Arguments[]): (edit: CartEdit) => void {
  return (edit) => {
    for (const { addItem, setItemQuantity, removeItem } of changes) {
      if (addItem) edit.add(addItem.productId, addItem.quantity, addItem.unitPrice, addItem.options);
      if (setItemQuantity) edit.setQuantity(setItemQuantity.productId, setItemQuantity.quantity ?? 0, setItemQuantity.options);
      if (removeItem) edit.remove(removeItem.productId, removeItem.options);
    }
  };
}

/** Their names are those of the protos: elsewhere, `options` are the shop's own. */
function read({ max_age: maxAge, bypass }: Arguments = {}, options: Arguments) {
  return { ...options, ...(maxAge === undefined ? {} : { maxAge }), ...(bypass === undefined ? {} : { bypass }) };
}

async function batch(name: string, found: Promise<Arguments>) {
  const reply = await found;
  const elements = reply[name] as { cache: unknown }[];
  const caches = name === "products" ? "productCaches" : "inventoryCaches";
  const bare = elements.map((element) => ({ ...element, cache: undefined }));
  return { [name]: bare, missing: reply.missing, [caches]: elements.map(({ cache }) => cache), cache: reply.cache };
}

async function joined(options: Options, ids: string[]) {
  // A client of its own, so that the calls of nobody else are counted.
  const calls: CallInfo[] = [];
  const shop = connect({ ...options, hooks: { onCall: (info) => calls.push(info) } });
  try {
    const results = await Promise.allSettled(ids.map((id) => shop.products.get(id)));
    return { results, calls: calls.length };
  } finally {
    shop.close();
  }
}

async function modify(shop: CacheSidecar, { productId, append, interfere }: Arguments, options: Arguments) {
  let attempts = 0;
  const product = await shop.products.modify(
    productId,
    async ({ title }) => {
      if (++attempts === 1 && interfere !== undefined) await shop.products.update(productId, { title: title + interfere });
      return { title: title + append };
    },
    options,
  );
  return { product, attempts };
}

async function getWithFallback(shop: CacheSidecar, args: Arguments, options: Arguments, { fallback }: StepOptions) {
  const load = () => {
    if (fallback?.["error"] !== undefined) throw new LoaderError(String(fallback["error"]));
    return typed(fallback as Json) as { productId: string };
  };
  const found = await shop.products.get(args.productId, { ...read(args.options, options), ...(fallback && { fallback: load }) });
  return { ...withoutCache("product", found), fallback: found.cache?.source === "fallback" };
}

export class LoaderError extends Error {}

export const CALLS: Record<string, Call> = {
  "products.get": getWithFallback,
  "products.batch_get": (shop, a, o) => batch("products", shop.products.getMany(a.productIds, read(a.options, o))),
  "products.list": (shop, { options, ...query }, o, { limit }) => all(shop.products.list({ ...query, ...read(options, o) }), limit),
  "products.get_categories": (shop, { options }, o) => shop.products.categories(read(options, o)),
  "products.create": async (shop, { product: { productId = "", ...fields } }, o) => ({
    product: await shop.products.create(productId, fields, o),
  }),
  "products.update": async (shop, { product: { productId = "", ...fields }, etag = "", updateMask }, o) => ({
    product: await shop.products.update(productId, fields, { ...o, etag, ...(updateMask && { mask: updateMask }) }),
  }),
  "products.delete": async (shop, { productId, etag = "" }, o) => (await shop.products.delete(productId, { ...o, etag }), {}),
  "products.modify": modify,
  "sessions.create": (shop, a, o) => shop.sessions.create(a, o),
  "sessions.get": async (shop, a, o) => withoutCache("session", await shop.sessions.get(a.sessionId, o)),
  "sessions.touch": async (shop, a, o) => ({ expireTime: await shop.sessions.touch(a.sessionId, o) }),
  "sessions.update": async (shop, { session: { sessionId, etag = "", ...fields }, updateMask }, o) => ({
    session: await shop.sessions.update(sessionId, fields, { ...o, etag, ...(updateMask && { mask: updateMask }) }),
  }),
  "sessions.delete": (shop, a, o) => shop.sessions.delete(a.sessionId, o),
  "sessions.rotate": (shop, a, o) => shop.sessions.rotate(a.sessionId, o),
  "sessions.list": (shop, a, o, { limit }) => all(shop.sessions.list(a.userId, { ...a, ...o }), limit),
  "sessions.delete_all": async (shop, a, o) => ({ deleted: await shop.sessions.deleteAll(a.userId, o) }),
  "carts.get": async (shop, a, o) => cart(await shop.carts.get(a.userId, read(a.options, o))),
  "carts.replace": async (shop, { cart: { userId, items = [], etag = "" } }, o) =>
    cart(await shop.carts.replace(userId, items as NewItem[], { ...o, etag })),
  "carts.add": async (shop, a, o) => cart(await shop.carts.add(a.userId, a.item, o)),
  "carts.set_quantity": async (shop, a, o) =>
    cart(await shop.carts.setQuantity(a.userId, a.productId, a.quantity ?? 0, { ...o, options: a.options })),
  "carts.remove": async (shop, a, o) => cart(await shop.carts.remove(a.userId, a.productId, { ...o, options: a.options })),
  "carts.clear": async (shop, a, o) => cart(await shop.carts.clear(a.userId, o)),
  "carts.merge": async (shop, a, o) => cart(await shop.carts.merge(a.userId, a.guestUserId, o)),
  "carts.apply": async (shop, a, o) => cart(await shop.carts.edit(a.userId, edits(a.changes ?? []), o)),
  "carts.edit": async (shop, a, o) => cart(await shop.carts.edit(a.userId, edits(a.changes ?? []), o)),
  "carts.list_abandoned": (shop, a, o, { limit }) => all(shop.carts.listAbandoned(a.idleFor, { ...a, ...o }), limit),
  "inventory.get": async (shop, a, o) => withoutCache("inventory", await shop.inventory.get(a.productId, read(a.options, o))),
  "inventory.batch_get": (shop, a, o) => batch("inventories", shop.inventory.getMany(a.productIds, read(a.options, o))),
  "inventory.set": async (shop, a, o) => ({ inventory: await shop.inventory.set(a.productId, a.available ?? 0, { ...a, ...o }) }),
  "inventory.adjust": async (shop, a, o) => ({
    inventory: await shop.inventory.adjust(a.productId, a.delta ?? 0, a.reason ?? "", o),
  }),
  "inventory.reserve": async (shop, a, o) =>
    reservation(await shop.inventory.reserve(a.userId ?? "", a.items ?? [], { ...o, ...hold(a) })),
  "inventory.extend": async (shop, a, o) => reservation(await shop.inventory.extend(a.reservationId, { ...o, ...hold(a) })),
  "inventory.commit": async (shop, a, o) => reservation(await shop.inventory.commit(a.reservationId, o)),
  "inventory.release": async (shop, a, o) => reservation(await shop.inventory.release(a.reservationId, o)),
  "inventory.get_reservation": async (shop, a, o) => reservation(await shop.inventory.getReservation(a.reservationId, o)),
  "inventory.list_reservations": (shop, a, o, { limit }) => all(shop.inventory.listReservations({ ...a, ...o }), limit),
  "recommendations.get": (shop, { options, ...query }, o) => shop.recommendations.get(query, read(options, o)),
  "recommendations.import": (shop, a, o, { first_list: first = 0 }) =>
    shop.recommendations.import(a.batchId, a.lists ?? [], { ...o, commit: a.commit ?? false, firstList: BigInt(first) }),
  "recommendations.delete": async (shop, a, o) => ({ deletedCount: await shop.recommendations.delete(a, o) }),
  "events.write": (shop, a, o) => shop.events.write(a.events ?? [], o),
  "events.stream": async (shop, a, o) => ({ replies: (await all(shop.events.stream(a.batches, o))).items }),
  "events.purge": async (shop, a, o) => ({ purgedCount: await shop.events.purge(a.userId, o) }),
  "admin.invalidate": async (shop, { dataset = "", ...what }, o) => ({ invalidated: await shop.admin.invalidate(dataset, what, o) }),
  ready: async (shop, _a, o) => (await shop.ready(o), {}),
};

const hold = ({ holdDuration }: Arguments) => (holdDuration === undefined ? {} : { holdFor: holdDuration });

/** Calls whose replies are messages of the protos. */
export const ADMIN: Record<string, (shop: CacheSidecar, args: Fields, options: Arguments) => Promise<Json>> = {
  "admin.get_stats": async (shop, a, o) =>
    plainMessage(GetStatsResponseSchema, await shop.admin.getStats(String(a["dataset"] ?? ""), o)),
  "admin.inspect_key": async (shop, a, o) =>
    plainMessage(InspectKeyResponseSchema, await shop.admin.inspectKey(String(a["dataset"] ?? ""), String(a["id"] ?? ""), o)),
  "admin.get_policy": async (shop, _a, o) => plainMessage(GetPolicyResponseSchema, await shop.admin.getPolicy(o)),
  "admin.update_policy": async (shop, a, o) => {
    const masks = { updateMask: a["update_mask"] as string[] | undefined, resetMask: a["reset_mask"] as string[] | undefined };
    const given = Object.entries(masks).filter(([, paths]) => paths !== undefined);
    const policy = typed(a["policy"] as Json) as Arguments;
    for (const [name, value] of Object.entries(policy as Fields))
      // Durations are seconds in the suite; nothing else of a policy is one.
      if (/(Ttl|Limit|Lifetime|Bound)$/.test(name)) policy[name] = { seconds: BigInt(Math.floor(Number(value))), nanos: Math.round((Number(value) % 1) * 1e9) };
    return plainMessage(UpdatePolicyResponseSchema, await shop.admin.updatePolicy(policy, { ...o, ...Object.fromEntries(given) }));
  },
};

export const JOINED = joined;

type AnyEvent = ProductEvent | InventoryEvent | CartEvent;

export const WATCHES: Record<string, (shop: CacheSidecar, args: Arguments, signal: AbortSignal) => AsyncIterable<AnyEvent>> = {
  "products.watch": (shop, { afterVersion }, signal) =>
    shop.products.watch({ signal, ...(afterVersion === undefined ? {} : { afterVersion: BigInt(afterVersion) }) }),
  "carts.watch": (shop, { userId }, signal) => shop.carts.watch(userId, { signal }),
  "inventory.watch": (shop, args, signal) => shop.inventory.watch(args, { signal }),
};

/** Returns an event with the fields of the reply. */
export function plainEvent(call: string, event: AnyEvent): Fields {
  if (call === "carts.watch") {
    const { cart: found, missed } = event as CartEvent;
    return { ...(plain(cart(found)) as Fields), missed };
  }
  const found = plain(event) as Fields;
  if (found["kind"] === "MISSED") found["missed"] = true;
  if (call === "inventory.watch") delete found["kind"];
  else if (["STARTED", "MISSED"].includes(String(found["kind"]))) found["kind"] = "WATCH_STARTED";
  return found;
}

