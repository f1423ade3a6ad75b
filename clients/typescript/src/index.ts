export { connect, CacheSidecar } from "./client.js";
export { Money } from "./money.js";
export { addressOf } from "./options.js";
export type { CallInfo, Hooks, Options, TlsOptions } from "./options.js";
export type { CallOptions, Counters, FallbackOptions, WriteOptions } from "./transport.js";
export type { LocalCacheOptions } from "./local_cache.js";
export { Cart } from "./model.js";
export type {
  CartItem,
  CataloguePrice,
  Category,
  Freshness,
  Inventory,
  Product,
  ProductFields,
  ReadOptions,
  Reservation,
  ReservationState,
  Session,
} from "./model.js";
export { CartEdit } from "./services/carts.js";
export type { CartEvent, NewItem } from "./services/carts.js";
export type { EventType, UserEvent, WrittenEvents } from "./services/events.js";
export type { Inventories, InventoryEvent, ReservationOptions } from "./services/inventory.js";
export type { Categories, GetOptions, LoadedProduct, ProductEvent, ProductOrder, Products } from "./services/products.js";
export type {
  Model,
  Placement,
  ProvidedList,
  Reason,
  Recommendation,
  RecommendationQuery,
  Recommendations,
} from "./services/recommendations.js";
export type { NewSession, SessionFields } from "./services/sessions.js";
export {
  AlreadyExists,
  BatchCommitted,
  BucketsInUse,
  ChangesExpired,
  DeadlineExceeded,
  EtagMismatch,
  EventBacklogFull,
  InvalidRequest,
  LimitReached,
  ListsMissing,
  NotFound,
  OutOfStock,
  Overloaded,
  PermissionDenied,
  ReadOnly,
  ReplyTooLarge,
  RequestIdReused,
  ReservationEnded,
  RevocationPending,
  SidecarError,
  Unauthenticated,
  Unavailable,
  UnreadableRow,
  WatchTooSlow,
} from "./errors.js";
export type { Violation } from "./errors.js";
