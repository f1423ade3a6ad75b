package io.cachesidecar.client;

import io.cachesidecar.v1.ListProductsRequest;
import io.cachesidecar.v1.ProductOrder;

/**
 * Which products are listed, and how: {@code ProductQuery.ALL.in("Garden").by(ProductOrder.PRODUCT_ORDER_PRICE)}.
 *
 * @param category the products of exactly this category; empty for all
 * @param order by default that of their IDs; PRODUCT_ORDER_RANK is the shop's own
 * @param includeInactive whether products are listed that are not active, too: then from PostgreSQL, by ID
 * @param pageSize how many are read at once, at most 1,000; 0 is 50
 */
public record ProductQuery(String category, ProductOrder order, boolean includeInactive, int pageSize) {
  /** All active products, by ID. */
  public static final ProductQuery ALL = new ProductQuery("", ProductOrder.PRODUCT_ORDER_PRODUCT_ID, false, 0);

  public ProductQuery in(String category) {
    return new ProductQuery(category, order, includeInactive, pageSize);
  }

  public ProductQuery by(ProductOrder order) {
    return new ProductQuery(category, order, includeInactive, pageSize);
  }

  public ProductQuery withInactive() {
    return new ProductQuery(category, order, true, pageSize);
  }

  public ProductQuery ofSize(int pageSize) {
    return new ProductQuery(category, order, includeInactive, pageSize);
  }

  ListProductsRequest request() {
    return ListProductsRequest.newBuilder()
        .setCategory(category)
        .setOrder(order)
        .setIncludeInactive(includeInactive)
        .setPageSize(pageSize)
        .build();
  }
}
