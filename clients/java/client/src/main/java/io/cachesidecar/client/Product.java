package io.cachesidecar.client;

import java.util.List;
import java.util.Optional;

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

  public String etag() {
    return message.getEtag();
  }
}
