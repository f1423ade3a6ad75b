import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  RecommendationModel,
  RecommendationPlacement,
  RecommendationReason,
  type Recommendation as RecommendationMessage,
  type RecommendationListSchema,
} from "../gen/cache_sidecar/v1/recommendation_pb.js";
import { RecommendationService, type ImportRecommendationsRequestSchema } from "../gen/cache_sidecar/v1/recommendation_service_pb.js";
import { dateOf, freshnessOf, readOptionsMessage, type Freshness, type ReadOptions } from "../model.js";
import type { CallOptions, Transport, WriteOptions } from "../transport.js";

/** Such as `homePage`. */
export type Placement = "homePage" | "productDetail" | "shoppingCart" | "checkout";
export type Model =
  | "recommendedForYou"
  | "othersYouMayLike"
  | "frequentlyBoughtTogether"
  | "buyItAgain"
  | "recentlyViewed"
  | "bestSellers";
export type Reason = "boughtBefore" | "boughtTogether" | "alsoBought" | "popular" | "provided" | "viewed" | "";

export interface Recommendation {
  readonly productId: string;
  readonly score: number;
  readonly reason: Reason;
  /** The product because of which it is recommended, if there is one. */
  readonly becauseProductId: string;
  /** What the score is made of, with `explain`. */
  readonly terms: { readonly history: number; readonly context: number; readonly similar: number; readonly popular: number } | undefined;
}

export interface Recommendations {
  readonly recommendations: readonly Recommendation[];
  /** To be sent with the events that follow from them. */
  readonly attributionToken: string;
  readonly missingProductIds: readonly string[];
  readonly experimentId: string;
  readonly variant: string;
  readonly modelVersion: string;
  readonly modelTime: Date | undefined;
  readonly generator: string;
  readonly fallback: string;
  readonly cache: Freshness;
}

export interface RecommendationQuery {
  userId?: string;
  placement?: Placement;
  model?: Model;
  pageSize?: number;
  contextProductIds?: readonly string[];
  cartProductIds?: readonly string[];
  excludeProductIds?: readonly string[];
  filterPurchased?: boolean;
  filterOutOfStock?: boolean;
  personalised?: boolean;
  explain?: boolean;
}

/** A list that the shop has computed itself, of a user or of a product. */
export interface ProvidedList {
  userId?: string;
  productId?: string;
  model?: Model;
  recommendations: readonly { productId: string; score: number }[];
}

/** So many lists, or so many of their products, are sent as one message. */
const LISTS = 100;
const PRODUCTS = 5_000;
const { method: methods } = RecommendationService;

export class RecommendationCalls {
  constructor(private readonly transport: Transport) {}

  /** Returns the products to recommend to a user, at a place. */
  async get(query: RecommendationQuery, options: ReadOptions & CallOptions = {}): Promise<Recommendations> {
    const { placement, model, contextProductIds = [], cartProductIds = [], excludeProductIds = [], ...plain } = query;
    const request = {
      ...plain,
      placement: placement === undefined ? 0 : valueOf(RecommendationPlacement, placement),
      model: model === undefined ? 0 : valueOf(RecommendationModel, model),
      contextProductIds: [...contextProductIds],
      cartProductIds: [...cartProductIds],
      excludeProductIds: [...excludeProductIds],
      ...readOptionsMessage(options),
    };
    const reply = await this.transport.unary(methods.getRecommendations, request, options);
    const { attributionToken, missingProductIds, experimentId, variant, modelVersion, generator, fallback } = reply;
    return {
      recommendations: reply.recommendations.map(recommendationOf),
      attributionToken,
      missingProductIds,
      experimentId,
      variant,
      modelVersion,
      modelTime: dateOf(reply.modelTime),
      generator,
      fallback,
      cache: freshnessOf(reply.cache),
    };
  }

  /**
   * Sends lists as one batch, and has them served with `commit`. Each message of lists is repeated until it is stored, or
   * `timeout` (30,000 ms) has passed. If it fails then, call it again with the same batch and `firstList`, the number of the
   * first list that is not stored, which an import of no lists without `commit` returns.
   */
  async import(
    batchId: string,
    lists: AsyncIterable<ProvidedList> | Iterable<ProvidedList>,
    { commit = true, firstList = 0n, ...options }: { commit?: boolean; firstList?: bigint } & CallOptions = {},
  ): Promise<{ nextList: bigint; committed: boolean }> {
    let result = { nextList: firstList, committed: false };
    for await (const message of messages(batchId, lists, firstList, commit)) {
      const { nextList, committed } = await this.transport.clientStream(methods.importRecommendations, message, options);
      result = { nextList, committed };
    }
    return result;
  }

  /** Deletes the lists of a user, of a product, or of a batch, and returns how many. */
  async delete(what: { userId: string } | { productId: string } | { batchId: string }, options: WriteOptions = {}): Promise<bigint> {
    return (await this.transport.unary(methods.deleteRecommendations, what, options)).deletedCount;
  }
}

async function* messages(
  batchId: string,
  lists: AsyncIterable<ProvidedList> | Iterable<ProvidedList>,
  firstList: bigint,
  commit: boolean,
): AsyncGenerator<MessageInitShape<typeof ImportRecommendationsRequestSchema>> {
  let first = firstList;
  let pending: MessageInitShape<typeof RecommendationListSchema>[] = [];
  let products = 0;
  for await (const { model, recommendations, ...subject } of lists) {
    if (pending.length === LISTS || (pending.length > 0 && products + recommendations.length > PRODUCTS)) {
      yield { batchId, firstList: first, lists: pending };
      first += BigInt(pending.length);
      pending = [];
      products = 0;
    }
    pending.push({ ...subject, model: model === undefined ? 0 : valueOf(RecommendationModel, model), recommendations: [...recommendations] });
    products += recommendations.length;
  }
  yield { batchId, firstList: first, lists: pending, commit };
}

function recommendationOf({ productId, score, reason, becauseProductId, terms }: RecommendationMessage): Recommendation {
  const parts = terms && { history: terms.history, context: terms.context, similar: terms.similar, popular: terms.popular };
  return { productId, score, reason: nameOf(RecommendationReason, reason) as Reason, becauseProductId, terms: parts };
}

/** Returns the value of an enum whose name without prefix is `name` in camelCase. */
export function valueOf<E extends number>(values: Record<string, string | E>, name: string): E {
  const value = values[name.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()];
  if (typeof value !== "number") throw new TypeError(`"${name}" is not known`);
  return value;
}

/** Returns the name of an enum's value in camelCase; empty if it is not set. */
export function nameOf(values: Record<number, string>, value: number): string {
  const name = values[value] ?? "";
  return value === 0 ? "" : name.toLowerCase().replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
