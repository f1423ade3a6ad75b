package io.cachesidecar.client.conformance;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonPrimitive;
import com.google.protobuf.Descriptors.EnumValueDescriptor;
import com.google.protobuf.Descriptors.FieldDescriptor;
import com.google.protobuf.Duration;
import com.google.protobuf.FieldMask;
import com.google.protobuf.MapEntry;
import com.google.protobuf.Message;
import com.google.protobuf.Timestamp;
import com.google.type.Money;
import io.cachesidecar.client.Freshness;
import io.cachesidecar.client.SidecarException;
import java.math.BigDecimal;
import java.time.Instant;
import java.util.Collection;
import java.util.Locale;
import java.util.Map;

/** Between the values of {@code clients/conformance/README.md} and the messages of the protos. */
final class Values {
  private Values() {}

  /** Returns the fields of a message. */
  static JsonElement json(Message message) {
    if (message instanceof Money money) {
      String amount = io.cachesidecar.client.Money.of(money).amount().stripTrailingZeros().toPlainString();
      return new JsonPrimitive(amount + " " + money.getCurrencyCode());
    }
    if (message instanceof Duration duration) return new JsonPrimitive(duration.getSeconds() + duration.getNanos() / 1e9);
    if (message instanceof Timestamp time) return new JsonPrimitive(Instant.ofEpochSecond(time.getSeconds(), time.getNanos()).toString());
    JsonObject fields = new JsonObject();
    for (FieldDescriptor field : message.getDescriptorForType().getFields()) {
      if (field.isRepeated() || !field.hasPresence() || message.hasField(field))
        fields.add(field.getName(), json(field, message.getField(field)));
    }
    return fields;
  }

  private static JsonElement json(FieldDescriptor field, Object value) {
    if (field.isMapField()) {
      JsonObject map = new JsonObject();
      for (Object element : (Collection<?>) value) {
        Message entry = (Message) element;
        FieldDescriptor of = entry.getDescriptorForType().findFieldByNumber(2);
        Object key = entry.getField(entry.getDescriptorForType().findFieldByNumber(1));
        map.add(key.toString(), single(of, entry.getField(of)));
      }
      return map;
    }
    if (!field.isRepeated()) return single(field, value);
    JsonArray list = new JsonArray();
    for (Object element : (Collection<?>) value) list.add(single(field, element));
    return list;
  }

  private static JsonElement single(FieldDescriptor field, Object value) {
    return switch (field.getJavaType()) {
      case MESSAGE -> json((Message) value);
      case ENUM -> new JsonPrimitive(((EnumValueDescriptor) value).getName().substring(prefix(field).length()));
      case BOOLEAN -> new JsonPrimitive((Boolean) value);
      case STRING -> new JsonPrimitive((String) value);
      case BYTE_STRING -> throw new IllegalArgumentException(field + " is bytes");
      default -> new JsonPrimitive((Number) value);
    };
  }

  private static String prefix(FieldDescriptor field) {
    return field.getEnumType().getName().replaceAll("([a-z0-9])([A-Z])", "$1_$2").toUpperCase(Locale.ROOT) + "_";
  }

  static JsonElement json(Freshness cache) {
    if (cache == null) return JsonNull.INSTANCE;
    JsonObject fields = new JsonObject();
    fields.addProperty("source", cache.source().name());
    fields.addProperty("version", cache.version());
    fields.addProperty("age", cache.age().toNanos() / 1e9);
    fields.addProperty("stale", cache.stale());
    return fields;
  }

  static JsonObject json(SidecarException error) {
    JsonObject fields = new JsonObject();
    String type = error.getClass().getSimpleName().equals("SidecarException") ? "SidecarError" : error.getClass().getSimpleName();
    fields.addProperty("type", type);
    fields.addProperty("code", error.code().name());
    fields.addProperty("reason", error.reason());
    fields.add("metadata", json(error.metadata()));
    fields.add("fields", json(error.violations()));
    fields.addProperty("message", error.getMessage());
    fields.addProperty("retry_after", error.retryAfter().map(delay -> delay.toNanos() / 1e9).orElse(null));
    JsonObject result = new JsonObject();
    result.add("error", fields);
    return result;
  }

  private static JsonObject json(Map<String, String> map) {
    JsonObject fields = new JsonObject();
    map.forEach(fields::addProperty);
    return fields;
  }

  /** Sets a message's fields to arguments, and returns it. */
  static <M extends Message> M message(M empty, JsonObject fields) {
    Message.Builder builder = empty.newBuilderForType();
    for (String name : fields.keySet()) {
      FieldDescriptor field = empty.getDescriptorForType().findFieldByName(name);
      if (field == null) throw new IllegalArgumentException(empty.getDescriptorForType().getName() + " has no field " + name);
      set(builder, field, fields.get(name));
    }
    @SuppressWarnings("unchecked")
    M built = (M) builder.build();
    return built;
  }

  private static void set(Message.Builder builder, FieldDescriptor field, JsonElement value) {
    if (value.isJsonNull()) return;
    if (field.isMapField()) {
      FieldDescriptor of = field.getMessageType().findFieldByNumber(2);
      for (var entry : value.getAsJsonObject().entrySet()) {
        MapEntry.Builder<?, ?> made = (MapEntry.Builder<?, ?>) builder.newBuilderForField(field);
        made.setField(field.getMessageType().findFieldByNumber(1), entry.getKey());
        made.setField(of, single(made, of, entry.getValue()));
        builder.addRepeatedField(field, made.build());
      }
    } else if (field.isRepeated()) {
      for (JsonElement element : value.getAsJsonArray()) builder.addRepeatedField(field, single(builder, field, element));
    } else {
      builder.setField(field, single(builder, field, value));
    }
  }

  private static Object single(Message.Builder builder, FieldDescriptor field, JsonElement value) {
    return switch (field.getJavaType()) {
      case INT -> value.getAsInt();
      case LONG -> value.getAsLong();
      case DOUBLE -> value.getAsDouble();
      case FLOAT -> value.getAsFloat();
      case BOOLEAN -> value.getAsBoolean();
      case STRING -> value.getAsString();
      case ENUM -> field.getEnumType().findValueByName(prefix(field) + value.getAsString());
      case MESSAGE -> message(builder.newBuilderForField(field).getDefaultInstanceForType(), value);
      case BYTE_STRING -> throw new IllegalArgumentException(field + " is bytes");
    };
  }

  private static Message message(Message empty, JsonElement value) {
    if (empty instanceof Money) {
      String[] words = value.getAsString().split(" ");
      return io.cachesidecar.client.Money.of(words[0], words[1]).toMessage();
    }
    if (empty instanceof Duration) {
      long nanos = value.getAsBigDecimal().movePointRight(9).setScale(0, java.math.RoundingMode.HALF_UP).longValueExact();
      return Duration.newBuilder().setSeconds(nanos / 1_000_000_000L).setNanos((int) (nanos % 1_000_000_000L)).build();
    }
    if (empty instanceof Timestamp) {
      Instant time = Instant.parse(value.getAsString());
      return Timestamp.newBuilder().setSeconds(time.getEpochSecond()).setNanos(time.getNano()).build();
    }
    if (empty instanceof FieldMask) {
      FieldMask.Builder mask = FieldMask.newBuilder();
      for (JsonElement path : value.getAsJsonArray()) mask.addPaths(path.getAsString());
      return mask.build();
    }
    return message(empty, value.getAsJsonObject());
  }

  static java.time.Duration seconds(JsonElement value) {
    return java.time.Duration.ofNanos(new BigDecimal(value.getAsString()).movePointRight(9).longValue());
  }
}
