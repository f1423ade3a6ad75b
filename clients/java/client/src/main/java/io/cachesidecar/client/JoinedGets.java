package io.cachesidecar.client;

import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.function.BiFunction;

/** Sends the gets of products within a short time as one batch. Each caller has its own product or error. */
final class JoinedGets {
  /** The most IDs of one BatchGet. */
  private static final int MAX_IDS = 500;

  private final Transport transport;
  private final Duration window;
  private final BiFunction<String, With, CompletableFuture<Product>> one;
  private final BiFunction<List<String>, With, CompletableFuture<Products.Batch>> several;
  private Map<With, Map<String, List<CompletableFuture<Product>>>> waiting = new LinkedHashMap<>();

  JoinedGets(
      Transport transport,
      BiFunction<String, With, CompletableFuture<Product>> one,
      BiFunction<List<String>, With, CompletableFuture<Products.Batch>> several) {
    this.transport = transport;
    this.window = transport.options.joinWindow;
    this.one = one;
    this.several = several;
  }

  CompletableFuture<Product> get(String id, With with) {
    CompletableFuture<Product> result = new CompletableFuture<>();
    synchronized (this) {
      if (waiting.isEmpty()) transport.later(this::send, window.toNanos());
      waiting.computeIfAbsent(with, key -> new LinkedHashMap<>()).computeIfAbsent(id, key -> new ArrayList<>()).add(result);
    }
    return result;
  }

  private void send() {
    Map<With, Map<String, List<CompletableFuture<Product>>>> groups;
    synchronized (this) {
      groups = waiting;
      waiting = new LinkedHashMap<>();
    }
    groups.forEach(
        (with, callers) -> {
          List<String> ids = List.copyOf(callers.keySet());
          for (int start = 0; start < ids.size(); start += MAX_IDS)
            load(ids.subList(start, Math.min(start + MAX_IDS, ids.size())), callers, with);
        });
  }

  private void load(List<String> ids, Map<String, List<CompletableFuture<Product>>> callers, With with) {
    if (ids.size() == 1) {
      loadAlone(ids.get(0), callers, with);
      return;
    }
    several
        .apply(ids, with)
        .whenComplete(
            (batch, thrown) -> {
              if (thrown == null) {
                transport.counters.joinedGets.add(ids.size());
                deliver(ids, callers, with, batch);
                return;
              }
              Throwable error = CacheSidecar.causeOf(thrown);
              if (error instanceof SidecarException.ReplyTooLarge || error instanceof SidecarException.InvalidRequest) {
                // Which of them is too large, or invalid? The others are to be read all the same.
                int middle = (ids.size() + 1) / 2;
                load(ids.subList(0, middle), callers, with);
                load(ids.subList(middle, ids.size()), callers, with);
              } else {
                for (String id : ids) callers.get(id).forEach(caller -> caller.completeExceptionally(error));
              }
            });
  }

  private void deliver(List<String> ids, Map<String, List<CompletableFuture<Product>>> callers, With with, Products.Batch batch) {
    Map<String, Product> found = new LinkedHashMap<>();
    batch.products().forEach(product -> found.put(product.productId(), product));
    for (String id : ids) {
      if (found.containsKey(id)) {
        callers.get(id).forEach(caller -> caller.complete(found.get(id)));
      } else if (batch.missing().contains(id)) {
        callers.get(id).forEach(caller -> caller.completeExceptionally(SidecarException.notFound("product", id)));
      } else {
        // Its row cannot be read: the error of a read of its own says why.
        loadAlone(id, callers, with);
      }
    }
  }

  private void loadAlone(String id, Map<String, List<CompletableFuture<Product>>> callers, With with) {
    one.apply(id, with)
        .whenComplete(
            (product, thrown) -> {
              for (CompletableFuture<Product> caller : callers.get(id)) {
                if (thrown == null) caller.complete(product);
                else caller.completeExceptionally(CacheSidecar.causeOf(thrown));
              }
            });
  }
}
