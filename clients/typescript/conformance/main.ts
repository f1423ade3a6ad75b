/** Runs the scenarios of `clients/conformance/cases.json` with this library; see `clients/conformance/README.md`. */
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";

import { connect, SidecarError, type CacheSidecar, type Options } from "../src/index.js";
import { uuid7 } from "../src/uuid7.js";
import { ADMIN, CALLS, JOINED, LoaderError, plainEvent, WATCHES, type StepOptions } from "./calls.js";
import { plain, plainError, typed, type Fields, type Json } from "./values.js";

interface Step {
  call: string;
  args?: Fields;
  options?: StepOptions;
  save?: Record<string, string>;
  where?: Fields;
  take?: number;
  during?: Step[];
}

interface Case {
  name: string;
  through?: "faults";
  steps: Step[];
}

/** Milliseconds that a stream may bring nothing. */
const SILENCE = 20_000;
const environment = (name: string) => process.env[`CONFORMANCE_${name}`] ?? "";

function optionsOf(through: string | undefined): Options {
  const [ca, cert, key, serverName] = ["CA", "CERT", "KEY", "SERVER_NAME"].map(environment);
  const token = environment("TOKEN_FILE");
  const files = { ...(ca && { ca }), ...(cert && { cert }), ...(key && { key }), ...(serverName && { serverName }) };
  return {
    address: environment(through === "faults" ? "FAULTS" : "ADDRESS"),
    log: () => undefined,
    ...(ca && through !== "faults" ? { tls: files } : {}),
    ...(token && { tokenFile: token }),
  };
}

class Run {
  readonly got: Json[] = [];
  #saved: Fields = { run: environment("RUN") };
  readonly #options: Options;
  readonly #shop: CacheSidecar;

  constructor(private readonly scenario: Case) {
    this.#options = optionsOf(scenario.through);
    this.#shop = connect(this.#options);
  }

  async run(): Promise<void> {
    try {
      if (this.scenario.through === "faults") await this.#faults("clear", {});
      for (const step of this.scenario.steps) this.got.push(await this.#step(step));
    } finally {
      this.#shop.close();
    }
  }

  async #step(step: Step): Promise<Json> {
    const args = this.#filled(step.args ?? {}) as Fields;
    let result: Json;
    try {
      result = await this.#result(step, args);
    } catch (error) {
      if (error instanceof SidecarError) result = plainError(error);
      else if (error instanceof LoaderError) result = { error: { type: "LoaderError", message: error.message } };
      else throw error;
    }
    for (const [name, path] of Object.entries(step.save ?? {})) this.#saved[name] = at(result, path);
    return result;
  }

  async #result(step: Step, args: Fields): Promise<Json> {
    const { call, options = {} } = step;
    if (call.startsWith("faults.")) return this.#faults(call.slice("faults.".length), args);
    if (call in WATCHES) return this.#watch(step, args);
    const { request_id: requestId, ...rest } = args;
    const timeout = options.timeout === undefined ? {} : { timeout: options.timeout * 1000 };
    const callOptions = { ...timeout, ...(requestId === undefined ? {} : { requestId }) };
    const admin = ADMIN[call];
    if (admin !== undefined) return admin(this.#shop, rest, callOptions);
    if (call === "products.get_joined") {
      const { results, calls } = await JOINED(this.#options, args["product_ids"] as string[]);
      return { calls, results: results.map((result) => (result.status === "fulfilled" ? productResult(result.value) : plainError(result.reason as SidecarError))) };
    }
    const known = CALLS[call];
    if (known === undefined) throw new Error(`the call ${call} is not known`);
    const fallback = options.fallback === undefined ? {} : { fallback: this.#filled(options.fallback) as Fields };
    return plain(await known(this.#shop, typed(rest), callOptions, { ...options, ...fallback }));
  }

  async #watch(step: Step, args: Fields): Promise<Json> {
    const abort = new AbortController();
    const where = Object.entries(this.#filled(step.where ?? {}) as Fields);
    const opened = WATCHES[step.call]?.(this.#shop, typed(args), abort.signal);
    const events = (opened as AsyncIterable<never>)[Symbol.asyncIterator]();
    const next = async (): Promise<Fields> => {
      let timer: NodeJS.Timeout | undefined;
      const silence = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new Error("the stream brings nothing")), SILENCE);
      });
      try {
        const { done, value } = await Promise.race([events.next(), silence]);
        if (done) throw new Error("the stream has ended");
        return plainEvent(step.call, value);
      } finally {
        clearTimeout(timer);
      }
    };
    try {
      const first = await next();
      const during: Json[] = [];
      for (const inner of step.during ?? []) during.push(await this.#step(inner));
      const taken: Fields[] = [];
      while (taken.length < (step.take ?? 0)) {
        const event = await next();
        if (where.every(([path, value]) => JSON.stringify(atOr(event, path)) === JSON.stringify(value)) || event["missed"]) taken.push(event);
      }
      return { first, events: taken, during };
    } finally {
      abort.abort();
      await events.return?.(undefined)?.catch(() => undefined);
    }
  }

  async #faults(what: string, args: Fields): Promise<Json> {
    const reply = await fetch(environment("FAULTS_URL") + what, { method: "POST", body: JSON.stringify(args) });
    if (!reply.ok) throw new Error(`faults.${what}: ${reply.status} ${await reply.text()}`);
    return (await reply.json()) as Json;
  }

  /** Returns arguments with the values of their variables. */
  #filled(value: Json): Json {
    if (Array.isArray(value)) return value.map((element) => this.#filled(element));
    if (typeof value === "object" && value !== null)
      return Object.fromEntries(Object.entries(value).map(([key, of]) => [String(this.#filled(key)), this.#filled(of)]));
    if (typeof value !== "string") return value;
    const alone = /^\{([^{}]+)\}$/.exec(value);
    if (alone) return this.#variable(alone[1] as string);
    return value.replace(/\{([^{}]+)\}/g, (_, name: string) => String(this.#variable(name)));
  }

  #variable(name: string): Json {
    const now = /^now([+-]\d+)?$/.exec(name);
    if (now) return new Date(Date.now() + Number(now[1] ?? 0) * 1000).toISOString();
    if (!(name in this.#saved)) {
      if (name.startsWith("uuid:")) this.#saved[name] = randomUUID();
      else if (name.startsWith("uuid7:")) this.#saved[name] = uuid7(Date.now());
      else throw new Error(`{${name}} was not saved by an earlier step`);
    }
    return this.#saved[name] as Json;
  }
}

function productResult({ cache, ...product }: { cache: unknown }): Json {
  return plain({ product, cache });
}

function at(value: Json, path: string): Json {
  const found = atOr(value, path);
  if (found === undefined) throw new Error(`there is no ${path} in ${JSON.stringify(value)}`);
  return found;
}

function atOr(value: Json, path: string): Json | undefined {
  return path.split(".").reduce<Json | undefined>((found, name) => (found as Fields | null | undefined)?.[name], value);
}

const { cases } = JSON.parse(readFileSync(environment("CASES"), "utf8")) as { cases: Case[] };
for (const scenario of cases.filter(({ name }) => name.includes(environment("ONLY")))) {
  let run: Run | undefined;
  try {
    run = new Run(scenario);
    await run.run();
    console.log(JSON.stringify({ name: scenario.name, ok: true, got: run.got }));
  } catch (error) {
    console.log(JSON.stringify({ name: scenario.name, ok: false, got: run?.got ?? [], why: String(error) }));
  }
}
