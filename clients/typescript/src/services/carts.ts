import { durationFromMs } from "@bufbuild/protobuf/wkt";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { CartChangeSchema } from "../gen/cache_sidecar/v1/cart_pb.js";
import { CartService } from "../gen/cache_sidecar/v1/cart_service_pb.js";
import { Cart, freshnessOf, readOptionsMessage, type ReadOptions } from "../model.js";
import type { Money } from "../money.js";
import { elements } from "../pages.js";
import type { CallOptions, FallbackOptions, Transport, WriteOptions } from "../transport.js";
import { reopened, watching } from "../watch.js";
import { missingField } from "./products.js";

type Change = MessageInitShape<typeof CartChangeSchema>;
type ItemOptions = Readonly<Record<string, string>>;

/** An item as a caller gives it. */
export interface NewItem {
  productId: string;
  quantity: number;
  /** Without one, it gets that of the catalogue; throws NotFound if there is no such product, or it is not active. */
  unitPrice?: Money | undefined;
  /** What distinguishes it from other items with the same product. */
  options?: ItemOptions;
}

export interface CartEvent {
  readonly cart: Cart;
  /** Whether the watch has begun again: this is the state now, but there may have been others. */
  readonly missed: boolean;
}

/** Collects changes of a cart, to be made at once and in this order. */
export class CartEdit {
  readonly changes: Change[] = [];

  add(productId: string, quantity: number, unitPrice?: Money, options: ItemOptions = {}): this {
    this.changes.push({ change: { case: "addItem", value: itemMessage({ productId, quantity, unitPrice, options }) } });
    return this;
  }

  /** 0 removes the item. */
  setQuantity(productId: string, quantity: number, options: ItemOptions = {}): this {
    this.changes.push({ change: { case: "setItemQuantity", value: { productId, quantity, options: { ...options } } } });
    return this;
  }

  remove(productId: string, options: ItemOptions = {}): this {
    this.changes.push({ change: { case: "removeItem", value: { productId, options: { ...options } } } });
    return this;
  }
}

const { method: methods } = CartService;

export class CartCalls {
  constructor(private readonly transport: Transport) {}

  /** Returns the cart of a user; an empty one if the user has none. */
  async get(userId: string, options: ReadOptions & FallbackOptions<Cart> = {}): Promise<Cart> {
    return this.transport.withFallback(async (isWaiting) => {
      const request = { userId, ...readOptionsMessage(options) };
      const { cart, cache } = await this.transport.unary(methods.getCart, request, options, { isWaiting });
      return Cart.fromMessage(cart ?? missingField("cart"), freshnessOf(cache));
    }, options.fallback);
  }

  /** Replaces all items. With `etag`, throws EtagMismatch, with the current cart, if it has changed since. */
  async replace(userId: string, items: readonly NewItem[], options: { etag?: string } & WriteOptions = {}): Promise<Cart> {
    const cart = { userId, items: items.map(itemMessage), etag: options.etag ?? "" };
    return cartOf(await this.transport.unary(methods.replaceCart, { cart }, options));
  }

  async add(userId: string, item: NewItem, options: WriteOptions = {}): Promise<Cart> {
    return cartOf(await this.transport.unary(methods.addCartItem, { userId, item: itemMessage(item) }, options));
  }

  /** Sets the quantity of an item; 0 removes it. Throws NotFound. */
  async setQuantity(
    userId: string,
    productId: string,
    quantity: number,
    options: { options?: ItemOptions } & WriteOptions = {},
  ): Promise<Cart> {
    const request = { userId, productId, quantity, options: { ...options.options } };
    return cartOf(await this.transport.unary(methods.setCartItemQuantity, request, options));
  }

  async remove(userId: string, productId: string, options: { options?: ItemOptions } & WriteOptions = {}): Promise<Cart> {
    return cartOf(await this.transport.unary(methods.removeCartItem, { userId, productId, options: { ...options.options } }, options));
  }

  async clear(userId: string, options: WriteOptions = {}): Promise<Cart> {
    return cartOf(await this.transport.unary(methods.clearCart, { userId }, options));
  }

  /** Moves a guest's items to a user's cart: at login. */
  async merge(userId: string, guestUserId: string, options: WriteOptions = {}): Promise<Cart> {
    return cartOf(await this.transport.unary(methods.mergeCarts, { userId, guestUserId }, options));
  }

  /**
   * Makes several changes at once: all of them or none. Returns the cart, or nothing if there was nothing to change.
   *
   *     await shop.carts.edit(user, (cart) => cart.add("SKU-1", 2, Money.of("9.99", "EUR")).remove("SKU-2"));
   */
  async edit(userId: string, edit: (cart: CartEdit) => unknown, options: WriteOptions = {}): Promise<Cart | undefined> {
    const collected = new CartEdit();
    await edit(collected);
    if (collected.changes.length === 0) return undefined;
    return cartOf(await this.transport.unary(methods.applyCartChanges, { userId, changes: collected.changes }, options));
  }

  /** Yields the carts with items that have not been changed for so many seconds, from PostgreSQL. */
  listAbandoned(idleFor: number, options: { pageSize?: number } & CallOptions = {}): AsyncGenerator<Cart, void, undefined> {
    const request = { idleFor: durationFromMs(idleFor * 1000), pageSize: options.pageSize ?? 0 };
    return elements(
      (pageToken) => this.transport.unary(methods.listAbandonedCarts, { ...request, pageToken }, options),
      ({ carts, cache }) => carts.map((cart) => Cart.fromMessage(cart, freshnessOf(cache))),
    );
  }

  /** Yields the cart, and again after each change; a slow reader gets the latest state only. */
  watch(userId: string, options: { signal?: AbortSignal } = {}): AsyncGenerator<CartEvent, void, undefined> {
    return watching(this.transport.closing, options.signal, (signal) => this.#watch(userId, signal));
  }

  async *#watch(userId: string, signal: AbortSignal): AsyncGenerator<CartEvent, void, undefined> {
    let streams = 0;
    const open = async function* (this: CartCalls) {
      const missed = ++streams > 1;
      let isFirst = true;
      for await (const message of this.transport.serverStream(methods.watchCart, { userId }, signal)) {
        yield { message, missed: missed && isFirst };
        isFirst = false;
      }
    };
    for await (const { message, missed } of reopened(() => open.call(this), signal))
      yield { cart: Cart.fromMessage(message.cart ?? missingField("cart"), freshnessOf(message.cache)), missed };
  }
}

function itemMessage({ productId, quantity, unitPrice, options }: NewItem) {
  return { productId, quantity, ...(unitPrice && { unitPrice: unitPrice.toMessage() }), options: { ...options } };
}

type CartParts = Parameters<typeof Cart.fromMessage>;

function cartOf({ cart, cataloguePrices }: { cart?: CartParts[0] | undefined; cataloguePrices?: CartParts[2] }): Cart {
  return Cart.fromMessage(cart ?? missingField("cart"), undefined, cataloguePrices);
}
