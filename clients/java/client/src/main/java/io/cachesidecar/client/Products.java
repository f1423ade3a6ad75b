package io.cachesidecar.client;

import com.google.protobuf.FieldMask;
import io.cachesidecar.v1.BatchGetProductsRequest;
import io.cachesidecar.v1.Category;
import io.cachesidecar.v1.ChangeKind;
import io.cachesidecar.v1.CreateProductRequest;
import io.cachesidecar.v1.DeleteProductRequest;
import io.cachesidecar.v1.GetCategoriesRequest;
import io.cachesidecar.v1.GetProductRequest;
import io.cachesidecar.v1.GetProductResponse;
import io.cachesidecar.v1.ListProductsRequest;
import io.cachesidecar.v1.ProductServiceGrpc;
import io.cachesidecar.v1.UpdateProductRequest;
import io.cachesidecar.v1.WatchProductsRequest;
import io.cachesidecar.v1.WatchProductsResponse;
import io.grpc.MethodDescriptor;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.function.Supplier;
import java.util.function.UnaryOperator;
import java.util.stream.Stream;

/** The catalogue. */
public final class Products {
  /** How often {@code modify} begins again; each time, somebody else was faster. */
  private static final int MAX_TRIES = 10;

  private final Transport transport;
  private final JoinedGets joined;
  private final LocalCache local;

  Products(Transport transport) {
    this.transport = transport;
    joined = transport.options.joinWindow == null ? null : new JoinedGets(transport, (id, with) -> single(id, with, null), this::getMany);
    local = transport.options.localCache == null ? null : new LocalCache(transport.options.localCache, System::nanoTime);
    if (local != null) {
      Thread feeding = new Thread(this::feed, "cache-sidecar-products");
      feeding.setDaemon(true);
      feeding.start();
    }
  }

  /**
   * Products of a batch, in the order of the request.
   *
   * @param missing the IDs of products that do not exist
   * @param cache of the batch as a whole
   */
  public record Batch(List<Product> products, List<String> missing, Freshness cache) {}

  /**
   * The categories of the active products.
   *
   * @param categories those that are below no other one
   */
  public record Categories(List<Category> categories, Freshness cache) {}

  /**
   * A change of the catalogue.
   *
   * @param message what the sidecar told; the first event has the kind CHANGE_KIND_WATCH_STARTED
   * @param missed whether changes before it may have been missed: what was read before has to be read again
   */
  public record Change(WatchProductsResponse message, boolean missed) {
    public String productId() {
      return message.getProductId();
    }

    public ChangeKind kind() {
      return message.getKind();
    }

    /** To resume after this change. */
    public long version() {
      return message.getVersion();
    }
  }

  /** Completes with a product. Fails with NotFound. */
  public CompletableFuture<Product> get(String productId) {
    return get(productId, With.DEFAULTS);
  }

  public CompletableFuture<Product> get(String productId, With with) {
    return get(productId, with, null);
  }

  /** As above, or with what {@code fallback} loads if the sidecar is away. */
  public CompletableFuture<Product> get(
      String productId, With with, Supplier<? extends CompletableFuture<io.cachesidecar.v1.Product>> fallback) {
    if (local == null || with.bypass()) return read(productId, with, fallback);
    Product held = local.get(productId, with.maxAge());
    if (held != null) {
      transport.counters.localHits.increment();
      return CompletableFuture.completedFuture(held);
    }
    transport.counters.localMisses.increment();
    LocalCache.Load load = local.begin(productId);
    return read(productId, with, fallback).whenComplete((product, error) -> local.end(load, product));
  }

  /** Completes with up to 500 products. */
  public CompletableFuture<Batch> getMany(Collection<String> productIds, With with) {
    var request = BatchGetProductsRequest.newBuilder().addAllProductIds(productIds).setOptions(with.readOptions()).build();
    return transport
        .unary(ProductServiceGrpc.getBatchGetProductsMethod(), request, with)
        .thenApply(
            reply -> {
              List<Product> products = new ArrayList<>(reply.getProductsCount());
              for (int index = 0; index < reply.getProductsCount(); index++)
                products.add(new Product(reply.getProducts(index), Freshness.of(reply.getProductCaches(index))));
              return new Batch(products, List.copyOf(reply.getMissingList()), Freshness.of(reply.getCache()));
            });
  }

