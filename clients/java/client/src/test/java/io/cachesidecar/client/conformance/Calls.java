package io.cachesidecar.client.conformance;

import static io.cachesidecar.client.CacheSidecar.await;
import static io.cachesidecar.client.conformance.Values.json;
import static io.cachesidecar.client.conformance.Values.message;
import static io.cachesidecar.client.conformance.Values.seconds;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.protobuf.Message;
import io.cachesidecar.client.CacheSidecar;
import io.cachesidecar.client.Cart;
import io.cachesidecar.client.CartEdit;
import io.cachesidecar.client.Money;
import io.cachesidecar.client.Options;
import io.cachesidecar.client.Product;
import io.cachesidecar.client.ProductQuery;
import io.cachesidecar.client.SidecarException;
import io.cachesidecar.client.With;
import io.cachesidecar.v1.*;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import java.util.stream.Stream;

/** The calls of the conformance suite, each with the library's own. */
final class Calls {
  private final CacheSidecar shop;
  private final Options.Builder options;

  Calls(CacheSidecar shop, Options.Builder options) {
    this.shop = shop;
    this.options = options;
  }

  /** A loader's own failure. */
  static final class LoaderError extends RuntimeException {
    private static final long serialVersionUID = 1;

    LoaderError(String message) {
      super(message);
    }
  }

  /** Returns the result of a call; throws SidecarException. */
  JsonElement result(String call, JsonObject args, JsonObject step) {
    With with = with(args, step);
    int limit = step.has("limit") ? step.get("limit").getAsInt() : 1000;
    return switch (call.substring(0, call.indexOf('.') < 0 ? call.length() : call.indexOf('.'))) {
      case "products" -> products(call, args, step, with, limit);
      case "carts" -> carts(call, args, with, limit);
      case "sessions" -> sessions(call, args, with, limit);
      case "inventory" -> inventory(call, args, with, limit);
      case "recommendations" -> recommendations(call, args, step, with);
      case "events" -> events(call, args, with);
      case "admin" -> admin(call, args, with);
      case "ready" -> {
        shop.ready(with.timeout() == null ? Duration.ofSeconds(30) : with.timeout());
        yield new JsonObject();
      }
      default -> throw unknown(call);
    };
  }

  private static IllegalArgumentException unknown(String call) {
    return new IllegalArgumentException("the call " + call + " is not known");
  }

  /** Returns what is no part of the library's arguments: request_id, options, timeout. */
  private static With with(JsonObject args, JsonObject step) {
    With with = With.DEFAULTS;
    if (step.has("timeout")) with = with.andTimeout(seconds(step.get("timeout")));
    if (args.has("request_id")) with = with.andRequestId(args.get("request_id").getAsString());
    // Elsewhere, `options` are those of an item of a cart.
    JsonObject read = args.has("options") ? args.getAsJsonObject("options") : new JsonObject();
    if (read.has("max_age")) with = with.andMaxAge(seconds(read.get("max_age")));
    if (read.has("bypass")) with = read.get("bypass").getAsString().equals("true") ? with.andFromStore() : with;
    return with;
  }

  private JsonElement products(String call, JsonObject args, JsonObject step, With with, int limit) {
    switch (call) {
      case "products.get": {
        GetProductRequest request = message(GetProductRequest.getDefaultInstance(), args);
        if (!step.has("fallback")) return product(await(shop.products().get(request.getProductId(), with)));
        JsonObject loaded = step.getAsJsonObject("fallback");
        Product found =
            await(
                shop.products()
                    .get(
                        request.getProductId(),
                        with,
                        () -> {
                          if (loaded.has("error")) throw new LoaderError(loaded.get("error").getAsString());
                          return CompletableFuture.completedFuture(message(io.cachesidecar.v1.Product.getDefaultInstance(), loaded));
                        }));
        JsonObject result = product(found);
        result.addProperty("fallback", found.cache().source() == io.cachesidecar.client.Freshness.Source.FALLBACK);
        return result;
      }
      case "products.batch_get": {
        var batch = await(shop.products().getMany(strings(args, "product_ids"), with));
        JsonObject result = new JsonObject();
        result.add("products", list(batch.products().stream().map(found -> json(found.message()))));
        result.add("product_caches", list(batch.products().stream().map(found -> json(found.cache()))));
        result.add("missing", list(batch.missing().stream().map(com.google.gson.JsonPrimitive::new)));
        result.add("cache", json(batch.cache()));
        return result;
      }
      case "products.list": {
        ListProductsRequest request = message(ListProductsRequest.getDefaultInstance(), args);
        ProductQuery query = ProductQuery.ALL.in(request.getCategory()).by(request.getOrder()).ofSize(request.getPageSize());
        if (request.getIncludeInactive()) query = query.withInactive();
        return items(shop.products().list(query, with).limit(limit).map(found -> json(found.message())));
      }
      case "products.get_categories": {
        var found = await(shop.products().categories(with));
        JsonObject result = new JsonObject();
        result.add("categories", list(found.categories().stream().map(Values::json)));
        result.add("cache", json(found.cache()));
        return result;
      }
      case "products.create":
        return written(await(shop.products().create(message(CreateProductRequest.getDefaultInstance(), args).getProduct(), with)));
      case "products.update": {
        UpdateProductRequest request = message(UpdateProductRequest.getDefaultInstance(), withEtag(args, "product"));
        return written(await(shop.products().update(request.getProduct(), request.getUpdateMask().getPathsList(), with)));
      }
      case "products.delete": {
        DeleteProductRequest request = message(DeleteProductRequest.getDefaultInstance(), args);
        await(shop.products().delete(request.getProductId(), request.getEtag(), with));
        return new JsonObject();
      }
      case "products.get_joined":
        return joined(strings(args, "product_ids"));
      case "products.modify":
        return modify(args, with);
      default:
        throw unknown(call);
    }
  }

