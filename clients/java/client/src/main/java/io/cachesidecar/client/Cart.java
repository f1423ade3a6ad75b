package io.cachesidecar.client;

import io.cachesidecar.v1.CartItem;
import io.cachesidecar.v1.CataloguePrice;
import java.util.List;

/**
 * A cart.
 *
 * @param message all of it, as the protos describe it
 * @param cache how fresh it is; null in the reply to a write
 * @param cataloguePrices in the reply to a write: the prices of items that were sent without one, one for each product
 */
public record Cart(io.cachesidecar.v1.Cart message, Freshness cache, List<CataloguePrice> cataloguePrices) {
  public Cart(io.cachesidecar.v1.Cart message, Freshness cache) {
    this(message, cache, List.of());
  }

  public String userId() {
    return message.getUserId();
  }

  public List<CartItem> items() {
    return message.getItemsList();
  }

  /** The number of pieces. */
  public long quantity() {
    return message.getItemsList().stream().mapToLong(CartItem::getQuantity).sum();
  }

  /** The exact sum: one amount per currency. */
  public List<Money> totals() {
    return message.getTotalsList().stream().map(Money::of).toList();
  }

  public String etag() {
    return message.getEtag();
  }
}
