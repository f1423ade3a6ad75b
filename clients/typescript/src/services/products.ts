import { ChangeKind, ProductOrder as OrderOfProducts, ProductService } from "../gen/cache_sidecar/v1/product_service_pb.js";
import { ChangesExpired, EtagMismatch, NotFound, type SidecarError } from "../errors.js";
import { JoinedGets, type Lookup } from "../joined_gets.js";
import { LocalCache } from "../local_cache.js";
import {
  categoryOf,
  dateOf,
  FALLBACK,
  freshnessOf,
  productOf,
  readOptionsMessage,
  type Category,
  type Freshness,
  type Product,
  type ProductFields,
  type ReadOptions,
} from "../model.js";
import type { Options } from "../options.js";
import { valueOf } from "./recommendations.js";
import { elements } from "../pages.js";
import { sleep, type CallOptions, type FallbackOptions, type Transport, type WriteOptions } from "../transport.js";
import { reopened, watching } from "../watch.js";
export type GetOptions = ReadOptions & FallbackOptions<LoadedProduct>;

/** What an app's own loader returns of a product. */
export type LoadedProduct = { productId: string } & Partial<Omit<Product, "productId" | "cache">>;

/** What lists are ordered by; `rank` is the shop's own order. */
export type ProductOrder = "productId" | "title" | "price" | "newest" | "rank";

export interface Products {
  readonly products: readonly Product[];
  /** The IDs of products that do not exist. */
  readonly missing: readonly string[];
  /** Of the batch as a whole. */
  readonly cache: Freshness;
}

export interface Categories {
  /** Those that are below no other one. */
  readonly categories: readonly Category[];
  readonly cache: Freshness;
}

export interface ProductEvent {
  /**
   * `started` comes first. `missed` says that changes before `version` may have been missed: what was read before has to be
   * read again. Otherwise what happened to the product.
   */
  readonly kind: "started" | "missed" | "created" | "updated" | "deleted";
  readonly productId: string;
  /** To resume after this event. */
  readonly version: bigint;
  readonly changeTime: Date | undefined;
}

const KINDS: Readonly<Record<ChangeKind, ProductEvent["kind"]>> = {
  [ChangeKind.UNSPECIFIED]: "updated",
  [ChangeKind.CREATED]: "created",
  [ChangeKind.UPDATED]: "updated",
  [ChangeKind.DELETED]: "deleted",
  [ChangeKind.WATCH_STARTED]: "started",
};
/** How often `modify` begins again; each time, somebody else was faster. */
const MAX_TRIES = 10;
const { method: methods } = ProductService;

export class ProductCalls {
  readonly #joined: JoinedGets<Product>;
  readonly #isJoining: boolean;
  readonly #local: LocalCache | undefined;

  constructor(
    private readonly transport: Transport,
    options: Options,
  ) {
    this.#joined = new JoinedGets((count) => (transport.counters.joinedGets += count));
    this.#isJoining = options.joinGets ?? true;
    if (options.localCache !== undefined) {
      this.#local = new LocalCache(options.localCache);
      void this.#feed(this.#local);
    }
  }

  /** Returns a product. Throws NotFound. */
  get(productId: string, options: GetOptions = {}): Promise<Product> {
    const local = this.#local;
    return local === undefined || options.bypass ? this.#read(productId, options) : this.#readThrough(local, productId, options);
  }

  async #readThrough(local: LocalCache, productId: string, options: GetOptions): Promise<Product> {
    const { counters } = this.transport;
    const held = local.get(productId, options.maxAge === undefined ? Infinity : options.maxAge * 1000);
    if (held !== undefined) {
      counters.localHits++;
      return held;
    }
    counters.localMisses++;
    const load = local.begin(productId);
    let product: Product | undefined;
    try {
      return (product = await this.#read(productId, options));
    } finally {
      local.end(load, product);
    }
  }

  /** Returns up to 500 products, in the order of the IDs, and the IDs of those that do not exist. */
  async getMany(productIds: readonly string[], options: ReadOptions & CallOptions = {}): Promise<Products> {
    const request = { productIds: [...productIds], ...readOptionsMessage(options) };
    const reply = await this.transport.unary(methods.batchGetProducts, request, options);
    const products = reply.products.map((product, index) => productOf(product, freshnessOf(reply.productCaches[index])));
    return { products, missing: reply.missing, cache: freshnessOf(reply.cache) };
  }

