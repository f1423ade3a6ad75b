package io.cachesidecar.client;

import com.google.protobuf.FieldMask;
import io.cachesidecar.v1.CreateSessionRequest;
import io.cachesidecar.v1.CreateSessionResponse;
import io.cachesidecar.v1.DeleteSessionRequest;
import io.cachesidecar.v1.DeleteSessionResponse;
import io.cachesidecar.v1.DeleteUserSessionsRequest;
import io.cachesidecar.v1.GetSessionRequest;
import io.cachesidecar.v1.GetSessionResponse;
import io.cachesidecar.v1.ListUserSessionsRequest;
import io.cachesidecar.v1.RotateSessionRequest;
import io.cachesidecar.v1.RotateSessionResponse;
import io.cachesidecar.v1.Session;
import io.cachesidecar.v1.SessionServiceGrpc;
import io.cachesidecar.v1.TouchSessionRequest;
import io.cachesidecar.v1.TouchSessionResponse;
import io.cachesidecar.v1.UpdateSessionRequest;
import java.util.Collection;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Stream;

/** Sessions: of these, the messages of the protos. */
public final class Sessions {
  private final Transport transport;

  Sessions(Transport transport) {
    this.transport = transport;
  }

  /** Of the session, its user_id, attributes and client count. The reply's session_id is not returned again. */
  public CompletableFuture<CreateSessionResponse> create(Session session, With with) {
    var request = CreateSessionRequest.newBuilder().setUserId(session.getUserId()).putAllAttributes(session.getAttributesMap());
    if (session.hasClient()) request.setClient(session.getClient());
    return transport.unary(SessionServiceGrpc.getCreateSessionMethod(), request.build(), with);
  }

  /** Completes with a session, and extends its expiry. Fails with NotFound if it has ended. */
  public CompletableFuture<GetSessionResponse> get(String sessionId, With with) {
    return transport.unary(
        SessionServiceGrpc.getGetSessionMethod(), GetSessionRequest.newBuilder().setSessionId(sessionId).build(), with);
  }

  /** Extends the expiry. Fails with NotFound if the session has ended. */
  public CompletableFuture<TouchSessionResponse> touch(String sessionId, With with) {
    return transport.unary(
        SessionServiceGrpc.getTouchSessionMethod(), TouchSessionRequest.newBuilder().setSessionId(sessionId).build(), with);
  }

  /** Changes the fields named in the mask, such as {@code user_id} or {@code attributes.KEY}; without one, those that are set. */
  public CompletableFuture<Session> update(Session session, Collection<String> mask, With with) {
    var request = UpdateSessionRequest.newBuilder().setSession(session).setUpdateMask(FieldMask.newBuilder().addAllPaths(mask)).build();
    return transport.unary(SessionServiceGrpc.getUpdateSessionMethod(), request, with).thenApply(reply -> reply.getSession());
  }

  /** Ends a session. Fails with NotFound. */
  public CompletableFuture<DeleteSessionResponse> delete(String sessionId, With with) {
    return transport.unary(
        SessionServiceGrpc.getDeleteSessionMethod(), DeleteSessionRequest.newBuilder().setSessionId(sessionId).build(), with);
  }

  /** Replaces the ID of a session: at every login. */
  public CompletableFuture<RotateSessionResponse> rotate(String sessionId, With with) {
    return transport.unary(
        SessionServiceGrpc.getRotateSessionMethod(), RotateSessionRequest.newBuilder().setSessionId(sessionId).build(), with);
  }

  /** Returns a user's sessions, the newest first, from PostgreSQL; waits for each page. */
  public Stream<Session> list(String userId, int pageSize, With with) {
    var request = ListUserSessionsRequest.newBuilder().setUserId(userId).setPageSize(pageSize);
    return Pages.stream(
        token -> transport.unary(SessionServiceGrpc.getListUserSessionsMethod(), request.setPageToken(token).build(), with),
        page -> page.getSessionsList(),
        page -> page.getNextPageToken());
  }

  /** Ends all sessions of a user, and completes with how many. */
  public CompletableFuture<Integer> deleteAll(String userId, With with) {
    var request = DeleteUserSessionsRequest.newBuilder().setUserId(userId).build();
    return transport.unary(SessionServiceGrpc.getDeleteUserSessionsMethod(), request, with).thenApply(reply -> reply.getDeleted());
  }
}
