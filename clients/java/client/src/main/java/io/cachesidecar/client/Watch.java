package io.cachesidecar.client;

import com.google.protobuf.Message;
import io.grpc.CallOptions;
import io.grpc.Context;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.stub.ClientCalls;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * A watch that survives the sidecar's restarts: an iterator that waits for the next event, and ends when it is closed, by any
 * thread. An error that a new stream would not mend is thrown as a {@link SidecarException}.
 */
public final class Watch<E> implements Iterator<E>, AutoCloseable {
  private final Transport transport;
  private final Source<?, ?, E> source;
  private final CountDownLatch closed = new CountDownLatch(1);
  private volatile Context.CancellableContext context;
  private Iterator<?> messages;
  private int failures;
  private E next;

  Watch(Transport transport, Source<?, ?, E> source) {
    this.transport = transport;
    this.source = source;
    transport.closesWithClient(this);
  }

  /** What a watch reads, and what it makes of it. */
  interface Source<Q extends Message, R, E> {
    MethodDescriptor<Q, R> method();

    /** Returns the request of the next stream. */
    Q request();

    /** Returns the event of a message; null for one that says nothing new. */
    E event(R message);

    /** Whether another stream mends an error that is not the connection's. */
    default boolean mends(SidecarException error) {
      return false;
    }

    /** A stream has ended. */
    default void broken() {}
  }

  /** Waits for the next event; false if the watch was closed. */
  @Override
  public boolean hasNext() {
    while (next == null && !isClosed()) next = read(source);
    return next != null;
  }

  @Override
  public E next() {
    if (!hasNext()) throw new NoSuchElementException("the watch is closed");
    E event = next;
    next = null;
    return event;
  }

  @Override
  public void close() {
    closed.countDown();
    Context.CancellableContext current = context;
    if (current != null) current.cancel(null);
    transport.isClosedNow(this);
  }

  boolean isClosed() {
    return closed.getCount() == 0;
  }

  @SuppressWarnings("unchecked")
  private <Q extends Message, R> E read(Source<Q, R, E> from) {
    try {
      if (messages == null) messages = open(from);
      if (messages.hasNext()) {
        failures = 0;
        return from.event((R) messages.next());
      }
    } catch (RuntimeException thrown) {
      SidecarException error = transport.errorOf(thrown);
      if (isClosed()) return null;
      if (!isTransient(error) && !from.mends(error)) {
        from.broken();
        close();
        throw error;
      }
    }
    messages = null;
    from.broken();
    pause();
    return null;
  }

  private <Q extends Message, R> Iterator<R> open(Source<Q, R, E> from) {
    context = Context.ROOT.withCancellation();
    // Closed in between, by another thread, which has not seen this context?
    if (isClosed()) context.cancel(null);
    Context previous = context.attach();
    try {
      return ClientCalls.blockingServerStreamingCall(transport.channel(), from.method(), CallOptions.DEFAULT, from.request());
    } finally {
      context.detach(previous);
    }
  }

  private void pause() {
    try {
      closed.await(Transport.backoff(failures++), TimeUnit.MILLISECONDS);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      close();
    }
  }

  private static boolean isTransient(SidecarException error) {
    if (error instanceof SidecarException.Unavailable || error instanceof SidecarException.WatchTooSlow) return true;
    // The connection was cut in the middle of a message, or by something between us and the sidecar.
    return error.reason().isEmpty() && (error.code() == Status.Code.INTERNAL || error.code() == Status.Code.UNKNOWN);
  }
}
