/** What calls return: plain data with the language's own types. */
import { durationFromMs, durationMs, timestampDate, type Timestamp } from "@bufbuild/protobuf/wkt";

import { Source, type CacheMetadata } from "./gen/cache_sidecar/v1/cache_pb.js";
import type {
  Cart as CartMessage,
  CartItem as CartItemMessage,
  CataloguePrice as PriceMessage,
} from "./gen/cache_sidecar/v1/cart_pb.js";
import type { Inventory as InventoryMessage, Reservation as ReservationMessage } from "./gen/cache_sidecar/v1/inventory_pb.js";
import { ReservationState as StateOfReservation } from "./gen/cache_sidecar/v1/inventory_pb.js";
import type { Product as ProductMessage } from "./gen/cache_sidecar/v1/product_pb.js";
import type { Category as CategoryMessage } from "./gen/cache_sidecar/v1/product_service_pb.js";
import type { Session as SessionMessage } from "./gen/cache_sidecar/v1/session_pb.js";
import { Money } from "./money.js";

/** The origin and the age of what was read. */
export interface Freshness {
  /** The sidecar's memory, Redis, PostgreSQL; or the client itself: its own cache, or the app's fallback. */
  readonly source: "l1" | "l2" | "store" | "l0" | "fallback" | "";
  /** The version of the resource; grows with every change. */
  readonly version: bigint;
  /** Milliseconds since the content was last known to match PostgreSQL: an upper bound. */
  readonly age: number;
  /** True if it may be older than the policy allows. */
  readonly stale: boolean;
}

const SOURCES: Readonly<Record<Source, Freshness["source"]>> = {
  [Source.UNSPECIFIED]: "",
  [Source.L1]: "l1",
  [Source.L2]: "l2",
  [Source.STORE]: "store",
};

export const FALLBACK: Freshness = { source: "fallback", version: 0n, age: 0, stale: true };

export function freshnessOf(message: CacheMetadata | undefined): Freshness {
  if (message === undefined) return { source: "", version: 0n, age: 0, stale: false };
  const age = message.age === undefined ? 0 : durationMs(message.age);
  return { source: SOURCES[message.source] ?? "", version: message.version, age, stale: message.stale };
}

export interface Product {
  readonly productId: string;
  readonly title: string;
  readonly description: string;
  readonly price: Money | undefined;
  readonly categories: readonly string[];
  readonly brand: string;
  readonly imageUris: readonly string[];
  readonly attributes: Readonly<Record<string, string>>;
  /** Whether it is for sale. */
  readonly active: boolean;
  /** The place in the shop's own order, the lowest first; without one it is listed last. */
  readonly rank: number | undefined;
  readonly etag: string;
  readonly createTime: Date | undefined;
  readonly updateTime: Date | undefined;
  /** Nothing in the reply to a write. */
  readonly cache: Freshness | undefined;
}

/** What a caller sets of a product; fields that are left out are not changed, or empty in a new product. */
export interface ProductFields {
  title?: string;
  description?: string;
  price?: Money;
  categories?: readonly string[];
  brand?: string;
  imageUris?: readonly string[];
  attributes?: Readonly<Record<string, string>>;
  active?: boolean;
  rank?: number;
}

export function productOf(message: ProductMessage, cache?: Freshness): Product {
  return {
    productId: message.productId,
    title: message.title,
    description: message.description,
    price: message.price && Money.fromMessage(message.price),
    categories: message.categories,
    brand: message.brand,
    imageUris: message.imageUris,
    attributes: message.attributes,
    active: message.active,
    rank: message.rank,
    etag: message.etag,
    createTime: dateOf(message.createTime),
    updateTime: dateOf(message.updateTime),
    cache,
  };
}

/** A category of active products. */
export interface Category {
  readonly category: string;
  /** In exactly this category. */
  readonly productCount: number;
  /** In this category or any below it. */
  readonly totalProductCount: number;
  readonly subcategories: readonly Category[];
}

export function categoryOf({ category, productCount, totalProductCount, subcategories }: CategoryMessage): Category {
  return {
    category,
    productCount: Number(productCount),
    totalProductCount: Number(totalProductCount),
    subcategories: subcategories.map(categoryOf),
  };
}

/** A price that was read from the catalogue, for items that were sent without one. */
export interface CataloguePrice {
  readonly productId: string;
  readonly unitPrice: Money | undefined;
  /** Of the product with this price. */
  readonly productEtag: string;
}

export interface CartItem {
  readonly productId: string;
  readonly quantity: number;
  readonly unitPrice: Money | undefined;
  /** What distinguishes it from other items with the same product, such as a size. */
  readonly options: Readonly<Record<string, string>>;
}

