import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { InventoryService } from "../gen/cache_sidecar/v1/inventory_service_pb.js";
import {
  freshnessOf,
  inventoryOf,
  readOptionsMessage,
  reservationOf,
  stateMessage,
  type Freshness,
  type Inventory,
  type ReadOptions,
  type Reservation,
  type ReservationState,
} from "../model.js";
import { elements } from "../pages.js";
import type { CallOptions, FallbackOptions, Transport, WriteOptions } from "../transport.js";
import { reopened, watching } from "../watch.js";
import { missingField } from "./products.js";

export interface Inventories {
  readonly inventories: readonly Inventory[];
  /** The IDs of products without a stock. */
  readonly missing: readonly string[];
  /** Of the batch as a whole. */
  readonly cache: Freshness;
}

export interface InventoryEvent {
  /**
   * `started` comes first. `missed` says that the watch had to begin again: the current states follow, but a stock that was
   * deleted meanwhile is not told. `state` is a stock as it is now.
   */
  readonly kind: "started" | "missed" | "state";
  readonly productId: string;
  /** Nothing if the product has no stock, or no longer. */
  readonly inventory: Inventory | undefined;
  readonly cache: Freshness;
}

export interface ReservationOptions extends WriteOptions {
  /** Seconds for which to hold the pieces: 15 minutes by default. */
  holdFor?: number;
}

const { method: methods } = InventoryService;

export class InventoryCalls {
  constructor(private readonly transport: Transport) {}

  /** Returns the stock of a product. Throws NotFound if none was ever set. */
  async get(productId: string, options: ReadOptions & FallbackOptions<Inventory> = {}): Promise<Inventory> {
    return this.transport.withFallback(async (isWaiting) => {
      const request = { productId, ...readOptionsMessage(options) };
      const { inventory, cache } = await this.transport.unary(methods.getInventory, request, options, { isWaiting });
      return inventoryOf(inventory ?? missingField("inventory"), freshnessOf(cache));
    }, options.fallback);
  }

  /** Returns the stocks of up to 500 products, in the order of the IDs. */
  async getMany(productIds: readonly string[], options: ReadOptions & CallOptions = {}): Promise<Inventories> {
    const request = { productIds: [...productIds], ...readOptionsMessage(options) };
    const reply = await this.transport.unary(methods.batchGetInventory, request, options);
    const inventories = reply.inventories.map((stock, index) => inventoryOf(stock, freshnessOf(reply.inventoryCaches[index])));
    return { inventories, missing: reply.missing, cache: freshnessOf(reply.cache) };
  }

  /** Sets how many pieces can be reserved; those that are reserved stay so. */
  async set(
    productId: string,
    available: number,
    options: { etag?: string; bucketCount?: number } & WriteOptions = {},
  ): Promise<Inventory> {
    const { etag = "", bucketCount = 0 } = options;
    const request = { productId, available: BigInt(available), etag, bucketCount };
    return stockOf(await this.transport.unary(methods.setInventory, request, options));
  }

  /** Adds pieces, or removes them if `delta` is negative. Throws OutOfStock, NotFound. */
  async adjust(productId: string, delta: number, reason: string, options: WriteOptions = {}): Promise<Inventory> {
    return stockOf(await this.transport.unary(methods.adjustInventory, { productId, delta: BigInt(delta), reason }, options));
  }

  /** Reserves all of the pieces or none. Throws OutOfStock, NotFound. */
  async reserve(
    userId: string,
    items: readonly { productId: string; quantity: number }[],
    options: ReservationOptions = {},
  ): Promise<Reservation> {
    const request = { userId, items: [...items], ...hold(options) };
    return heldOf(await this.transport.unary(methods.reserveInventory, request, options));
  }

  /** Holds the pieces for so long from now. Throws ReservationEnded, NotFound. */
  async extend(reservationId: string, options: ReservationOptions = {}): Promise<Reservation> {
    return heldOf(await this.transport.unary(methods.extendReservation, { reservationId, ...hold(options) }, options));
  }

  /** The pieces are sold. Throws ReservationEnded, NotFound. */
  async commit(reservationId: string, options: WriteOptions = {}): Promise<Reservation> {
    return heldOf(await this.transport.unary(methods.commitReservation, { reservationId }, options));
  }

  /** The pieces are available again. Throws ReservationEnded, NotFound. */
  async release(reservationId: string, options: WriteOptions = {}): Promise<Reservation> {
    return heldOf(await this.transport.unary(methods.releaseReservation, { reservationId }, options));
  }

  async getReservation(reservationId: string, options: CallOptions = {}): Promise<Reservation> {
    return heldOf(await this.transport.unary(methods.getReservation, { reservationId }, options));
  }

  /** Yields reservations, the newest first. */
  listReservations(
    options: { userId?: string; state?: ReservationState; pageSize?: number } & CallOptions = {},
  ): AsyncGenerator<Reservation, void, undefined> {
    const { userId = "", state = "", pageSize = 0 } = options;
    const request = { userId, state: stateMessage(state), pageSize };
    return elements(
      (pageToken) => this.transport.unary(methods.listReservations, { ...request, pageToken }, options),
      ({ reservations }) => reservations.map(reservationOf),
    );
  }

  /** Yields the stocks of products, first as they are and then after each change; a slow reader gets the latest state only. */
  watch(
    what: { productIds?: readonly string[]; categories?: readonly string[] },
    options: { signal?: AbortSignal } = {},
  ): AsyncGenerator<InventoryEvent, void, undefined> {
    return watching(this.transport.closing, options.signal, (signal) => this.#watch(what, signal));
  }

  async *#watch(
    what: { productIds?: readonly string[]; categories?: readonly string[] },
    signal: AbortSignal,
  ): AsyncGenerator<InventoryEvent, void, undefined> {
    const request = { productIds: [...(what.productIds ?? [])], categories: [...(what.categories ?? [])] };
    let isFirst = true;
    for await (const message of reopened(() => this.transport.serverStream(methods.watchInventory, request, signal), signal)) {
      const { productId, inventory } = message;
      const cache = freshnessOf(message.cache);
      if (productId === "") {
        yield { kind: isFirst ? "started" : "missed", productId, inventory: undefined, cache };
        isFirst = false;
        continue;
      }
      yield { kind: "state", productId, inventory: inventory && inventoryOf(inventory, cache), cache };
    }
  }
}

function hold({ holdFor }: ReservationOptions) {
  return holdFor === undefined ? {} : { holdDuration: durationFromMs(holdFor * 1000) };
}

function stockOf({ inventory }: { inventory?: Parameters<typeof inventoryOf>[0] | undefined }): Inventory {
  return inventoryOf(inventory ?? missingField("inventory"));
}

function heldOf({ reservation }: { reservation?: Parameters<typeof reservationOf>[0] | undefined }): Reservation {
  return reservationOf(reservation ?? missingField("reservation"));
}
