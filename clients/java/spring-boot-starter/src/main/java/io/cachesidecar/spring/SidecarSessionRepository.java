package io.cachesidecar.spring;

import static io.cachesidecar.client.CacheSidecar.await;

import io.cachesidecar.client.SidecarException;
import io.cachesidecar.client.Sessions;
import io.cachesidecar.client.With;
import io.cachesidecar.v1.Session;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.apache.commons.logging.Log;
import org.apache.commons.logging.LogFactory;
import org.springframework.core.serializer.support.SerializationFailedException;
import org.springframework.session.FindByIndexNameSessionRepository;
import org.springframework.session.PrincipalNameIndexResolver;
import org.springframework.session.SessionRepository;

/**
 * HTTP sessions in the sidecar's SessionService.
 *
 * <p>A session belongs to the user of Spring Security's context, or of the attribute {@code
 * FindByIndexNameSessionRepository.PRINCIPAL_NAME_INDEX_NAME}: {@code shop.sessions().deleteAll(user)} logs the user out
 * everywhere. It is no FindByIndexNameSessionRepository, as the sidecar tells nobody the IDs of a user's sessions.
 */
public class SidecarSessionRepository implements SessionRepository<SidecarSession> {
  private static final Log LOG = LogFactory.getLog(SidecarSessionRepository.class);
  /** A longer one is none of the sidecar's, and not worth a call. */
  private static final int MAX_ID = 256;

  /** How often the objects of a session are written again because another request was faster. */
  private static final int MAX_TRIES = 10;
  /** The most IDs to know the next one of: for the requests that were under way when it was given. */
  private static final int MAX_ROTATED = 1000;

  private final Sessions sessions;
  private final Attributes attributes;
  private final PrincipalNameIndexResolver<SidecarSession> users =
      new PrincipalNameIndexResolver<>(FindByIndexNameSessionRepository.PRINCIPAL_NAME_INDEX_NAME);

  /** The next IDs of sessions, by those before, for what requests do that came with these. */
  private final Map<String, String> rotated =
      Collections.synchronizedMap(
          new LinkedHashMap<>() {
            @Override
            protected boolean removeEldestEntry(Map.Entry<String, String> eldest) {
              return size() > MAX_ROTATED;
            }
          });

  /**
   * Keeps sessions by the calls of a client.
   *
   * @param classes loads those of the objects in sessions
   */
  public SidecarSessionRepository(Sessions sessions, ClassLoader classes) {
    this.sessions = sessions;
    attributes = new Attributes(classes);
  }

  @Override
  public SidecarSession createSession() {
    return new SidecarSession(this);
  }

  /** Returns a session, whose expiry is put off by that; null if it has ended. */
  @Override
  public SidecarSession findById(String id) {
    if (id.isEmpty() || id.length() > MAX_ID) return null;
    try {
      Session found = await(sessions.get(id, With.DEFAULTS)).getSession();
      return new SidecarSession(this, id, found, attributes.objects(found.getAttributesMap()));
    } catch (SidecarException.NotFound | SidecarException.InvalidRequest error) {
      return null;
    } catch (SerializationFailedException error) {
      LOG.warn("a session has objects that cannot be read any more: its visitor gets a new one", error);
      return null;
    }
  }

  /** Writes what was changed, and only that: two requests of one browser do not undo each other's changes. */
  @Override
  public void save(SidecarSession session) {
    if (!session.isToBeSaved()) return;
    try {
      write(session);
    } catch (RuntimeException error) {
      session.hasFailed(error);
      throw error;
    }
  }

  private void write(SidecarSession session) {
    String id = session.isNew() ? "" : session.getId();
    boolean isBehind = false;
    for (int tries = 1; id != null; tries++) {
      try {
        if (isBehind) {
          Session now = await(sessions.get(id, With.DEFAULTS)).getSession();
          session.catchesUp(now, attributes.objects(now.getAttributesMap()));
        }
        write(session, id, tries < MAX_TRIES);
        return;
      } catch (SidecarException.EtagMismatch error) {
        isBehind = true;
      } catch (SidecarException.NotFound error) {
        // The request goes on under the ID it came with: to whoever has that one only, a login must not give the new one.
        id = rotated.get(id);
      }
    }
    // It has ended since the request came, by a logout in another tab: that is no reason to bring its content back.
    session.hasEnded();
  }

  /** Writes the changes; with objects among them, only if nobody else has changed the session, unless it is not to give way. */
  private void write(SidecarSession session, String id, boolean givesWay) {
    Map<String, String> changes = attributes.changes(session.attributes(), session.changed(), session.stored().getAttributesMap());
    String user = Objects.requireNonNullElse(users.resolveIndexValueFor(session), "");
    Session.Builder changed = Session.newBuilder().setUserId(user);
    List<String> fields = new ArrayList<>();
    changes.forEach(
        (name, value) -> {
          fields.add("attributes." + name);
          if (value != null) changed.putAttributes(name, value);
        });
    if (session.isNew()) {
      var created = await(sessions.create(changed.build(), With.DEFAULTS));
      session.isStored(created.getSessionId(), created.getSession());
      return;
    }
    Session seen = session.stored();
    if (!user.equals(seen.getUserId())) fields.add("user_id");
    if (fields.isEmpty()) return;
    boolean hasObjects = Attributes.haveObjects(changes);
    if (hasObjects && givesWay) changed.setEtag(seen.getEtag());
    Session updated = await(sessions.update(changed.setSessionId(id).build(), fields, With.DEFAULTS));
    // What others have changed meanwhile, this request has not seen, and must not take for its own when it saves again.
    if (!hasObjects) updated = seen.toBuilder().setUserId(user).setExpireTime(updated.getExpireTime()).build();
    session.isStored(session.getId(), updated);
  }

  /** Gives a session another ID, at login: one that was planted before is worthless. */
  void rotate(SidecarSession session) {
    try {
      String id = await(sessions.rotate(session.getId(), With.DEFAULTS)).getSessionId();
      rotated.put(session.getId(), id);
      session.hasId(id);
    } catch (SidecarException.NotFound error) {
      session.startsAgain();
    }
  }

  @Override
  public void deleteById(String id) {
    for (String next = id; next != null; next = rotated.get(next)) {
      try {
        await(sessions.delete(next, With.DEFAULTS));
        return;
      } catch (SidecarException.NotFound error) {
        LOG.debug("a session had ended, or has another ID, before it was to be ended");
      }
    }
  }
}
