/**
 * Products in the client's own process (L0), kept right by the sidecar's watch.
 *
 * What a read returns: content that matched PostgreSQL less than `maxAge` ago, and of which no change has arrived since. While the watch is broken, nothing is kept.
 *
 * The race that matters: a read is on its way when its product changes, and the change arrives before the reply. The reply is
 * then older than the change, and must not be kept. So every read notes the changes that arrive meanwhile, and versions decide.
 */
import type { Product } from "./model.js";

export interface LocalCacheOptions {
  /** The most products to keep; those that were used least recently go first. 10,000 by default. */
  entries?: number;
  /** The maximum age of a product in seconds, even if nothing is known to have changed. 5 by default. */
  maxAge?: number;
}

interface Entry {
  product: Product;
  /** When it was received, by `performance.now()`. */
  received: number;
}

/** A read on its way. */
export interface Load {
  readonly id: string;
  /** The newest version that the watch has told since the read began. */
  changed: bigint;
  /** The watch that was open when it began. */
  readonly watch: number;
}

export class LocalCache {
  readonly #entries = new Map<string, Entry>();
  readonly #loads = new Map<string, Set<Load>>();
  readonly #maxEntries: number;
  readonly #maxAge: number;
  /** Counts the times at which the watch began; odd numbers while it is open. */
  #watch = 0;

  constructor(
    options: LocalCacheOptions,
    private readonly now: () => number = () => performance.now(),
  ) {
    this.#maxEntries = options.entries ?? 10_000;
    this.#maxAge = (options.maxAge ?? 5) * 1000;
  }

  get size(): number {
    return this.#entries.size;
  }

  get isOpen(): boolean {
    return this.#watch % 2 === 1;
  }

  /** Returns a product that is kept and not older than `maxAge` milliseconds, with its age now. */
  get(id: string, maxAge = Infinity): Product | undefined {
    const entry = this.#entries.get(id);
    if (entry === undefined) return undefined;
    const cache = entry.product.cache as NonNullable<Product["cache"]>;
    const age = cache.age + this.now() - entry.received;
    if (age >= this.#maxAge) {
      this.#entries.delete(id);
      return undefined;
    }
    if (age > maxAge) return undefined;
    // The order of a Map is that of insertion: the first one is the least recently used.
    this.#entries.delete(id);
    this.#entries.set(id, entry);
    return { ...entry.product, cache: { source: "l0", version: cache.version, age, stale: false } };
  }

  /** To be called before a read is sent. */
  begin(id: string): Load {
    const load: Load = { id, changed: 0n, watch: this.#watch };
    const loads = this.#loads.get(id);
    if (loads === undefined) this.#loads.set(id, new Set([load]));
    else loads.add(load);
    return load;
  }

  /** Ends a read, and keeps what it has found unless it may be outdated. */
  end(load: Load, product: Product | undefined): void {
    const loads = this.#loads.get(load.id);
    loads?.delete(load);
    if (loads?.size === 0) this.#loads.delete(load.id);
    const cache = product?.cache;
    if (product === undefined || cache === undefined || cache.stale || cache.source === "fallback") return;
    if (!this.isOpen || load.watch !== this.#watch || cache.version < load.changed) return;
    const held = this.#entries.get(load.id)?.product.cache;
    if (held !== undefined && held.version > cache.version) return;
    this.#entries.delete(load.id);
    this.#entries.set(load.id, { product, received: this.now() });
    if (this.#entries.size > this.#maxEntries) this.#entries.delete(this.#entries.keys().next().value as string);
  }

  /** A change of a product, or the caller's own write, of which `version` may be unknown. */
  changed(id: string, version?: bigint): void {
    const held = this.#entries.get(id)?.product.cache;
    if (held !== undefined && (version === undefined || held.version < version)) this.#entries.delete(id);
    for (const load of this.#loads.get(id) ?? []) {
      // Of an own write only its end is known: whatever is on its way may be from before.
      const least = version ?? 2n ** 63n;
      if (load.changed < least) load.changed = least;
    }
  }

  /** The watch is open: from now on every change arrives. */
  opened(): void {
    if (!this.isOpen) this.#watch++;
  }

  /** Changes may be missed from now on. */
  closed(): void {
    if (this.isOpen) this.#watch++;
    this.#entries.clear();
  }
}
