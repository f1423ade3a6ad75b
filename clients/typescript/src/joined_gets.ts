/** Sends the gets of one turn of the event loop as one batch, as DataLoader does. */
import { InvalidRequest, ReplyTooLarge, SidecarError } from "./errors.js";

/** The most IDs of one BatchGet. */
const MAX_IDS = 500;

/** How to read with some options. */
export interface Lookup<T> {
  one(id: string): Promise<T>;
  /** Reads several: what was found, or why not, by ID. An ID that is left out is then read alone, for its error. */
  several(ids: string[]): Promise<Map<string, T | SidecarError>>;
}

interface Caller<T> {
  resolve: (value: T) => void;
  reject: (error: unknown) => void;
}

interface Group<T> {
  lookup: Lookup<T>;
  callers: Map<string, Caller<T>[]>;
}

export class JoinedGets<T> {
  #groups = new Map<string, Group<T>>();

  constructor(private readonly onJoined: (count: number) => void) {}

  /** Returns what `lookup` finds. Only gets with the same key, which stands for their options, are joined. */
  get(id: string, key: string, lookup: () => Lookup<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      // After all promises that are settled now: whoever asks because of them belongs to the same turn.
      if (this.#groups.size === 0) void Promise.resolve().then(() => process.nextTick(() => this.#send()));
      let group = this.#groups.get(key);
      if (group === undefined) this.#groups.set(key, (group = { lookup: lookup(), callers: new Map() }));
      const callers = group.callers.get(id);
      if (callers === undefined) group.callers.set(id, [{ resolve, reject }]);
      else callers.push({ resolve, reject });
    });
  }

  #send(): void {
    const groups = this.#groups;
    this.#groups = new Map();
    for (const { lookup, callers } of groups.values()) {
      const all = [...callers];
      for (let start = 0; start < all.length; start += MAX_IDS) void this.#load(lookup, all.slice(start, start + MAX_IDS));
    }
  }

  async #load(lookup: Lookup<T>, waiting: [string, Caller<T>[]][]): Promise<void> {
    if (waiting.length === 1) return this.#loadAlone(lookup, ...(waiting[0] as [string, Caller<T>[]]));
    let found: Map<string, T | SidecarError>;
    try {
      found = await lookup.several(waiting.map(([id]) => id));
    } catch (error) {
      if (error instanceof ReplyTooLarge || error instanceof InvalidRequest) {
        // Which of them is too large, or invalid? The others are to be read all the same.
        const middle = Math.ceil(waiting.length / 2);
        await Promise.all([this.#load(lookup, waiting.slice(0, middle)), this.#load(lookup, waiting.slice(middle))]);
      } else for (const [, callers] of waiting) for (const { reject } of callers) reject(error);
      return;
    }
    this.onJoined(waiting.length);
    for (const [id, callers] of waiting) {
      const value = found.get(id);
      if (value === undefined) void this.#loadAlone(lookup, id, callers);
      else if (value instanceof SidecarError) for (const { reject } of callers) reject(value);
      else for (const { resolve } of callers) resolve(value);
    }
  }

  async #loadAlone(lookup: Lookup<T>, id: string, callers: Caller<T>[]): Promise<void> {
    try {
      const value = await lookup.one(id);
      for (const { resolve } of callers) resolve(value);
    } catch (error) {
      for (const { reject } of callers) reject(error);
    }
  }
}