  /** Returns all active products, or those of a category, in the order of their IDs; waits for each page. */
  public Stream<Product> list(String category, int pageSize, With with) {
    return list(ProductQuery.ALL.in(category).ofSize(pageSize), with);
  }

  /** As above, for any list, such as one in another order. */
  public Stream<Product> list(ProductQuery query, With with) {
    return list(query.request(), with);
  }

  /** As above; page_token is not used, and options only if {@code with} says nothing of them. */
  public Stream<Product> list(ListProductsRequest query, With with) {
    var request = query.toBuilder();
    if (with.maxAge() != null || with.bypass()) request.setOptions(with.readOptions());
    return Pages.stream(
        token -> transport.unary(ProductServiceGrpc.getListProductsMethod(), request.setPageToken(token).build(), with),
        page -> page.getProductsList().stream().map(found -> new Product(found, Freshness.of(page.getCache()))).toList(),
        page -> page.getNextPageToken());
  }

  public Stream<Product> list(String category) {
    return list(category, 0, With.DEFAULTS);
  }

  /** Completes with the categories of the active products as trees, with counts. */
  public CompletableFuture<Categories> categories(With with) {
    var request = GetCategoriesRequest.newBuilder().setOptions(with.readOptions()).build();
    return transport
        .unary(ProductServiceGrpc.getGetCategoriesMethod(), request, with)
        .thenApply(reply -> new Categories(reply.getCategoriesList(), Freshness.of(reply.getCache())));
  }

  /** Fails with AlreadyExists. */
  public CompletableFuture<Product> create(io.cachesidecar.v1.Product product, With with) {
    var request = CreateProductRequest.newBuilder().setProduct(product).build();
    var reply = transport.unary(ProductServiceGrpc.getCreateProductMethod(), request, with);
    return written(product.getProductId(), reply.thenApply(created -> created.getProduct()));
  }

  public CompletableFuture<Product> create(io.cachesidecar.v1.Product product) {
    return create(product, With.DEFAULTS);
  }

  /**
   * Changes the fields named in the mask, or without one those that are set. If the product has an etag, fails with EtagMismatch
   * if it has changed since.
   */
  public CompletableFuture<Product> update(io.cachesidecar.v1.Product product, Collection<String> mask, With with) {
    var paths = FieldMask.newBuilder().addAllPaths(mask);
    var request = UpdateProductRequest.newBuilder().setProduct(product).setUpdateMask(paths).build();
    var reply = transport.unary(ProductServiceGrpc.getUpdateProductMethod(), request, with);
    return written(product.getProductId(), reply.thenApply(updated -> updated.getProduct()));
  }

  public CompletableFuture<Product> update(io.cachesidecar.v1.Product product) {
    return update(product, List.of(), With.DEFAULTS);
  }

  /**
   * Reads a product, has {@code change} say what to change, and writes that; again, if somebody else was faster. The builder holds
   * the product as read; all that may be changed of it is written.
   */
  public CompletableFuture<Product> modify(String productId, UnaryOperator<io.cachesidecar.v1.Product.Builder> change, With with) {
    return modify(productId, change, with, 1);
  }

  private CompletableFuture<Product> modify(
      String productId, UnaryOperator<io.cachesidecar.v1.Product.Builder> change, With with, int tries) {
    // From PostgreSQL: another sidecar's cache may not know yet who was faster.
    return read(productId, tries == 1 ? with : with.andFromStore(), null)
        .thenCompose(product -> update(change.apply(product.message().toBuilder()).build(), List.of("*"), with))
        .exceptionallyCompose(
            thrown -> {
              Throwable error = CacheSidecar.causeOf(thrown);
              boolean wasSlower = error instanceof SidecarException.EtagMismatch && tries < MAX_TRIES;
              return wasSlower ? modify(productId, change, with, tries + 1) : CompletableFuture.failedFuture(error);
            });
  }

  /** Fails with NotFound; if the etag is not empty, with EtagMismatch. */
  public CompletableFuture<Void> delete(String productId, String etag, With with) {
    var request = DeleteProductRequest.newBuilder().setProductId(productId).setEtag(etag).build();
    return transport
        .unary(ProductServiceGrpc.getDeleteProductMethod(), request, with)
        .thenAccept(
            deleted -> {
              if (local != null) local.written(productId);
            });
  }

