package io.cachesidecar.client;

import io.cachesidecar.v1.AdminServiceGrpc;
import io.cachesidecar.v1.GetPolicyRequest;
import io.cachesidecar.v1.GetPolicyResponse;
import io.cachesidecar.v1.GetStatsRequest;
import io.cachesidecar.v1.GetStatsResponse;
import io.cachesidecar.v1.InspectKeyRequest;
import io.cachesidecar.v1.InspectKeyResponse;
import io.cachesidecar.v1.InvalidateRequest;
import io.cachesidecar.v1.UpdatePolicyRequest;
import io.cachesidecar.v1.UpdatePolicyResponse;
import java.util.concurrent.CompletableFuture;

/** For operators: needs the role {@code read} or {@code admin}. */
public final class Admin {
  private final Transport transport;

  Admin(Transport transport) {
    this.transport = transport;
  }

  /** Drops IDs of a dataset, or all of it, from the caches, and completes with how many. */
  public CompletableFuture<Long> invalidate(InvalidateRequest what, With with) {
    return transport.unary(AdminServiceGrpc.getInvalidateMethod(), what, with).thenApply(reply -> reply.getInvalidated());
  }

  /** Of a dataset, or of all if the name is empty. */
  public CompletableFuture<GetStatsResponse> getStats(String dataset, With with) {
    return transport.unary(AdminServiceGrpc.getGetStatsMethod(), GetStatsRequest.newBuilder().setDataset(dataset).build(), with);
  }

  public CompletableFuture<InspectKeyResponse> inspectKey(String dataset, String id, With with) {
    return transport.unary(
        AdminServiceGrpc.getInspectKeyMethod(), InspectKeyRequest.newBuilder().setDataset(dataset).setId(id).build(), with);
  }

  public CompletableFuture<GetPolicyResponse> getPolicy(With with) {
    return transport.unary(AdminServiceGrpc.getGetPolicyMethod(), GetPolicyRequest.getDefaultInstance(), with);
  }

  /** Overrides values in this sidecar, or resets those of its reset mask. */
  public CompletableFuture<UpdatePolicyResponse> updatePolicy(UpdatePolicyRequest request, With with) {
    return transport.unary(AdminServiceGrpc.getUpdatePolicyMethod(), request, with);
  }
}
