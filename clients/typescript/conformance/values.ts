/** Between the values of `clients/conformance/README.md` and those of the library. */
import { toJson, type DescMessage, type JsonValue, type Message } from "@bufbuild/protobuf";

import { Money, SidecarError } from "../src/index.js";

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };
export type Fields = { [name: string]: Json };

/** Fields whose keys are the shop's own. */
const MAPS = new Set(["attributes", "options", "metadata"]);
const ENUMS = new Set(["source", "state", "kind", "reason"]);

/** Returns what the library has returned. */
export function plain(value: unknown, name = ""): Json {
  if (value === undefined || value === null) return null;
  if (typeof value === "bigint") return Number(value);
  if (typeof value === "string") return ENUMS.has(name) ? upper(value) : value;
  if (typeof value === "number" || typeof value === "boolean") return value;
  if (value instanceof Date) return value.toISOString();
  if (value instanceof Money) return `${value.amount.replace(/\.?0+$/, "")} ${value.currency}`;
  if (Array.isArray(value)) return value.map((element) => plain(element));
  const entries = Object.entries(value as object).map(([key, of]): [string, Json] => {
    if (MAPS.has(name)) return [key, plain(of)];
    if (key === "age") return [key, (of as number) / 1000];
    return [snake(key), plain(of, key)];
  });
  return Object.fromEntries(entries);
}

/** Returns a message of the protos. */
export function plainMessage(schema: DescMessage, message: Message): Json {
  return simplified(toJson(schema, message, { useProtoFieldName: true, alwaysEmitImplicit: true }));
}

function simplified(value: JsonValue): Json {
  if (Array.isArray(value)) return value.map(simplified);
  if (typeof value === "object" && value !== null)
    return Object.fromEntries(Object.entries(value).map(([name, of]) => [name, simplified(of)]));
  if (typeof value !== "string") return value;
  // 64-bit integers and durations are strings in the JSON of protos.
  if (/^-?\d+(\.\d+)?s?$/.test(value)) return Number(value.replace("s", ""));
  return value.replace(/^(KEY_STATE|POLICY_ORIGIN)_/, "");
}

export function plainError(error: SidecarError): Json {
  const { name, code, reason, metadata, message, violations, retryAfter } = error;
  const fields = Object.fromEntries(violations.map(({ field, description }) => [field, description]));
  return {
    error: { type: name, code, reason, metadata: { ...metadata }, fields, message, retry_after: retryAfter === undefined ? null : retryAfter / 1000 },
  };
}

export function money(text: string): Money {
  const [amount = "", currency = ""] = text.split(" ");
  return Money.of(amount, currency);
}

/** Returns arguments with the library's names and types. */
export function typed(value: Json, name = ""): unknown {
  if (Array.isArray(value)) return value.map((element) => typed(element));
  if (typeof value === "object" && value !== null) {
    if (MAPS.has(name)) return value;
    return Object.fromEntries(Object.entries(value).map(([key, of]) => [camel(key), typed(of, key)]));
  }
  if (typeof value !== "string") return value;
  if (["price", "unit_price", "value"].includes(name)) return money(value);
  if (name.endsWith("_time")) return new Date(value);
  if (["event_type", "placement", "model", "state", "order"].includes(name)) return camel(value.toLowerCase());
  return value;
}

export function camel(name: string): string {
  return name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

function upper(name: string): string {
  return snake(name).toUpperCase();
}
