package io.cachesidecar.client;

import static io.cachesidecar.client.CacheSidecar.await;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.protobuf.Message;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.cachesidecar.v1.*;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** Calls of a server in this process, which fails as a test says; the channel is real. */
class CallsTest {
  private static final With PATIENT = With.timeout(Duration.ofSeconds(60));
  private final List<Message> requests = Collections.synchronizedList(new ArrayList<>());
  private Server server;
  private CacheSidecar shop;

  private static StatusRuntimeException failed(Status.Code code, String reason, Map<String, String> metadata, Duration retryAfter) {
    var status = com.google.rpc.Status.newBuilder().setCode(code.value()).setMessage(reason);
    status.addDetails(Any.pack(ErrorInfo.newBuilder().setReason(reason).putAllMetadata(metadata).build()));
    if (retryAfter != null) status.addDetails(Any.pack(RetryInfo.newBuilder().setRetryDelay(With.message(retryAfter)).build()));
    return StatusProto.toStatusRuntimeException(status.build());
  }

  private void serve(io.grpc.BindableService... services) throws IOException {
    serve(Options.builder(), services);
  }

  private void serve(Options.Builder options, io.grpc.BindableService... services) throws IOException {
    var builder = Grpc.newServerBuilderForPort(0, InsecureServerCredentials.create());
    for (var service : services) builder.addService(service);
    server = builder.build().start();
    shop = CacheSidecar.connect(options.address("127.0.0.1:" + server.getPort()).build());
  }

  @AfterEach
  void close() {
    shop.close();
    server.shutdownNow();
  }

  /** Answers a call by its number, from 1. */
  private interface Answer<Q, R> {
    R of(Q request, int number);
  }

  private <Q extends Message, R> void answer(Q request, StreamObserver<R> observer, Answer<Q, R> answer) {
    requests.add(request);
    int number = (int) requests.stream().filter(other -> other.getClass() == request.getClass()).count();
    try {
      observer.onNext(answer.of(request, number));
      observer.onCompleted();
    } catch (StatusRuntimeException error) {
      observer.onError(error);
    }
  }

  private CartServiceGrpc.CartServiceImplBase carts(Answer<AddCartItemRequest, AddCartItemResponse> answer) {
    return new CartServiceGrpc.CartServiceImplBase() {
      @Override
      public void addCartItem(AddCartItemRequest request, StreamObserver<AddCartItemResponse> observer) {
        answer(request, observer, answer);
      }
    };
  }

  private ProductServiceGrpc.ProductServiceImplBase products(Answer<GetProductRequest, GetProductResponse> answer) {
    return new ProductServiceGrpc.ProductServiceImplBase() {
      @Override
      public void getProduct(GetProductRequest request, StreamObserver<GetProductResponse> observer) {
        answer(request, observer, answer);
      }

      @Override
      public void batchGetProducts(BatchGetProductsRequest request, StreamObserver<BatchGetProductsResponse> observer) {
        answer(
            request,
            observer,
            (batch, number) -> {
              var reply = BatchGetProductsResponse.newBuilder();
              for (String id : batch.getProductIdsList()) {
                if (id.equals("none")) reply.addMissing(id);
                else reply.addProducts(io.cachesidecar.v1.Product.newBuilder().setProductId(id)).addProductCaches(CacheMetadata.newBuilder());
              }
              return reply.build();
            });
      }
    };
  }

  private static GetProductResponse found(GetProductRequest request, int number) {
    var product = io.cachesidecar.v1.Product.newBuilder().setProductId(request.getProductId()).setTitle("A mug");
    return GetProductResponse.newBuilder().setProduct(product).build();
  }

  @Test
  void aWriteIsRepeatedWithItsRequestIdWhileTheSidecarIsAway() throws IOException {
    serve(
        carts(
            (request, number) -> {
              if (number < 8) throw Status.UNAVAILABLE.asRuntimeException();
              return AddCartItemResponse.getDefaultInstance();
            }));
    await(shop.carts().add("u", CartItem.getDefaultInstance(), PATIENT));
    var ids = requests.stream().map(request -> ((AddCartItemRequest) request).getRequestId()).toList();
    assertEquals(8, ids.size());
    assertEquals(1, ids.stream().distinct().count());
    assertEquals(36, ids.get(0).length());
    assertEquals(7, shop.counters().retries());
  }

  @Test
  void errorsHaveATypeByReasonAndTheirDetails() throws IOException {
    var metadata = Map.of("product_id", "mug", "available", "3");
    serve(
        products(
            (request, number) -> {
              throw failed(Status.Code.FAILED_PRECONDITION, "OUT_OF_STOCK", metadata, null);
            }));
    var error = assertThrows(SidecarException.OutOfStock.class, () -> await(shop.products().get("mug", PATIENT)));
    assertEquals("mug", error.productId());
    assertEquals(3, error.available());
  }

