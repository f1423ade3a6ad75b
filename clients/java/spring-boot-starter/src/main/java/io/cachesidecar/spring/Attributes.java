package io.cachesidecar.spring;

import java.util.Base64;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import org.springframework.core.serializer.support.DeserializingConverter;
import org.springframework.core.serializer.support.SerializingConverter;

/**
 * The attributes of HTTP sessions, which are objects, as those of the sidecar's, which are short strings.
 *
 * <p>A string is kept as it is, so that applications in other languages can read it. Everything else is serialized in one, as
 * Spring's own repositories do it, and kept in {@code java.objects.0}, {@code .1} and so on, of which {@code java.objects} has the
 * number. They are always written together, so a request that changes one has to know the others as they are.
 */
final class Attributes {
  private static final String OBJECTS = "java.objects";
  private static final int MAX_NAME = 64;
  private static final int MAX_VALUE = 1024;
  private static final int MAX_ATTRIBUTES = 64;

  private final SerializingConverter serializing = new SerializingConverter();
  private final DeserializingConverter deserializing;

  Attributes(ClassLoader classes) {
    deserializing = new DeserializingConverter(classes);
  }

  /** Returns the objects of a session. Throws SerializationFailedException if the application has no classes for them any more. */
  @SuppressWarnings("unchecked")
  Map<String, Object> objects(Map<String, String> stored) {
    Map<String, Object> objects = new HashMap<>();
    StringBuilder text = new StringBuilder();
    for (int part = 0; part < parts(stored); part++) text.append(stored.getOrDefault(OBJECTS + "." + part, ""));
    if (!text.isEmpty()) objects.putAll((Map<String, Object>) deserializing.convert(Base64.getDecoder().decode(text.toString())));
    stored.forEach(
        (name, value) -> {
          if (!isReserved(name)) objects.put(name, value);
        });
    return objects;
  }

  /**
   * Returns what is to be written of these attributes: null for what is to be removed.
   *
   * @param changed the names of those that have changed, with their values before
   * @param stored what there is
   */
  Map<String, String> changes(Map<String, Object> attributes, Map<String, Object> changed, Map<String, String> stored) {
    Map<String, String> changes = new LinkedHashMap<>();
    boolean hasChangedObject = false;
    for (String name : changed.keySet()) {
      Object value = attributes.get(name);
      Object before = changed.get(name);
      if (isText(name, value)) changes.put(name, (String) value);
      else if (isText(name, before)) changes.put(name, null);
      hasChangedObject |= isObject(name, value) || isObject(name, before);
    }
    if (hasChangedObject) changes.putAll(serialized(attributes, stored));
    return changes;
  }

  private Map<String, String> serialized(Map<String, Object> attributes, Map<String, String> stored) {
    HashMap<String, Object> objects = new HashMap<>(attributes);
    objects.entrySet().removeIf(entry -> !isObject(entry.getKey(), entry.getValue()));
    Map<String, String> changes = new LinkedHashMap<>();
    for (String name : stored.keySet()) if (isReserved(name)) changes.put(name, null);
    if (objects.isEmpty()) return changes;
    String text = Base64.getEncoder().encodeToString(serializing.convert(objects));
    int parts = (text.length() + MAX_VALUE - 1) / MAX_VALUE;
    if (parts >= MAX_ATTRIBUTES)
      throw new IllegalStateException(
          "the session's objects " + objects.keySet() + " take " + text.length() + " characters, of " + MAX_VALUE * (MAX_ATTRIBUTES - 1));
    changes.put(OBJECTS, String.valueOf(parts));
    for (int part = 0; part < parts; part++)
      changes.put(OBJECTS + "." + part, text.substring(part * MAX_VALUE, Math.min((part + 1) * MAX_VALUE, text.length())));
    return changes;
  }

  /** Whether any of these changes is one of objects. */
  static boolean haveObjects(Map<String, String> changes) {
    return changes.keySet().stream().anyMatch(Attributes::isReserved);
  }

  private static int parts(Map<String, String> stored) {
    return Integer.parseInt(stored.getOrDefault(OBJECTS, "0"));
  }

  private static boolean isReserved(String name) {
    return name.equals(OBJECTS) || name.startsWith(OBJECTS + ".");
  }

  private static boolean isObject(String name, Object value) {
    return value != null && !isText(name, value);
  }

  /** Whether the sidecar can keep it as it is. */
  private static boolean isText(String name, Object value) {
    return value instanceof String text
        && text.length() <= MAX_VALUE
        && text.indexOf(0) < 0
        && !name.isEmpty()
        && name.length() <= MAX_NAME
        && name.chars().noneMatch(Character::isISOControl)
        && !isReserved(name);
  }
}