  /**
   * Yields the active products, or those of a category, by default in the order of their IDs. With `includeInactive`, all of them,
   * by ID and from PostgreSQL.
   */
  list(
    options: { category?: string; pageSize?: number; order?: ProductOrder; includeInactive?: boolean } & ReadOptions & CallOptions = {},
  ): AsyncGenerator<Product, void, undefined> {
    const { category = "", pageSize = 0, order = "productId", includeInactive = false } = options;
    const query = { category, pageSize, order: valueOf(OrderOfProducts, order), includeInactive, ...readOptionsMessage(options) };
    return elements(
      (pageToken) => this.transport.unary(methods.listProducts, { ...query, pageToken }, options),
      ({ products, cache }) => products.map((product) => productOf(product, freshnessOf(cache))),
    );
  }

  /** Returns the categories of the active products as trees, with counts. */
  async categories(options: ReadOptions & CallOptions = {}): Promise<Categories> {
    const { categories, cache } = await this.transport.unary(methods.getCategories, readOptionsMessage(options), options);
    return { categories: categories.map(categoryOf), cache: freshnessOf(cache) };
  }

  /** Creates a product. Throws AlreadyExists. */
  async create(productId: string, fields: ProductFields, options: WriteOptions = {}): Promise<Product> {
    const reply = await this.transport.unary(methods.createProduct, { product: { productId, ...messageOf(fields) } }, options);
    return this.#written(productId, reply.product);
  }