  @Test
  void anOverloadedSidecarIsAskedAgainTwice() throws IOException {
    serve(
        products(
            (request, number) -> {
              throw failed(Status.Code.RESOURCE_EXHAUSTED, "OVERLOADED", Map.of(), Duration.ofMillis(1));
            }));
    assertThrows(SidecarException.Overloaded.class, () -> await(shop.products().get("mug", PATIENT)));
    assertEquals(3, requests.size());
  }

  @Test
  void noRetryBeginsAfterTheDeadline() throws IOException {
    serve(
        products(
            (request, number) -> {
              throw failed(Status.Code.UNAVAILABLE, "TIER_UNAVAILABLE", Map.of("tier", "PostgreSQL"), Duration.ofMinutes(2));
            }));
    var error = assertThrows(SidecarException.Unavailable.class, () -> await(shop.products().get("mug", PATIENT)));
    assertEquals("PostgreSQL", error.tier());
    assertEquals(1, requests.size());
  }

  @Test
  void getsWithinAShortTimeAreOneBatch() throws IOException {
    serve(Options.builder().joinGets(Duration.ofSeconds(3)), products(CallsTest::found));
    var gets = List.of("a", "none", "b", "a").stream().map(id -> shop.products().get(id, PATIENT)).toList();
    assertEquals("a", await(gets.get(0)).productId());
    assertThrows(SidecarException.NotFound.class, () -> await(gets.get(1)));
    assertEquals("b", await(gets.get(2)).productId());
    assertEquals("a", await(gets.get(3)).productId());
    assertEquals(List.of("a", "none", "b"), List.copyOf(((BatchGetProductsRequest) requests.get(0)).getProductIdsList()));
  }

  @Test
  void aFallbackIsUsedAtOnceWhileTheSidecarIsAwayAndIsBounded() throws IOException, InterruptedException {
    serve(Options.builder().fallbacks(1, Duration.ofSeconds(60)), products(CallsTest::found));
    var loaded = io.cachesidecar.v1.Product.newBuilder().setProductId("mug").setTitle("from elsewhere").build();
    assertEquals("A mug", await(shop.products().get("mug", PATIENT, () -> CompletableFuture.completedFuture(loaded))).title());
    server.shutdownNow().awaitTermination();
    Product found = await(shop.products().get("mug", PATIENT, () -> CompletableFuture.completedFuture(loaded)));
    assertEquals("from elsewhere", found.title());
    assertEquals(Freshness.Source.FALLBACK, found.cache().source());
    var never = new CompletableFuture<io.cachesidecar.v1.Product>();
    var started = new CompletableFuture<Void>();
    var slow =
        shop.products()
            .get(
                "mug",
                PATIENT,
                () -> {
                  started.complete(null);
                  return never;
                });
    started.join();
    assertThrows(SidecarException.Unavailable.class, () -> await(shop.products().get("mug", PATIENT, () -> never)));
    assertFalse(slow.isDone());
    assertEquals(2, shop.counters().fallbacks());
    assertEquals(1, shop.counters().refusedFallbacks());
  }

  @Test
  void anEditIsOneCallAndAnEmptyOneNone() throws IOException {
    serve(
        new CartServiceGrpc.CartServiceImplBase() {
          @Override
          public void applyCartChanges(ApplyCartChangesRequest request, StreamObserver<ApplyCartChangesResponse> observer) {
            answer(request, observer, (asked, number) -> ApplyCartChangesResponse.getDefaultInstance());
          }
        });
    assertTrue(await(shop.carts().edit("u", cart -> cart.add("mug", 2, Money.of("9.99", "EUR")).remove("cup", Map.of()))).isPresent());
    assertFalse(await(shop.carts().edit("u", cart -> {})).isPresent());
    assertEquals(2, ((ApplyCartChangesRequest) requests.get(0)).getChangesCount());
    assertEquals(1, requests.size());
  }

  @Test
  void aWatchResumesAfterTheLastVersionAndSaysWhereItCannot() throws IOException {
    List<Long> resumed = Collections.synchronizedList(new ArrayList<>());
    serve(
        new ProductServiceGrpc.ProductServiceImplBase() {
          @Override
          public void watchProducts(WatchProductsRequest request, StreamObserver<WatchProductsResponse> observer) {
            resumed.add(request.getAfterVersion());
            if (resumed.size() == 3) {
              observer.onError(failed(Status.Code.OUT_OF_RANGE, "CHANGES_EXPIRED", Map.of(), null));
              return;
            }
            long version = 10 * resumed.size();
            observer.onNext(change(ChangeKind.CHANGE_KIND_WATCH_STARTED, "", version));
            observer.onNext(change(ChangeKind.CHANGE_KIND_UPDATED, "mug", version + 1));
            observer.onError(Status.UNAVAILABLE.asRuntimeException());
          }
        });
    List<String> seen = new ArrayList<>();
    try (var watch = shop.products().watch()) {
      while (seen.size() < 4) {
        var change = watch.next();
        seen.add(change.version() + (change.missed() ? " missed" : ""));
      }
    }
    assertEquals(List.of("10", "11", "21", "40 missed"), seen);
    assertEquals(List.of(0L, 11L, 21L, 0L), resumed);
  }

