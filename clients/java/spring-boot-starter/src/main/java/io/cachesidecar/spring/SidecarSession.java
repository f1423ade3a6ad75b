package io.cachesidecar.spring;

import io.cachesidecar.v1.Session;
import java.time.Duration;
import java.time.Instant;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;

/**
 * A visitor's session, as one request sees it. The sidecar makes its ID, when it is first asked for or saved, and decides when it
 * ends: a maximum inactive interval that is set here has no effect.
 */
public final class SidecarSession implements org.springframework.session.Session {
  private final SidecarSessionRepository repository;
  private final Map<String, Object> attributes = new HashMap<>();
  /** The names of attributes that were changed, with the values before. */
  private final Map<String, Object> changed = new HashMap<>();
  private final Instant created;
  private Instant lastAccessed = Instant.now();
  private Instant expires;
  /** Null until the sidecar has it. */
  private String id;
  /** As the sidecar has it, so far as this request has seen it. */
  private Session stored = Session.getDefaultInstance();
  private boolean hasEnded;
  private RuntimeException failure;

  SidecarSession(SidecarSessionRepository repository) {
    this.repository = repository;
    created = lastAccessed;
    expires = lastAccessed;
  }

  SidecarSession(SidecarSessionRepository repository, String id, Session stored, Map<String, Object> attributes) {
    this.repository = repository;
    created = instant(stored.getCreateTime());
    this.attributes.putAll(attributes);
    isStored(id, stored);
  }

  private static Instant instant(com.google.protobuf.Timestamp time) {
    return Instant.ofEpochSecond(time.getSeconds(), time.getNanos());
  }

  /** What was changed is the sidecar's now. */
  void isStored(String id, Session stored) {
    this.id = id;
    this.stored = stored;
    expires = instant(stored.getExpireTime());
    changed.clear();
  }

  void hasId(String id) {
    this.id = id;
  }

  /** Other requests have changed it since this one read it: takes over what they did, but for what this one has changed, too. */
  void catchesUp(Session now, Map<String, Object> objects) {
    stored = now;
    attributes.keySet().retainAll(changed.keySet());
    changed.replaceAll((name, before) -> objects.get(name));
    objects.forEach(
        (name, value) -> {
          if (!changed.containsKey(name)) attributes.put(name, value);
        });
  }

  /** It was ended elsewhere since the request began. */
  void hasEnded() {
    hasEnded = true;
  }

  /** It was ended elsewhere, and goes on as another one, with what this request has set. */
  void startsAgain() {
    id = null;
    stored = Session.getDefaultInstance();
    attributes.keySet().retainAll(changed.keySet());
  }

  boolean isNew() {
    return id == null;
  }

  /** It cannot be saved. The response is committed several times then: the others need not wait for the sidecar again. */
  void hasFailed(RuntimeException error) {
    failure = error;
  }

  /** Throws what it could not be saved for. */
  boolean isToBeSaved() {
    if (failure != null) throw failure;
    return !hasEnded && (id == null || !changed.isEmpty());
  }

  Session stored() {
    return stored;
  }

  Map<String, Object> attributes() {
    return attributes;
  }

  Map<String, Object> changed() {
    return changed;
  }

  @Override
  public String getId() {
    if (id == null) repository.save(this);
    return id;
  }

  @Override
  public String changeSessionId() {
    if (id != null) repository.rotate(this);
    return getId();
  }

  @Override
  @SuppressWarnings("unchecked")
  public <T> T getAttribute(String name) {
    return (T) attributes.get(name);
  }

  @Override
  public Set<String> getAttributeNames() {
    return Set.copyOf(attributes.keySet());
  }

  @Override
  public void setAttribute(String name, Object value) {
    Object before = value == null ? attributes.remove(name) : attributes.put(name, value);
    if (!changed.containsKey(name)) changed.put(name, before);
  }

  @Override
  public void removeAttribute(String name) {
    setAttribute(name, null);
  }

  @Override
  public Instant getCreationTime() {
    return created;
  }

  @Override
  public void setLastAccessedTime(Instant time) {
    lastAccessed = time;
  }

  @Override
  public Instant getLastAccessedTime() {
    return lastAccessed;
  }

  @Override
  public void setMaxInactiveInterval(Duration interval) {}

  /** How long it still lasts without use, by the sidecar's policy; zero before it is saved. */
  @Override
  public Duration getMaxInactiveInterval() {
    Duration left = Duration.between(lastAccessed, expires);
    return left.isNegative() ? Duration.ZERO : left;
  }

  @Override
  public boolean isExpired() {
    return hasEnded;
  }
}