  /**
   * Changes the fields that are given, and returns the product. With `etag`, throws EtagMismatch if it has changed since.
   * With `mask`, as for UpdateProduct, a field can also be cleared: by naming it and not giving it.
   */
  async update(
    productId: string,
    fields: ProductFields,
    options: { etag?: string; mask?: readonly string[] } & WriteOptions = {},
  ): Promise<Product> {
    const paths = options.mask ?? Object.keys(fields).map((name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`));
    const product = { productId, etag: options.etag ?? "", ...messageOf(fields) };
    const reply = await this.transport.unary(methods.updateProduct, { product, updateMask: { paths: [...paths] } }, options);
    return this.#written(productId, reply.product);
  }

  /**
   * Reads a product, has `change` say what to change, and writes that; again, if somebody else was faster. Returns the product
   * as written, or as read if there is nothing to change.
   */
  async modify(
    productId: string,
    change: (product: Product) => ProductFields | undefined | Promise<ProductFields | undefined>,
    options: CallOptions = {},
  ): Promise<Product> {
    for (let tries = 1; ; tries++) {
      // From PostgreSQL: another sidecar's cache may not know yet who was faster.
      const product = await this.#read(productId, { ...options, bypass: tries > 1 });
      const fields = await change(product);
      if (fields === undefined) return product;
      try {
        return await this.update(productId, fields, { ...options, etag: product.etag });
      } catch (error) {
        if (!(error instanceof EtagMismatch) || tries === MAX_TRIES) throw error;
        await sleep(Math.random() * 5 * tries, options.signal);
      }
    }
  }

  /** Deletes a product. Throws NotFound, or with `etag` EtagMismatch. */
  async delete(productId: string, options: { etag?: string } & WriteOptions = {}): Promise<void> {
    await this.transport.unary(methods.deleteProduct, { productId, etag: options.etag ?? "" }, options);
    this.#local?.changed(productId);
  }

  /**
   * Yields every change of the catalogue, over all restarts of the sidecar, and `missed` where that could not be done. Ends
   * with the loop that reads it, with its signal, or with the client.
   */
  watch(options: { afterVersion?: bigint; signal?: AbortSignal } = {}): AsyncGenerator<ProductEvent, void, undefined> {
    return watching(this.transport.closing, options.signal, (signal) => this.#watch(options.afterVersion ?? 0n, signal));
  }

  async *#watch(afterVersion: bigint, signal: AbortSignal): AsyncGenerator<ProductEvent, void, undefined> {
    let version = afterVersion;
    let isFirst = true;
    let hasMissed = false;
    const hasExpired = (error: SidecarError) => {
      if (!(error instanceof ChangesExpired) || version === 0n) return false;
      version = 0n;
      hasMissed = true;
      return true;
    };
    const open = () => {
      // Version 0 is none to resume after: who knows what has happened since?
      hasMissed ||= !isFirst && version === 0n;
      return this.transport.serverStream(methods.watchProducts, { afterVersion: version }, signal);
    };
    for await (const message of reopened(open, signal, hasExpired)) {
      version = message.version;
      const isStart = message.kind === ChangeKind.WATCH_STARTED;
      if (isStart && !isFirst && !hasMissed) continue;
      const kind = isStart && hasMissed ? "missed" : KINDS[message.kind];
      isFirst = hasMissed = false;
      yield { kind, productId: message.productId, version, changeTime: dateOf(message.changeTime) };
    }
  }

  #read(productId: string, options: GetOptions): Promise<Product> {
    const { fallback } = options;
    if (fallback === undefined) return this.#find(productId, options, true);
    return this.transport.withFallback(
      (isWaiting) => this.#find(productId, options, isWaiting),
      async () => complete(await fallback()),
    );
  }

  /** Returns the promise of what is called: each async function in between would take time of every get. */
  #find(productId: string, options: GetOptions, isWaiting: boolean): Promise<Product> {
    if (!this.#isJoining) return this.#one(productId, options, isWaiting);
    const { signal, ...shared } = options;
    if (signal?.aborted) return Promise.reject(signal.reason as Error);
    // Callers with a signal of their own wait for the same reply; a signal ends only the wait.
    const key = `${shared.maxAge} ${shared.bypass} ${shared.timeout} ${isWaiting}`;
    const found = this.#joined.get(productId, key, () => this.#lookup(shared, isWaiting));
    return signal === undefined ? found : unlessAborted(found, signal);
  }

  #lookup(options: GetOptions, isWaiting: boolean): Lookup<Product> {
    return {
      one: (productId) => this.#one(productId, options, isWaiting),
      several: (productIds) => this.#several(productIds, options, isWaiting),
    };
  }

  async #one(productId: string, options: GetOptions, isWaiting: boolean): Promise<Product> {
    const request = { productId, ...readOptionsMessage(options) };
    const reply = await this.transport.unary(methods.getProduct, request, options, { isWaiting });
    return productOf(reply.product ?? missingField("product"), freshnessOf(reply.cache));
  }

  async #several(productIds: string[], options: GetOptions, isWaiting: boolean): Promise<Map<string, Product | SidecarError>> {
    const request = { productIds, ...readOptionsMessage(options) };
    const reply = await this.transport.unary(methods.batchGetProducts, request, options, { isWaiting });
    const found = new Map<string, Product | SidecarError>();
    reply.products.forEach((product, index) =>
      found.set(product.productId, productOf(product, freshnessOf(reply.productCaches[index]))),
    );
    for (const id of reply.missing) found.set(id, notFound(id));
    return found;
  }

  #written(productId: string, message: Parameters<typeof productOf>[0] | undefined): Product {
    this.#local?.changed(productId);
    return productOf(message ?? missingField("product"));
  }

  async #feed(local: LocalCache): Promise<void> {
    const { closing } = this.transport;
    const open = async function* (this: ProductCalls) {
      try {
        yield* this.transport.serverStream(methods.watchProducts, {}, closing);
      } finally {
        local.closed();
      }
    };
    // Each watch begins with the present: what was held before is gone.
    while (!closing.aborted) {
      try {
        for await (const { kind, productId, version } of reopened(() => open.call(this), closing)) {
          if (kind === ChangeKind.WATCH_STARTED) local.opened();
          else local.changed(productId, version);
        }
      } catch {
        // Such as a token that is not valid: the caller's own calls say so. Nothing is kept meanwhile.
        await sleep(1_000, closing).catch(() => undefined);
      }
    }
  }
}

function messageOf({ price, categories, imageUris, attributes, ...plain }: ProductFields) {
  return {
    ...plain,
    ...(price && { price: price.toMessage() }),
    ...(categories && { categories: [...categories] }),
    ...(imageUris && { imageUris: [...imageUris] }),
    ...(attributes && { attributes: { ...attributes } }),
  };
}

/** Returns a product with the fields that a loader has left out. */
function complete(loaded: LoadedProduct): Product {
  return {
    title: "",
    description: "",
    price: undefined,
    categories: [],
    brand: "",
    imageUris: [],
    attributes: {},
    active: true,
    rank: undefined,
    etag: "",
    createTime: undefined,
    updateTime: undefined,
    ...loaded,
    cache: FALLBACK,
  };
}

function notFound(id: string): NotFound {
  return new NotFound({
    message: `there is no product '${id}'`,
    code: "NOT_FOUND",
    reason: "NOT_FOUND",
    metadata: { resource: "product", id },
    violations: [],
    retryAfter: undefined,
    cart: undefined,
    call: "ProductService/BatchGetProducts",
  });
}

export function missingField(name: string): never {
  throw new Error(`the reply lacks the field ${name}: this is a defect of the sidecar`);
}

function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason as Error);
    signal.addEventListener("abort", stop, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}
