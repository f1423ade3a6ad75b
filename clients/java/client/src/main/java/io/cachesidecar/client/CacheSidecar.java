package io.cachesidecar.client;

import com.google.protobuf.Message;
import io.grpc.CallOptions;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.TimeUnit;

/**
 * A cache sidecar: one connection, for as many callers as there are.
 *
 * <pre>{@code
 * try (CacheSidecar shop = CacheSidecar.connect(Options.fromEnvironment())) {
 *   Product mug = CacheSidecar.await(shop.products().get("mug"));
 * }
 * }</pre>
 */
public final class CacheSidecar implements AutoCloseable {
  /** grpc.health.v1, whose request is empty here, and in whose reply field 1 is the status, of which 1 is SERVING. */
  private static final MethodDescriptor<byte[], byte[]> HEALTH =
      MethodDescriptor.<byte[], byte[]>newBuilder()
          .setType(MethodDescriptor.MethodType.UNARY)
          .setFullMethodName("grpc.health.v1.Health/Check")
          .setRequestMarshaller(new Bytes())
          .setResponseMarshaller(new Bytes())
          .build();

  private final Transport transport;
  private final Products products;
  private final Carts carts;
  private final Sessions sessions;
  private final InventoryCalls inventory;
  private final Recommendations recommendations;
  private final Events events;
  private final Admin admin;

  private CacheSidecar(Options options) {
    transport = new Transport(options);
    products = new Products(transport);
    carts = new Carts(transport);
    sessions = new Sessions(transport);
    inventory = new InventoryCalls(transport);
    recommendations = new Recommendations(transport);
    events = new Events(transport);
    admin = new Admin(transport);
  }

  /** Returns a client. It connects when it is first needed; {@link #ready} waits for the sidecar. */
  public static CacheSidecar connect(Options options) {
    return new CacheSidecar(options);
  }

  public Products products() {
    return products;
  }

  public Carts carts() {
    return carts;
  }

  public Sessions sessions() {
    return sessions;
  }

  public InventoryCalls inventory() {
    return inventory;
  }

  public Recommendations recommendations() {
    return recommendations;
  }

  public Events events() {
    return events;
  }

  public Admin admin() {
    return admin;
  }

  public Counters counters() {
    return transport.counters;
  }

  /** {@code host:port}, or {@code unix:/path}. */
  public String address() {
    return transport.options.address;
  }

  /** Makes a call of any method of the protos, with deadline, retries, request ID and errors by reason. */
  public <Q extends Message, R> CompletableFuture<R> call(MethodDescriptor<Q, R> method, Q request, With with) {
    return transport.unary(method, request, with);
  }

  /** Waits until the sidecar is ready to answer; throws Unavailable if it is not within the timeout. */
  public void ready(Duration timeout) {
    long deadline = System.nanoTime() + timeout.toNanos();
    for (int failures = 0; ; failures++) {
      String problem = problem(deadline);
      if (problem.isEmpty()) return;
      long delay = TimeUnit.MILLISECONDS.toNanos(Transport.backoff(failures));
      if (System.nanoTime() + delay >= deadline)
        throw SidecarException.of(Status.UNAVAILABLE.withDescription(problem).asRuntimeException(), null);
      try {
        TimeUnit.NANOSECONDS.sleep(delay);
      } catch (InterruptedException interrupted) {
        Thread.currentThread().interrupt();
        throw SidecarException.of(Status.UNAVAILABLE.withDescription("interrupted: " + problem).asRuntimeException(), null);
      }
    }
  }

  private String problem(long deadline) {
    CallOptions options = CallOptions.DEFAULT.withWaitForReady().withDeadlineAfter(deadline - System.nanoTime(), TimeUnit.NANOSECONDS);
    try {
      byte[] reply = ClientCalls.blockingUnaryCall(transport.channel(), HEALTH, options, new byte[0]);
      boolean isServing = reply.length == 2 && reply[0] == 8 && reply[1] == 1;
      return isServing ? "" : "the cache sidecar at " + address() + " is not ready yet";
    } catch (StatusRuntimeException error) {
      return transport.errorOf(error).getMessage();
    }
  }

  /** Ends every call and watch, and the connection. */
  @Override
  public void close() {
    transport.close();
  }

  /** Waits for a result; throws the call's own exception instead of a CompletionException around it. */
  public static <T> T await(CompletableFuture<T> future) {
    try {
      return future.join();
    } catch (CompletionException error) {
      if (!(error.getCause() instanceof RuntimeException cause)) throw error;
      // It was made by a thread of gRPC: who has waited for it is to be found, too.
      cause.addSuppressed(new IllegalStateException("awaited here"));
      throw cause;
    }
  }

  static Throwable causeOf(Throwable thrown) {
    return thrown instanceof CompletionException && thrown.getCause() != null ? thrown.getCause() : thrown;
  }

  private static final class Bytes implements MethodDescriptor.Marshaller<byte[]> {
    @Override
    public InputStream stream(byte[] value) {
      return new ByteArrayInputStream(value);
    }

    @Override
    public byte[] parse(InputStream stream) {
      try {
        return stream.readAllBytes();
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
    }
  }
}
