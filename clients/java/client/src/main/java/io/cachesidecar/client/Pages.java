package io.cachesidecar.client;

import java.util.ArrayDeque;
import java.util.Iterator;
import java.util.List;
import java.util.Queue;
import java.util.Spliterator;
import java.util.Spliterators;
import java.util.concurrent.CompletableFuture;
import java.util.function.Function;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;

/** The elements of all pages; each page is read when it is needed. */
final class Pages<P, T> implements Iterator<T> {
  private final Function<String, CompletableFuture<P>> read;
  private final Function<P, List<T>> elements;
  private final Function<P, String> nextToken;
  private final Queue<T> page = new ArrayDeque<>();
  private String token = "";

  private Pages(Function<String, CompletableFuture<P>> read, Function<P, List<T>> elements, Function<P, String> nextToken) {
    this.read = read;
    this.elements = elements;
    this.nextToken = nextToken;
  }

  static <P, T> Stream<T> stream(
      Function<String, CompletableFuture<P>> read, Function<P, List<T>> elements, Function<P, String> nextToken) {
    var spliterator = Spliterators.spliteratorUnknownSize(new Pages<>(read, elements, nextToken), Spliterator.ORDERED);
    return StreamSupport.stream(spliterator, false);
  }

  @Override
  public boolean hasNext() {
    while (page.isEmpty() && token != null) {
      P reply = CacheSidecar.await(read.apply(token));
      page.addAll(elements.apply(reply));
      token = nextToken.apply(reply).isEmpty() ? null : nextToken.apply(reply);
    }
    return !page.isEmpty();
  }

  @Override
  public T next() {
    if (!hasNext()) throw new java.util.NoSuchElementException("there are no more pages");
    return page.remove();
  }
}