  private static WatchProductsResponse change(ChangeKind kind, String id, long version) {
    return WatchProductsResponse.newBuilder().setKind(kind).setProductId(id).setVersion(version).build();
  }

  @Test
  void whatFollowsACallMayWaitForAnother() throws IOException {
    serve(products(CallsTest::found));
    var alone = shop.products().get("mug", PATIENT).thenApply(mug -> await(shop.products().get("cup", PATIENT)).productId());
    // Nobody waits in `join`, which would handle the replies itself.
    var found = new CompletableFuture<String>();
    alone.thenAccept(found::complete);
    assertEquals("cup", found.join());
    assertEquals("cup", await(shop.products().get("mug", PATIENT).thenApply(mug -> await(shop.products().get("cup", PATIENT)).productId())));
  }

  @Test
  void severalThreadsMayWaitForOneCallWhichAnotherMayCancel() throws IOException {
    var gate = new CompletableFuture<Void>();
    serve(
        products(
            (request, number) -> {
              gate.join();
              return found(request, number);
            }));
    var call = shop.products().get("mug", PATIENT);
    var waiting = List.of(CompletableFuture.supplyAsync(call::join), CompletableFuture.supplyAsync(call::join));
    var cancelled = shop.products().get("mug", PATIENT);
    var without = CompletableFuture.supplyAsync(() -> assertThrows(CancellationException.class, cancelled::join));
    cancelled.cancel(true);
    without.join();
    gate.complete(null);
    waiting.forEach(one -> assertEquals("A mug", one.join().title()));
  }

  @Test
  void aClosedClientEndsItsCalls() throws IOException, InterruptedException {
    var asked = new CompletableFuture<Void>();
    serve(
        new ProductServiceGrpc.ProductServiceImplBase() {
          @Override
          public void getProduct(GetProductRequest request, StreamObserver<GetProductResponse> observer) {
            asked.complete(null);
          }
        });
    var call = shop.products().get("mug", PATIENT);
    asked.join();
    shop.close();
    assertTrue(assertThrows(SidecarException.class, () -> await(call)).getMessage().contains("the client is closed"));
  }

  @Test
  void aClosedClientEndsWhatWaitsForItsTimer() throws IOException, InterruptedException {
    serve(
        Options.builder().joinGets(Duration.ofHours(1)),
        carts(
            (request, number) -> {
              throw failed(Status.Code.UNAVAILABLE, "", Map.of(), Duration.ofSeconds(50));
            }),
        new UserEventServiceGrpc.UserEventServiceImplBase() {
          @Override
          public StreamObserver<StreamUserEventsRequest> streamUserEvents(StreamObserver<StreamUserEventsResponse> observer) {
            observer.onError(failed(Status.Code.UNAVAILABLE, "", Map.of(), Duration.ofSeconds(50)));
            return new StreamObserver<>() {
              @Override
              public void onNext(StreamUserEventsRequest request) {}

              @Override
              public void onError(Throwable thrown) {}

              @Override
              public void onCompleted() {}
            };
          }
        });
    var written = shop.events().stream(List.of(List.of(UserEvent.getDefaultInstance())).iterator(), reply -> {}, PATIENT);
    var joined = shop.products().get("mug");
    var added = shop.carts().add("u", CartItem.getDefaultInstance(), PATIENT);
    while (shop.counters().retries() < 2) Thread.sleep(1);
    shop.close();
    for (var call : List.of(joined, added, written)) {
      var error = assertThrows(ExecutionException.class, () -> call.get(10, TimeUnit.SECONDS));
      assertTrue(error.getCause().getMessage().contains("closed"), error.toString());
    }
  }

  @Test
  void aHookThatFailsNeitherFailsACallNorHangsIt() throws Exception {
    serve(
        Options.builder()
            .onCall(
                call -> {
                  throw new IllegalStateException("no label");
                }),
        products(
            (request, number) -> {
              if (request.getProductId().equals("none")) throw failed(Status.Code.NOT_FOUND, "NOT_FOUND", Map.of(), null);
              return found(request, number);
            }));
    assertEquals("A mug", shop.products().get("mug").get(10, TimeUnit.SECONDS).title());
    var error =
        assertThrows(
            ExecutionException.class,
            () -> shop.products().get("none").get(10, TimeUnit.SECONDS));
    assertTrue(error.getCause() instanceof SidecarException.NotFound);
  }

  @Test
  void headersThatCannotBeMadeFailTheCallInEveryAttempt() throws IOException {
    var attempts = new AtomicInteger();
    serve(
        Options.builder()
            .headers(
                method -> {
                  if (attempts.incrementAndGet() > 1) throw new IllegalStateException("no trace");
                  return Map.of();
                }),
        products(
            (request, number) -> {
              throw Status.UNAVAILABLE.asRuntimeException();
            }));
    var call = shop.products().get("mug", PATIENT);
    var error = assertThrows(ExecutionException.class, () -> call.get(10, TimeUnit.SECONDS));
    assertEquals("no trace", error.getCause().getMessage());
  }
}
