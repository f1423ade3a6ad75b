package io.cachesidecar.client;

import java.time.Duration;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import java.util.function.LongSupplier;

/**
 * Products in the client's own process (L0), kept right by the sidecar's watch.
 *
 * <p>What a read returns: content that matched PostgreSQL less than {@code maxAge} ago, and of which no change has arrived since.
 * While the watch is broken, nothing is kept.
 *
 * <p>The race that matters: a read is on its way when its product changes, and the change arrives before the reply. The reply is
 * then older than the change, and must not be kept. So every read notes the changes that arrive meanwhile, and versions decide.
 */
final class LocalCache {
  private final int maxEntries;
  private final long maxAge;
  private final LongSupplier nanos;
  private final Map<String, Entry> entries = new LinkedHashMap<>(16, 0.75f, true);
  private final Map<String, Set<Load>> loads = new HashMap<>();
  /** Counts the times at which the watch was opened or broken; odd numbers while it is open. */
  private long watch;

  private record Entry(Product product, long received) {}

  /** A read on its way. */
  static final class Load {
    private final String id;
    private final long watch;
    /** The newest version that the watch has told since the read began. */
    private long changed;

    private Load(String id, long watch) {
      this.id = id;
      this.watch = watch;
    }
  }

  LocalCache(Options.LocalCacheOptions options, LongSupplier nanos) {
    maxEntries = options.entries();
    maxAge = options.maxAge().toNanos();
    this.nanos = nanos;
  }

  synchronized int size() {
    return entries.size();
  }

  /** Returns a product that is kept and not older than {@code limit}, with its age now; null if there is none. */
  synchronized Product get(String id, Duration limit) {
    Entry entry = entries.get(id);
    if (entry == null) return null;
    Freshness cache = entry.product.cache();
    long age = cache.age().toNanos() + nanos.getAsLong() - entry.received;
    if (age >= maxAge) {
      entries.remove(id);
      return null;
    }
    if (limit != null && age > limit.toNanos()) return null;
    return new Product(entry.product.message(), new Freshness(Freshness.Source.L0, cache.version(), Duration.ofNanos(age), false));
  }

  /** To be called before a read is sent. */
  synchronized Load begin(String id) {
    Load load = new Load(id, watch);
    loads.computeIfAbsent(id, key -> new HashSet<>()).add(load);
    return load;
  }

  /** Ends a read, and keeps what it has found, if anything, unless it may be outdated. */
  synchronized void end(Load load, Product product) {
    Set<Load> others = loads.get(load.id);
    others.remove(load);
    if (others.isEmpty()) loads.remove(load.id);
    if (product == null || product.cache().stale()) return;
    long version = product.cache().version();
    if (watch % 2 == 0 || load.watch != watch || version < load.changed) return;
    Entry held = entries.get(load.id);
    if (held != null && held.product.cache().version() > version) return;
    entries.put(load.id, new Entry(product, nanos.getAsLong()));
    if (entries.size() > maxEntries) entries.remove(entries.keySet().iterator().next());
  }

  /** The watch has told a change. */
  synchronized void changed(String id, long version) {
    Entry held = entries.get(id);
    if (held != null && held.product.cache().version() < version) entries.remove(id);
    for (Load load : loads.getOrDefault(id, Set.of())) load.changed = Math.max(load.changed, version);
  }

  /** The caller has changed it: what is on its way may be from before. */
  void written(String id) {
    changed(id, Long.MAX_VALUE);
  }

  /** The watch is open: from now on every change arrives. */
  synchronized void opened() {
    if (watch % 2 == 0) watch++;
  }

  /** Changes may be missed from now on. */
  synchronized void closed() {
    if (watch % 2 == 1) watch++;
    entries.clear();
  }
}