  /** Returns arguments with an etag in the resource, where the protos have it. */
  private static JsonObject withEtag(JsonObject args, String resource) {
    JsonObject moved = args.deepCopy();
    if (moved.has("etag")) moved.getAsJsonObject(resource).add("etag", moved.remove("etag"));
    return moved;
  }

  private JsonElement joined(List<String> ids) {
    AtomicInteger calls = new AtomicInteger();
    // A client of its own, so that the calls of nobody else are counted. A busy machine may take a second to make the gets.
    Options own = options.joinGets(Duration.ofSeconds(3)).onCall(info -> calls.incrementAndGet()).build();
    try (CacheSidecar client = CacheSidecar.connect(own)) {
      List<CompletableFuture<Product>> gets = ids.stream().map(client.products()::get).toList();
      JsonArray results = new JsonArray();
      for (var get : gets) {
        try {
          results.add(product(await(get)));
        } catch (SidecarException error) {
          results.add(json(error));
        }
      }
      JsonObject result = new JsonObject();
      result.add("results", results);
      result.addProperty("calls", calls.get());
      return result;
    } finally {
      options.joinGets(null).onCall(null);
    }
  }

  private JsonElement modify(JsonObject args, With with) {
    AtomicInteger attempts = new AtomicInteger();
    String id = args.get("product_id").getAsString();
    Product product =
        await(
            shop.products()
                .modify(
                    id,
                    found -> {
                      if (attempts.incrementAndGet() == 1 && args.has("interfere")) {
                        String title = found.getTitle() + args.get("interfere").getAsString();
                        // In a thread of gRPC, so that it may not be waited for here.
                        var other = io.cachesidecar.v1.Product.newBuilder().setProductId(id).setTitle(title).build();
                        interfere(other);
                      }
                      return found.setTitle(found.getTitle() + args.get("append").getAsString());
                    },
                    with));
    JsonObject result = written(product).getAsJsonObject();
    result.addProperty("attempts", attempts.get());
    return result;
  }

  private void interfere(io.cachesidecar.v1.Product product) {
    try (CacheSidecar other = CacheSidecar.connect(options.build())) {
      await(other.products().update(product));
    }
  }

  private static JsonObject product(Product found) {
    JsonObject result = written(found).getAsJsonObject();
    result.add("cache", json(found.cache()));
    return result;
  }

  private static JsonElement written(Product found) {
    JsonObject result = new JsonObject();
    result.add("product", json(found.message()));
    return result;
  }

