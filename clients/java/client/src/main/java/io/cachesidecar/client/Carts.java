package io.cachesidecar.client;

import io.cachesidecar.v1.AddCartItemRequest;
import io.cachesidecar.v1.ApplyCartChangesRequest;
import io.cachesidecar.v1.CartItem;
import io.cachesidecar.v1.CartServiceGrpc;
import io.cachesidecar.v1.ClearCartRequest;
import io.cachesidecar.v1.GetCartRequest;
import io.cachesidecar.v1.ListAbandonedCartsRequest;
import io.cachesidecar.v1.MergeCartsRequest;
import io.cachesidecar.v1.RemoveCartItemRequest;
import io.cachesidecar.v1.ReplaceCartRequest;
import io.cachesidecar.v1.SetCartItemQuantityRequest;
import io.cachesidecar.v1.WatchCartRequest;
import io.cachesidecar.v1.WatchCartResponse;
import io.grpc.MethodDescriptor;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.function.Consumer;
import java.util.function.Supplier;
import java.util.stream.Stream;

/** Shopping carts. */
public final class Carts {
  private final Transport transport;

  Carts(Transport transport) {
    this.transport = transport;
  }

  /**
   * A state of a cart.
   *
   * @param missed whether the watch has begun again: this is the state now, but there may have been others
   */
  public record Change(Cart cart, boolean missed) {}

  /** Completes with the cart of a user; an empty one if the user has none. */
  public CompletableFuture<Cart> get(String userId) {
    return get(userId, With.DEFAULTS, null);
  }

  public CompletableFuture<Cart> get(String userId, With with) {
    return get(userId, with, null);
  }

  /** As above, or with what {@code fallback} loads if the sidecar is away. */
  public CompletableFuture<Cart> get(String userId, With with, Supplier<? extends CompletableFuture<io.cachesidecar.v1.Cart>> fallback) {
    var request = GetCartRequest.newBuilder().setUserId(userId).setOptions(with.readOptions()).build();
    Supplier<CompletableFuture<Cart>> load =
        fallback == null ? null : () -> fallback.get().thenApply(loaded -> new Cart(loaded, Freshness.LOADED));
    return transport.withFallback(
        CartServiceGrpc.getGetCartMethod(), request, with, reply -> new Cart(reply.getCart(), Freshness.of(reply.getCache())), load);
  }

  /** Replaces all items. If the etag is not empty, fails with EtagMismatch, with the current cart, if it has changed since. */
  public CompletableFuture<Cart> replace(String userId, List<CartItem> items, String etag, With with) {
    var cart = io.cachesidecar.v1.Cart.newBuilder().setUserId(userId).addAllItems(items).setEtag(etag);
    var request = ReplaceCartRequest.newBuilder().setCart(cart).build();
    return transport.unary(CartServiceGrpc.getReplaceCartMethod(), request, with).thenApply(reply -> new Cart(reply.getCart(), null, reply.getCataloguePricesList()));
  }

  public CompletableFuture<Cart> add(String userId, String productId, int quantity, Money unitPrice) {
    return add(userId, CartEdit.item(productId, quantity, unitPrice, Map.of()), With.DEFAULTS);
  }

  /** Adds pieces at the price of the catalogue. Fails with NotFound if it has no such product, or it is not active. */
  public CompletableFuture<Cart> add(String userId, String productId, int quantity) {
    return add(userId, CartEdit.item(productId, quantity, null, Map.of()), With.DEFAULTS);
  }

  /** An item without a price gets that of the catalogue. */
  public CompletableFuture<Cart> add(String userId, CartItem item, With with) {
    var request = AddCartItemRequest.newBuilder().setUserId(userId).setItem(item).build();
    return transport.unary(CartServiceGrpc.getAddCartItemMethod(), request, with).thenApply(reply -> new Cart(reply.getCart(), null, reply.getCataloguePricesList()));
  }

