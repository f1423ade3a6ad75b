package io.cachesidecar.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertNull;

import java.time.Duration;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class LocalCacheTest {
  private long now;
  private LocalCache cache;

  @BeforeEach
  void open() {
    cache = new LocalCache(new Options.LocalCacheOptions(2, Duration.ofSeconds(5)), () -> now);
    cache.opened();
  }

  private static Product product(String id, long version, boolean stale) {
    var message = io.cachesidecar.v1.Product.newBuilder().setProductId(id).build();
    return new Product(message, new Freshness(Freshness.Source.L1, version, Duration.ofMillis(100), stale));
  }

  private void keep(String id, long version) {
    cache.end(cache.begin(id), product(id, version, false));
  }

  @Test
  void aProductHasTheAgeOfItsReplyAndOfItsStay() {
    keep("mug", 7);
    now = Duration.ofSeconds(1).toNanos();
    assertEquals(new Freshness(Freshness.Source.L0, 7, Duration.ofMillis(1100), false), cache.get("mug", null).cache());
    assertNull(cache.get("mug", Duration.ofMillis(1099)));
    now = Duration.ofMillis(4900).toNanos();
    assertNull(cache.get("mug", null));
  }

  @Test
  void aChangeDropsItUnlessItIsKnown() {
    keep("mug", 7);
    cache.changed("mug", 7);
    assertNotNull(cache.get("mug", null));
    cache.changed("mug", 8);
    assertNull(cache.get("mug", null));
  }

  @Test
  void aReplyThatAChangeHasOvertakenIsNotKept() {
    var load = cache.begin("mug");
    cache.changed("mug", 8);
    cache.end(load, product("mug", 7, false));
    assertNull(cache.get("mug", null));
    load = cache.begin("mug");
    cache.written("mug");
    cache.end(load, product("mug", 9, false));
    assertNull(cache.get("mug", null));
  }

  @Test
  void nothingIsKeptWhileTheWatchIsBroken() {
    keep("mug", 7);
    var load = cache.begin("cup");
    cache.closed();
    assertNull(cache.get("mug", null));
    keep("mug", 7);
    assertEquals(0, cache.size());
    cache.opened();
    cache.end(load, product("cup", 1, false));
    assertNull(cache.get("cup", null));
  }

  @Test
  void staleRepliesAndFailuresAreNotKept() {
    cache.end(cache.begin("mug"), product("mug", 1, true));
    cache.end(cache.begin("mug"), null);
    assertEquals(0, cache.size());
  }

  @Test
  void theLeastRecentlyUsedGoFirst() {
    keep("a", 1);
    keep("b", 1);
    cache.get("a", null);
    keep("c", 1);
    assertNotNull(cache.get("a", null));
    assertNull(cache.get("b", null));
  }
}