export class Cart {
  private constructor(
    readonly userId: string,
    readonly items: readonly CartItem[],
    /** The exact sum, one amount per currency. */
    readonly totals: readonly Money[],
    readonly createTime: Date | undefined,
    readonly updateTime: Date | undefined,
    readonly etag: string,
    /** Nothing in the reply to a write. */
    readonly cache: Freshness | undefined,
    /** In the reply to a write: the prices of items that were sent without one, one for each product. */
    readonly cataloguePrices: readonly CataloguePrice[],
  ) {}

  static fromMessage(message: CartMessage, cache?: Freshness, prices: readonly PriceMessage[] = []): Cart {
    return new Cart(
      message.userId,
      message.items.map(itemOf),
      message.totals.map(Money.fromMessage),
      dateOf(message.createTime),
      dateOf(message.updateTime),
      message.etag,
      cache,
      prices.map(({ productId, unitPrice, productEtag }) => ({
        productId,
        unitPrice: unitPrice && Money.fromMessage(unitPrice),
        productEtag,
      })),
    );
  }

  /** The number of pieces. */
  get quantity(): number {
    return this.items.reduce((sum, item) => sum + item.quantity, 0);
  }
}

function itemOf(message: CartItemMessage): CartItem {
  const { productId, quantity, unitPrice, options } = message;
  return { productId, quantity, unitPrice: unitPrice && Money.fromMessage(unitPrice), options };
}

export interface Session {
  readonly userId: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly client: { readonly ipAddress: string; readonly userAgent: string };
  readonly createTime: Date | undefined;
  readonly updateTime: Date | undefined;
  /** When it ends unless it is used before. */
  readonly expireTime: Date | undefined;
  /** When it ends, however often it is used. */
  readonly endTime: Date | undefined;
  readonly etag: string;
  readonly cache: Freshness | undefined;
}

export function sessionOf(message: SessionMessage, cache?: Freshness): Session {
  return {
    userId: message.userId,
    attributes: message.attributes,
    client: { ipAddress: message.client?.ipAddress ?? "", userAgent: message.client?.userAgent ?? "" },
    createTime: dateOf(message.createTime),
    updateTime: dateOf(message.updateTime),
    expireTime: dateOf(message.expireTime),
    endTime: dateOf(message.endTime),
    etag: message.etag,
    cache,
  };
}

export interface Inventory {
  readonly productId: string;
  /** How many pieces can be reserved. */
  readonly available: number;
  readonly reserved: number;
  readonly bucketCount: number;
  readonly etag: string;
  readonly updateTime: Date | undefined;
  readonly cache: Freshness | undefined;
}

export function inventoryOf(message: InventoryMessage, cache?: Freshness): Inventory {
  return {
    productId: message.productId,
    // At most 10^15: exact as a number.
    available: Number(message.available),
    reserved: Number(message.reserved),
    bucketCount: message.bucketCount,
    etag: message.etag,
    updateTime: dateOf(message.updateTime),
    cache,
  };
}

export type ReservationState = "held" | "committed" | "released" | "expired" | "";

const STATES: Readonly<Record<StateOfReservation, ReservationState>> = {
  [StateOfReservation.UNSPECIFIED]: "",
  [StateOfReservation.HELD]: "held",
  [StateOfReservation.COMMITTED]: "committed",
  [StateOfReservation.RELEASED]: "released",
  [StateOfReservation.EXPIRED]: "expired",
};

export function stateMessage(state: ReservationState): StateOfReservation {
  return Number(Object.entries(STATES).find(([, name]) => name === state)?.[0] ?? 0);
}

export interface Reservation {
  readonly reservationId: string;
  readonly userId: string;
  readonly items: readonly { readonly productId: string; readonly quantity: number }[];
  readonly state: ReservationState;
  readonly createTime: Date | undefined;
  readonly expireTime: Date | undefined;
  /** When it was committed or released, or expired. */
  readonly endTime: Date | undefined;
}

export function reservationOf(message: ReservationMessage): Reservation {
  return {
    reservationId: message.reservationId,
    userId: message.userId,
    items: message.items.map(({ productId, quantity }) => ({ productId, quantity })),
    state: STATES[message.state] ?? "",
    createTime: dateOf(message.createTime),
    expireTime: dateOf(message.expireTime),
    endTime: dateOf(message.endTime),
  };
}

/** How fresh what is read has to be. */
export interface ReadOptions {
  /** The maximum age in seconds; 0 accepts only PostgreSQL. The default is the sidecar's policy. */
  maxAge?: number;
  /** Reads from PostgreSQL, whatever the caches hold. */
  bypass?: boolean;
}

export function readOptionsMessage({ maxAge, bypass }: ReadOptions) {
  if (maxAge === undefined && bypass === undefined) return {};
  return {
    options: {
      ...(maxAge === undefined ? {} : { maxAge: durationFromMs(maxAge * 1000) }),
      bypass: bypass ?? false,
    },
  };
}

export function dateOf(timestamp: Timestamp | undefined): Date | undefined {
  return timestamp && timestampDate(timestamp);
}