  private JsonElement carts(String call, JsonObject args, With with, int limit) {
    return switch (call) {
      case "carts.get" -> cart(await(shop.carts().get(args.get("user_id").getAsString(), with)));
      case "carts.replace" -> {
        var cart = message(ReplaceCartRequest.getDefaultInstance(), args).getCart();
        yield cart(await(shop.carts().replace(cart.getUserId(), cart.getItemsList(), cart.getEtag(), with)));
      }
      case "carts.add" -> {
        var request = message(AddCartItemRequest.getDefaultInstance(), args);
        yield cart(await(shop.carts().add(request.getUserId(), request.getItem(), with)));
      }
      case "carts.set_quantity" -> {
        var request = message(SetCartItemQuantityRequest.getDefaultInstance(), args);
        yield cart(
            await(
                shop.carts().setQuantity(request.getUserId(), request.getProductId(), request.getOptionsMap(), request.getQuantity(), with)));
      }
      case "carts.remove" -> {
        var request = message(RemoveCartItemRequest.getDefaultInstance(), args);
        yield cart(await(shop.carts().remove(request.getUserId(), request.getProductId(), request.getOptionsMap(), with)));
      }
      case "carts.clear" -> cart(await(shop.carts().clear(args.get("user_id").getAsString(), with)));
      case "carts.merge" -> {
        var request = message(MergeCartsRequest.getDefaultInstance(), args);
        yield cart(await(shop.carts().merge(request.getUserId(), request.getGuestUserId(), with)));
      }
      case "carts.apply", "carts.edit" -> {
        var request = message(ApplyCartChangesRequest.getDefaultInstance(), args);
        var edited = await(shop.carts().edit(request.getUserId(), edits(request.getChangesList()), with));
        yield edited.isPresent() ? cart(edited.get()) : new JsonObject();
      }
      case "carts.list_abandoned" -> {
        var request = message(ListAbandonedCartsRequest.getDefaultInstance(), args);
        Duration idle = Duration.ofSeconds(request.getIdleFor().getSeconds(), request.getIdleFor().getNanos());
        yield items(shop.carts().listAbandoned(idle, request.getPageSize(), with).limit(limit).map(found -> json(found.message())));
      }
      default -> throw unknown(call);
    };
  }

  private static Consumer<CartEdit> edits(List<CartChange> changes) {
    return edit -> {
      for (CartChange change : changes) {
        switch (change.getChangeCase()) {
          case ADD_ITEM -> {
            var item = change.getAddItem();
            edit.add(item.getProductId(), item.getQuantity(), item.hasUnitPrice() ? Money.of(item.getUnitPrice()) : null, item.getOptionsMap());
          }
          case SET_ITEM_QUANTITY -> {
            var set = change.getSetItemQuantity();
            edit.setQuantity(set.getProductId(), set.getQuantity(), set.getOptionsMap());
          }
          case REMOVE_ITEM -> edit.remove(change.getRemoveItem().getProductId(), change.getRemoveItem().getOptionsMap());
          default -> throw new IllegalArgumentException("a change without a kind");
        }
      }
    };
  }

  static JsonObject cart(Cart found) {
    JsonObject result = new JsonObject();
    result.add("cart", json(found.message()));
    result.add("catalogue_prices", list(found.cataloguePrices().stream().map(Values::json)));
    result.add("cache", json(found.cache()));
    return result;
  }

  private JsonElement sessions(String call, JsonObject args, With with, int limit) {
    return switch (call) {
      case "sessions.create" -> {
        JsonObject fields = args.deepCopy();
        fields.remove("request_id");
        yield json(await(shop.sessions().create(message(Session.getDefaultInstance(), fields), with)));
      }
      case "sessions.get" -> json(await(shop.sessions().get(args.get("session_id").getAsString(), with)));
      case "sessions.touch" -> json(await(shop.sessions().touch(args.get("session_id").getAsString(), with)));
      case "sessions.update" -> {
        var request = message(UpdateSessionRequest.getDefaultInstance(), args);
        yield of("session", await(shop.sessions().update(request.getSession(), request.getUpdateMask().getPathsList(), with)));
      }
      case "sessions.delete" -> json(await(shop.sessions().delete(args.get("session_id").getAsString(), with)));
      case "sessions.rotate" -> json(await(shop.sessions().rotate(args.get("session_id").getAsString(), with)));
      case "sessions.list" -> {
        var request = message(ListUserSessionsRequest.getDefaultInstance(), args);
        yield items(shop.sessions().list(request.getUserId(), request.getPageSize(), with).limit(limit).map(Values::json));
      }
      case "sessions.delete_all" -> number("deleted", await(shop.sessions().deleteAll(args.get("user_id").getAsString(), with)));
      default -> throw unknown(call);
    };
  }

  private JsonElement inventory(String call, JsonObject args, With with, int limit) {
    return switch (call) {
      case "inventory.get" -> json(await(shop.inventory().get(args.get("product_id").getAsString(), with)));
      case "inventory.batch_get" -> json(await(shop.inventory().getMany(strings(args, "product_ids"), with)));
      case "inventory.set" -> {
        var request = message(SetInventoryRequest.getDefaultInstance(), args);
        yield of(
            "inventory",
            await(
                shop.inventory().set(request.getProductId(), request.getAvailable(), request.getEtag(), request.getBucketCount(), with)));
      }
      case "inventory.adjust" -> {
        var request = message(AdjustInventoryRequest.getDefaultInstance(), args);
        yield of("inventory", await(shop.inventory().adjust(request.getProductId(), request.getDelta(), request.getReason(), with)));
      }
      case "inventory.reserve" -> {
        var request = message(ReserveInventoryRequest.getDefaultInstance(), args);
        yield of("reservation", await(shop.inventory().reserve(request.getUserId(), request.getItemsList(), hold(args), with)));
      }
      case "inventory.extend" ->
          of("reservation", await(shop.inventory().extend(args.get("reservation_id").getAsString(), hold(args), with)));
      case "inventory.commit" -> of("reservation", await(shop.inventory().commit(args.get("reservation_id").getAsString(), with)));
      case "inventory.release" -> of("reservation", await(shop.inventory().release(args.get("reservation_id").getAsString(), with)));
      case "inventory.get_reservation" ->
          of("reservation", await(shop.inventory().getReservation(args.get("reservation_id").getAsString(), with)));
      case "inventory.list_reservations" -> {
        var request = message(ListReservationsRequest.getDefaultInstance(), args);
        yield items(
            shop.inventory()
                .listReservations(request.getUserId(), request.getState(), request.getPageSize(), with)
                .limit(limit)
                .map(Values::json));
      }
      default -> throw unknown(call);
    };
  }