  /** Sets the quantity of an item; 0 removes it. Fails with NotFound. */
  public CompletableFuture<Cart> setQuantity(String userId, String productId, Map<String, String> options, int quantity, With with) {
    var request =
        SetCartItemQuantityRequest.newBuilder()
            .setUserId(userId)
            .setProductId(productId)
            .putAllOptions(options)
            .setQuantity(quantity)
            .build();
    return transport
        .unary(CartServiceGrpc.getSetCartItemQuantityMethod(), request, with)
        .thenApply(reply -> new Cart(reply.getCart(), null));
  }

  public CompletableFuture<Cart> remove(String userId, String productId, Map<String, String> options, With with) {
    var request = RemoveCartItemRequest.newBuilder().setUserId(userId).setProductId(productId).putAllOptions(options).build();
    return transport.unary(CartServiceGrpc.getRemoveCartItemMethod(), request, with).thenApply(reply -> new Cart(reply.getCart(), null));
  }

  public CompletableFuture<Cart> clear(String userId, With with) {
    var request = ClearCartRequest.newBuilder().setUserId(userId).build();
    return transport.unary(CartServiceGrpc.getClearCartMethod(), request, with).thenApply(reply -> new Cart(reply.getCart(), null));
  }

  /** Moves a guest's items to a user's cart: at login. */
  public CompletableFuture<Cart> merge(String userId, String guestUserId, With with) {
    var request = MergeCartsRequest.newBuilder().setUserId(userId).setGuestUserId(guestUserId).build();
    return transport.unary(CartServiceGrpc.getMergeCartsMethod(), request, with).thenApply(reply -> new Cart(reply.getCart(), null));
  }

  /** Makes several changes at once: all of them or none. Completes with the cart; empty if there was nothing to change. */
  public CompletableFuture<Optional<Cart>> edit(String userId, Consumer<CartEdit> edit) {
    return edit(userId, edit, With.DEFAULTS);
  }

  public CompletableFuture<Optional<Cart>> edit(String userId, Consumer<CartEdit> edit, With with) {
    CartEdit collected = new CartEdit();
    edit.accept(collected);
    if (collected.changes.isEmpty()) return CompletableFuture.completedFuture(Optional.empty());
    var request = ApplyCartChangesRequest.newBuilder().setUserId(userId).addAllChanges(collected.changes).build();
    return transport
        .unary(CartServiceGrpc.getApplyCartChangesMethod(), request, with)
        .thenApply(reply -> Optional.of(new Cart(reply.getCart(), null, reply.getCataloguePricesList())));
  }

  /** Returns the carts with items that have not been changed for so long, from PostgreSQL; waits for each page. */
  public Stream<Cart> listAbandoned(Duration idleFor, int pageSize, With with) {
    var request = ListAbandonedCartsRequest.newBuilder().setIdleFor(With.message(idleFor)).setPageSize(pageSize);
    return Pages.stream(
        token -> transport.unary(CartServiceGrpc.getListAbandonedCartsMethod(), request.setPageToken(token).build(), with),
        page -> page.getCartsList().stream().map(cart -> new Cart(cart, Freshness.of(page.getCache()))).toList(),
        page -> page.getNextPageToken());
  }

  /** Returns the cart, and again after each change; a slow reader gets the latest state only. */
  public Watch<Change> watch(String userId) {
    var request = WatchCartRequest.newBuilder().setUserId(userId).build();
    return new Watch<>(
        transport,
        new Watch.Source<WatchCartRequest, WatchCartResponse, Change>() {
          private boolean missed;

          @Override
          public MethodDescriptor<WatchCartRequest, WatchCartResponse> method() {
            return CartServiceGrpc.getWatchCartMethod();
          }

          @Override
          public WatchCartRequest request() {
            return request;
          }

          @Override
          public Change event(WatchCartResponse message) {
            Change change = new Change(new Cart(message.getCart(), Freshness.of(message.getCache())), missed);
            missed = false;
            return change;
          }

          @Override
          public void broken() {
            missed = true;
          }
        });
  }
}
