/** Watches that survive the sidecar's restarts. */
import { SidecarError, Unavailable, WatchTooSlow } from "./errors.js";
import { backoff, sleep } from "./transport.js";

/**
 * Yields the messages of one stream after the other, each opened when the last one has ended: soon, and later at most a
 * second apart. An error that a new stream does not mend is thrown, unless `handle` returns true.
 */
export async function* reopened<M>(
  open: () => AsyncIterable<M>,
  signal: AbortSignal,
  handle: (error: SidecarError) => boolean = () => false,
): AsyncGenerator<M> {
  for (let failures = 0; ; ) {
    try {
      for await (const message of open()) {
        failures = 0;
        yield message;
      }
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof SidecarError)) throw error;
      if (!isTransient(error) && !handle(error)) throw error;
    }
    await sleep(backoff(failures++, 1_000), signal);
  }
}

function isTransient(error: SidecarError): boolean {
  if (error instanceof Unavailable || error instanceof WatchTooSlow) return true;
  // The connection was cut in the middle of a message, or by something between us and the sidecar.
  return error.reason === "" && (error.code === "INTERNAL" || error.code === "UNKNOWN");
}

/** Ends the streams of watches that nobody has any more, but that nobody has ended. */
const abandoned = new FinalizationRegistry<AbortController>((watch) => watch.abort());

/** Returns a watch that ends with the caller's signal, with the client, or when it is garbage. */
export function watching<E>(
  closing: AbortSignal,
  signal: AbortSignal | undefined,
  run: (signal: AbortSignal) => AsyncGenerator<E, void, undefined>,
): AsyncGenerator<E, void, undefined> {
  const controller = new AbortController();
  const events = run(AbortSignal.any([closing, controller.signal, ...(signal === undefined ? [] : [signal])]));
  abandoned.register(events, controller);
  return events;
}