  private static Duration hold(JsonObject args) {
    return args.has("hold_duration") ? seconds(args.get("hold_duration")) : null;
  }

  private JsonElement recommendations(String call, JsonObject args, JsonObject step, With with) {
    return switch (call) {
      case "recommendations.get" -> {
        JsonObject query = args.deepCopy();
        query.remove("options");
        yield json(await(shop.recommendations().get(message(GetRecommendationsRequest.getDefaultInstance(), query), with)));
      }
      case "recommendations.import" -> {
        var request = message(ImportRecommendationsRequest.getDefaultInstance(), args);
        long first = step.has("first_list") ? step.get("first_list").getAsLong() : 0;
        var lists = request.getListsList().iterator();
        yield json(await(shop.recommendations().importLists(request.getBatchId(), lists, first, request.getCommit(), with)));
      }
      case "recommendations.delete" ->
          number("deleted_count", await(shop.recommendations().delete(message(DeleteRecommendationsRequest.getDefaultInstance(), args), with)));
      default -> throw unknown(call);
    };
  }

  private JsonElement events(String call, JsonObject args, With with) {
    return switch (call) {
      case "events.write" ->
          json(await(shop.events().write(message(WriteUserEventsRequest.getDefaultInstance(), args).getEventsList(), with)));
      case "events.stream" -> {
        List<List<UserEvent>> batches = new ArrayList<>();
        for (JsonElement batch : args.getAsJsonArray("batches")) {
          JsonObject request = new JsonObject();
          request.add("events", batch);
          batches.add(message(StreamUserEventsRequest.getDefaultInstance(), request).getEventsList());
        }
        JsonArray replies = new JsonArray();
        await(shop.events().stream(batches.iterator(), reply -> replies.add(json(reply)), with));
        JsonObject result = new JsonObject();
        result.add("replies", replies);
        yield result;
      }
      case "events.purge" -> number("purged_count", await(shop.events().purge(args.get("user_id").getAsString(), with)));
      default -> throw unknown(call);
    };
  }

  private JsonElement admin(String call, JsonObject args, With with) {
    return switch (call) {
      case "admin.invalidate" ->
          number("invalidated", await(shop.admin().invalidate(message(InvalidateRequest.getDefaultInstance(), args), with)));
      case "admin.get_stats" ->
          json(await(shop.admin().getStats(message(GetStatsRequest.getDefaultInstance(), args).getDataset(), with)));
      case "admin.inspect_key" -> {
        var request = message(InspectKeyRequest.getDefaultInstance(), args);
        yield json(await(shop.admin().inspectKey(request.getDataset(), request.getId(), with)));
      }
      case "admin.get_policy" -> json(await(shop.admin().getPolicy(with)));
      case "admin.update_policy" -> json(await(shop.admin().updatePolicy(message(UpdatePolicyRequest.getDefaultInstance(), args), with)));
      default -> throw unknown(call);
    };
  }

  private static JsonObject of(String name, Message message) {
    JsonObject result = new JsonObject();
    result.add(name, json(message));
    return result;
  }

  private static JsonObject number(String name, Number value) {
    JsonObject result = new JsonObject();
    result.addProperty(name, value);
    return result;
  }

  private static JsonObject items(Stream<? extends JsonElement> elements) {
    JsonObject result = new JsonObject();
    result.add("items", list(elements));
    return result;
  }

  private static JsonArray list(Stream<? extends JsonElement> elements) {
    JsonArray list = new JsonArray();
    elements.forEach(list::add);
    return list;
  }

  static List<String> strings(JsonObject args, String name) {
    List<String> found = new ArrayList<>();
    if (args.has(name)) for (JsonElement element : args.getAsJsonArray(name)) found.add(element.getAsString());
    return found;
  }
}