  /** Returns every change of the catalogue from now on. */
  public Watch<Change> watch() {
    return watch(0);
  }

  /** Resumes after a version that was received before. */
  public Watch<Change> watch(long afterVersion) {
    return new Watch<>(transport, new Changes(afterVersion));
  }

  private static final class Changes implements Watch.Source<WatchProductsRequest, WatchProductsResponse, Change> {
    private long version;
    private boolean isFirst = true;
    private boolean hasMissed;

    Changes(long afterVersion) {
      version = afterVersion;
    }

    @Override
    public MethodDescriptor<WatchProductsRequest, WatchProductsResponse> method() {
      return ProductServiceGrpc.getWatchProductsMethod();
    }

    @Override
    public WatchProductsRequest request() {
      // Version 0 is none to resume after: who knows what has happened since?
      hasMissed |= !isFirst && version == 0;
      return WatchProductsRequest.newBuilder().setAfterVersion(version).build();
    }

    @Override
    public Change event(WatchProductsResponse message) {
      version = message.getVersion();
      boolean saysNothing = message.getKind() == ChangeKind.CHANGE_KIND_WATCH_STARTED && !isFirst && !hasMissed;
      Change change = saysNothing ? null : new Change(message, hasMissed);
      isFirst = hasMissed = false;
      return change;
    }

    @Override
    public boolean mends(SidecarException error) {
      if (!(error instanceof SidecarException.ChangesExpired) || version == 0) return false;
      version = 0;
      hasMissed = true;
      return true;
    }
  }

  private CompletableFuture<Product> read(
      String productId, With with, Supplier<? extends CompletableFuture<io.cachesidecar.v1.Product>> fallback) {
    if (joined != null && fallback == null) return joined.get(productId, with);
    return single(productId, with, fallback);
  }

  private CompletableFuture<Product> single(
      String productId, With with, Supplier<? extends CompletableFuture<io.cachesidecar.v1.Product>> fallback) {
    var request = GetProductRequest.newBuilder().setProductId(productId).setOptions(with.readOptions()).build();
    Supplier<CompletableFuture<Product>> load =
        fallback == null ? null : () -> fallback.get().thenApply(loaded -> new Product(loaded, Freshness.LOADED));
    return transport.withFallback(ProductServiceGrpc.getGetProductMethod(), request, with, Products::productOf, load);
  }

  private static Product productOf(GetProductResponse reply) {
    return new Product(reply.getProduct(), Freshness.of(reply.getCache()));
  }

  private CompletableFuture<Product> written(String productId, CompletableFuture<io.cachesidecar.v1.Product> reply) {
    return reply.thenApply(
        product -> {
          if (local != null) local.written(productId);
          return new Product(product, null);
        });
  }

  /** Tells the local cache of every change, until the client is closed. */
  private void feed() {
    while (!transport.isClosed()) {
      try (var watch = new Watch<>(transport, new Feed())) {
        while (watch.hasNext()) watch.next();
      } catch (SidecarException error) {
        // Such as a token that is not valid: the caller's own calls say so. Nothing is kept meanwhile.
        local.closed();
        java.util.concurrent.locks.LockSupport.parkNanos(1_000_000_000L);
      }
    }
  }

  private final class Feed implements Watch.Source<WatchProductsRequest, WatchProductsResponse, WatchProductsResponse> {
    @Override
    public MethodDescriptor<WatchProductsRequest, WatchProductsResponse> method() {
      return ProductServiceGrpc.getWatchProductsMethod();
    }

    /** Begins with the present: what was held before is gone. */
    @Override
    public WatchProductsRequest request() {
      return WatchProductsRequest.getDefaultInstance();
    }

    @Override
    public WatchProductsResponse event(WatchProductsResponse message) {
      if (message.getKind() == ChangeKind.CHANGE_KIND_WATCH_STARTED) local.opened();
      else local.changed(message.getProductId(), message.getVersion());
      return message;
    }

    @Override
    public void broken() {
      local.closed();
    }
  }
}
