package io.cachesidecar.client;

import io.cachesidecar.v1.CartChange;
import io.cachesidecar.v1.CartItem;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** Collects changes of a cart, to be made at once and in this order. */
public final class CartEdit {
  final List<CartChange> changes = new ArrayList<>();

  CartEdit() {}

  public CartEdit add(String productId, int quantity, Money unitPrice) {
    return add(productId, quantity, unitPrice, Map.of());
  }

  /** At the price of the catalogue. */
  public CartEdit add(String productId, int quantity) {
    return add(productId, quantity, null, Map.of());
  }

  /** The options distinguish it from other items with the same product, such as a size; without a price, it is that of the catalogue. */
  public CartEdit add(String productId, int quantity, Money unitPrice, Map<String, String> options) {
    changes.add(CartChange.newBuilder().setAddItem(item(productId, quantity, unitPrice, options)).build());
    return this;
  }

  /** 0 removes the item. */
  public CartEdit setQuantity(String productId, int quantity, Map<String, String> options) {
    var change = CartChange.SetItemQuantity.newBuilder().setProductId(productId).setQuantity(quantity).putAllOptions(options);
    changes.add(CartChange.newBuilder().setSetItemQuantity(change).build());
    return this;
  }

  public CartEdit remove(String productId, Map<String, String> options) {
    var change = CartChange.RemoveItem.newBuilder().setProductId(productId).putAllOptions(options);
    changes.add(CartChange.newBuilder().setRemoveItem(change).build());
    return this;
  }

  static CartItem item(String productId, int quantity, Money unitPrice, Map<String, String> options) {
    var item = CartItem.newBuilder().setProductId(productId).setQuantity(quantity).putAllOptions(options);
    if (unitPrice != null) item.setUnitPrice(unitPrice.toMessage());
    return item.build();
  }
}
