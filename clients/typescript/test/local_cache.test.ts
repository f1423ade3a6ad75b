import assert from "node:assert/strict";
import { test } from "node:test";

import { LocalCache, type LocalCacheOptions } from "../src/local_cache.js";
import type { Product } from "../src/index.js";

class World {
  now = 0;
  readonly cache: LocalCache;

  constructor(options: LocalCacheOptions = {}) {
    this.cache = new LocalCache(options, () => this.now);
    this.cache.opened();
  }

  keep(id: string, version = 1n, age = 0, stale = false): void {
    this.cache.end(this.cache.begin(id), product(id, version, age, stale));
  }
}

function product(productId: string, version: bigint, age = 0, stale = false): Product {
  const empty = { title: "", description: "", brand: "", etag: "", categories: [], imageUris: [], attributes: {}, active: true };
  const cache = { source: "l1", version, age, stale } as const;
  return { productId, ...empty, price: undefined, rank: undefined, createTime: undefined, updateTime: undefined, cache };
}

test("a product that is kept has the age of its reply and of its stay", () => {
  const world = new World({ maxAge: 5 });
  world.keep("mug", 7n, 100);
  world.now = 1_000;
  assert.deepEqual(world.cache.get("mug")?.cache, { source: "l0", version: 7n, age: 1_100, stale: false });
  assert.equal(world.cache.get("mug", 1_099), undefined);
  world.now = 4_900;
  assert.equal(world.cache.get("mug"), undefined);
});

test("a change drops it, unless it is known already", () => {
  const world = new World();
  world.keep("mug", 7n);
  world.cache.changed("mug", 7n);
  assert.ok(world.cache.get("mug"));
  world.cache.changed("mug", 8n);
  assert.equal(world.cache.get("mug"), undefined);
});

test("a reply that a change has overtaken is not kept", () => {
  const world = new World();
  const load = world.cache.begin("mug");
  world.cache.changed("mug", 8n);
  world.cache.end(load, product("mug", 7n));
  assert.equal(world.cache.get("mug"), undefined);
  const later = world.cache.begin("mug");
  world.cache.changed("mug", 8n);
  world.cache.end(later, product("mug", 8n));
  assert.ok(world.cache.get("mug"));
});

test("nor is one that an own write has overtaken, whose version is unknown", () => {
  const world = new World();
  const load = world.cache.begin("mug");
  world.cache.changed("mug");
  world.cache.end(load, product("mug", 7n));
  assert.equal(world.cache.get("mug"), undefined);
});

test("nothing is kept while the watch is broken, nor from before it was opened again", () => {
  const world = new World();
  world.keep("mug");
  const load = world.cache.begin("cup");
  world.cache.closed();
  assert.equal(world.cache.get("mug"), undefined);
  world.keep("mug");
  assert.equal(world.cache.size, 0);
  world.cache.opened();
  world.cache.end(load, product("cup", 1n));
  assert.equal(world.cache.get("cup"), undefined);
});

test("stale replies are not kept", () => {
  const world = new World();
  world.keep("mug", 1n, 0, true);
  assert.equal(world.cache.size, 0);
});

test("an older reply does not replace a newer one", () => {
  const world = new World();
  const load = world.cache.begin("mug");
  world.keep("mug", 8n);
  world.cache.end(load, product("mug", 7n));
  assert.equal(world.cache.get("mug")?.cache?.version, 8n);
});

test("the least recently used go first", () => {
  const world = new World({ entries: 2 });
  world.keep("a");
  world.keep("b");
  world.cache.get("a");
  world.keep("c");
  assert.deepEqual(["a", "b", "c"].map((id) => world.cache.get(id) !== undefined), [true, false, true]);
});
