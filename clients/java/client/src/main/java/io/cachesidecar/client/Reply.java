package io.cachesidecar.client;

import java.util.Queue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executor;
import java.util.concurrent.locks.LockSupport;

/**
 * The reply of a call, and what is made of it. A thread that waits for it handles the events of the call by itself, as gRPC's blocking
 * stub does: that another thread handles them, and then wakes this one, costs more than all else that this library does.
 */
final class Reply<T> extends CompletableFuture<T> {
  private final Events events;

  Reply(Events events) {
    this.events = events;
  }

  @Override
  public <U> CompletableFuture<U> newIncompleteFuture() {
    return new Reply<>(events);
  }

  @Override
  public T join() {
    events.handleUntil(this);
    return super.join();
  }

  @Override
  public T get() throws InterruptedException, ExecutionException {
    events.handleUntil(this);
    return super.get();
  }

  /** Runs what gRPC has to tell of one call: in the thread that waits for it, if there is one, else in others. */
  static final class Events implements Executor {
    private final Executor others;
    private final Queue<Runnable> tasks = new ConcurrentLinkedQueue<>();
    private Thread waiting;

    Events(Executor others) {
      this.others = others;
    }

    @Override
    public void execute(Runnable task) {
      Thread handling;
      synchronized (this) {
        handling = waiting;
        // Under the lock: a task that was added after the thread has stopped waiting would never run.
        if (handling != null) tasks.add(task);
      }
      if (handling == null) others.execute(task);
      else LockSupport.unpark(handling);
    }

    /** Returns when it is done, or at once if another thread handles the events already, or when this one is interrupted. */
    private void handleUntil(CompletableFuture<?> done) {
      Thread self = Thread.currentThread();
      synchronized (this) {
        if (done.isDone() || waiting != null) return;
        waiting = self;
      }
      try {
        // It may also be done by another thread: a timer, or who cancels it.
        done.whenComplete((value, error) -> LockSupport.unpark(self));
        while (!done.isDone() && !self.isInterrupted()) {
          Runnable task = tasks.poll();
          if (task == null) LockSupport.park(this);
          else task.run();
        }
      } finally {
        synchronized (this) {
          waiting = null;
        }
        for (Runnable task = tasks.poll(); task != null; task = tasks.poll()) others.execute(task);
      }
    }
  }
}
