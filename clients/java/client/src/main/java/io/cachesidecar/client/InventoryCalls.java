package io.cachesidecar.client;

import io.cachesidecar.v1.AdjustInventoryRequest;
import io.cachesidecar.v1.BatchGetInventoryRequest;
import io.cachesidecar.v1.BatchGetInventoryResponse;
import io.cachesidecar.v1.CommitReservationRequest;
import io.cachesidecar.v1.ExtendReservationRequest;
import io.cachesidecar.v1.GetInventoryRequest;
import io.cachesidecar.v1.GetInventoryResponse;
import io.cachesidecar.v1.GetReservationRequest;
import io.cachesidecar.v1.Inventory;
import io.cachesidecar.v1.InventoryServiceGrpc;
import io.cachesidecar.v1.ListReservationsRequest;
import io.cachesidecar.v1.ReleaseReservationRequest;
import io.cachesidecar.v1.Reservation;
import io.cachesidecar.v1.ReservationItem;
import io.cachesidecar.v1.ReservationState;
import io.cachesidecar.v1.ReserveInventoryRequest;
import io.cachesidecar.v1.SetInventoryRequest;
import io.cachesidecar.v1.WatchInventoryRequest;
import io.cachesidecar.v1.WatchInventoryResponse;
import io.grpc.MethodDescriptor;
import java.time.Duration;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Stream;

/** Stock and reservations: of these, the messages of the protos. */
public final class InventoryCalls {
  private final Transport transport;

  InventoryCalls(Transport transport) {
    this.transport = transport;
  }

  /**
   * The stock of a product as it is now, or that the watch has begun, without a product.
   *
   * @param missed whether the watch has begun again: the current states follow, but a stock that was deleted meanwhile is not told
   */
  public record Change(WatchInventoryResponse message, boolean missed) {}

  /** Completes with the stock of a product. Fails with NotFound if none was ever set. */
  public CompletableFuture<GetInventoryResponse> get(String productId, With with) {
    var request = GetInventoryRequest.newBuilder().setProductId(productId).setOptions(with.readOptions()).build();
    return transport.unary(InventoryServiceGrpc.getGetInventoryMethod(), request, with);
  }

  /** Completes with the stocks of up to 500 products. */
  public CompletableFuture<BatchGetInventoryResponse> getMany(Collection<String> productIds, With with) {
    var request = BatchGetInventoryRequest.newBuilder().addAllProductIds(productIds).setOptions(with.readOptions()).build();
    return transport.unary(InventoryServiceGrpc.getBatchGetInventoryMethod(), request, with);
  }

  /** Sets how many pieces can be reserved; those that are reserved stay so. {@code bucketCount} 0 keeps the number. */
  public CompletableFuture<Inventory> set(String productId, long available, String etag, int bucketCount, With with) {
    var request =
        SetInventoryRequest.newBuilder().setProductId(productId).setAvailable(available).setEtag(etag).setBucketCount(bucketCount).build();
    return transport.unary(InventoryServiceGrpc.getSetInventoryMethod(), request, with).thenApply(reply -> reply.getInventory());
  }

  public CompletableFuture<Inventory> set(String productId, long available) {
    return set(productId, available, "", 0, With.DEFAULTS);
  }

  /** Adds pieces, or removes them if {@code delta} is negative. Fails with OutOfStock, NotFound. */
  public CompletableFuture<Inventory> adjust(String productId, long delta, String reason, With with) {
    var request = AdjustInventoryRequest.newBuilder().setProductId(productId).setDelta(delta).setReason(reason).build();
    return transport.unary(InventoryServiceGrpc.getAdjustInventoryMethod(), request, with).thenApply(reply -> reply.getInventory());
  }

  /** Reserves all of the pieces or none, for {@code hold} or, if that is null, 15 minutes. Fails with OutOfStock, NotFound. */
  public CompletableFuture<Reservation> reserve(String userId, List<ReservationItem> items, Duration hold, With with) {
    var request = ReserveInventoryRequest.newBuilder().setUserId(userId).addAllItems(items);
    if (hold != null) request.setHoldDuration(With.message(hold));
    return transport
        .unary(InventoryServiceGrpc.getReserveInventoryMethod(), request.build(), with)
        .thenApply(reply -> reply.getReservation());
  }

  public CompletableFuture<Reservation> reserve(String userId, Map<String, Integer> quantities) {
    List<ReservationItem> items =
        quantities.entrySet().stream()
            .map(entry -> ReservationItem.newBuilder().setProductId(entry.getKey()).setQuantity(entry.getValue()).build())
            .toList();
    return reserve(userId, items, null, With.DEFAULTS);
  }

  /** Holds the pieces for so long from now. Fails with ReservationEnded, NotFound. */
  public CompletableFuture<Reservation> extend(String reservationId, Duration hold, With with) {
    var request = ExtendReservationRequest.newBuilder().setReservationId(reservationId);
    if (hold != null) request.setHoldDuration(With.message(hold));
    return transport
        .unary(InventoryServiceGrpc.getExtendReservationMethod(), request.build(), with)
        .thenApply(reply -> reply.getReservation());
  }

  /** The pieces are sold. Fails with ReservationEnded, NotFound. */
  public CompletableFuture<Reservation> commit(String reservationId, With with) {
    var request = CommitReservationRequest.newBuilder().setReservationId(reservationId).build();
    return transport.unary(InventoryServiceGrpc.getCommitReservationMethod(), request, with).thenApply(reply -> reply.getReservation());
  }

  /** The pieces are available again. Fails with ReservationEnded, NotFound. */
  public CompletableFuture<Reservation> release(String reservationId, With with) {
    var request = ReleaseReservationRequest.newBuilder().setReservationId(reservationId).build();
    return transport.unary(InventoryServiceGrpc.getReleaseReservationMethod(), request, with).thenApply(reply -> reply.getReservation());
  }

  public CompletableFuture<Reservation> getReservation(String reservationId, With with) {
    var request = GetReservationRequest.newBuilder().setReservationId(reservationId).build();
    return transport.unary(InventoryServiceGrpc.getGetReservationMethod(), request, with).thenApply(reply -> reply.getReservation());
  }

  /** Returns reservations, the newest first: of a user, if that is not empty, and in a state, if that is specified. */
  public Stream<Reservation> listReservations(String userId, ReservationState state, int pageSize, With with) {
    var request = ListReservationsRequest.newBuilder().setUserId(userId).setState(state).setPageSize(pageSize);
    return Pages.stream(
        token -> transport.unary(InventoryServiceGrpc.getListReservationsMethod(), request.setPageToken(token).build(), with),
        page -> page.getReservationsList(),
        page -> page.getNextPageToken());
  }

  /** Returns the stocks of products, of categories, or both: as they are, and after each change. */
  public Watch<Change> watch(Collection<String> productIds, Collection<String> categories) {
    var request = WatchInventoryRequest.newBuilder().addAllProductIds(productIds).addAllCategories(categories).build();
    return new Watch<>(
        transport,
        new Watch.Source<WatchInventoryRequest, WatchInventoryResponse, Change>() {
          private boolean isFirst = true;

          @Override
          public MethodDescriptor<WatchInventoryRequest, WatchInventoryResponse> method() {
            return InventoryServiceGrpc.getWatchInventoryMethod();
          }

          @Override
          public WatchInventoryRequest request() {
            return request;
          }

          @Override
          public Change event(WatchInventoryResponse message) {
            if (message.getProductId().isEmpty()) {
              boolean missed = !isFirst;
              isFirst = false;
              return new Change(message, missed);
            }
            return new Change(message, false);
          }
        });
  }
}
