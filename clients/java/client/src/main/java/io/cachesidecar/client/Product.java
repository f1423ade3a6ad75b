package io.cachesidecar.client;

import java.util.List;
import java.util.Optional;
import java.util.OptionalDouble;

/**
 * A product.
 *
 * @param message all of it, as the protos describe it
 * @param cache how fresh it is; null in the reply to a write
 */
public record Product(io.cachesidecar.v1.Product message, Freshness cache) {
  public String productId() {
    return message.getProductId();
  }

  public String title() {
    return message.getTitle();
  }

  public Optional<Money> price() {
    return message.hasPrice() ? Optional.of(Money.of(message.getPrice())) : Optional.empty();
  }

  public List<String> categories() {
    return message.getCategoriesList();
  }

  /** The place in the shop's own order, the lowest first; without one it is listed last. */
  public OptionalDouble rank() {
    return message.hasRank() ? OptionalDouble.of(message.getRank()) : OptionalDouble.empty();
  }

  public String etag() {
    return message.getEtag();
  }
}
