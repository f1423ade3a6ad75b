package io.cachesidecar.client;

import io.cachesidecar.v1.DeleteRecommendationsRequest;
import io.cachesidecar.v1.GetRecommendationsRequest;
import io.cachesidecar.v1.GetRecommendationsResponse;
import io.cachesidecar.v1.ImportRecommendationsRequest;
import io.cachesidecar.v1.ImportRecommendationsResponse;
import io.cachesidecar.v1.RecommendationList;
import io.cachesidecar.v1.RecommendationServiceGrpc;
import java.util.Iterator;
import java.util.concurrent.CompletableFuture;

/** Recommendations: of these, the messages of the protos. */
public final class Recommendations {
  /** So many lists, or so many of their products, are sent as one message. */
  private static final int LISTS = 100;

  private static final int PRODUCTS = 5_000;
  private final Transport transport;

  Recommendations(Transport transport) {
    this.transport = transport;
  }

  /** Completes with the products to recommend to a user, at a place. The freshness is that of {@code with}. */
  public CompletableFuture<GetRecommendationsResponse> get(GetRecommendationsRequest query, With with) {
    var request = query.toBuilder().setOptions(with.readOptions()).build();
    return transport.unary(RecommendationServiceGrpc.getGetRecommendationsMethod(), request, with);
  }

  /**
   * Sends lists as one batch, and has them served with {@code commit}. Each message of lists is repeated until it is stored, or the
   * timeout (30 seconds) has passed. If it fails then, call it again with the same batch and {@code firstList}, the number of the
   * first list that is not stored, which an import of no lists without commit returns.
   */
  public CompletableFuture<ImportRecommendationsResponse> importLists(
      String batchId, Iterator<RecommendationList> lists, long firstList, boolean commit, With with) {
    return send(new Messages(batchId, lists, firstList, commit), with);
  }

  private CompletableFuture<ImportRecommendationsResponse> send(Messages messages, With with) {
    return transport
        .unary(RecommendationServiceGrpc.getImportRecommendationsMethod(), messages.next(), with)
        .thenCompose(reply -> messages.hasNext() ? send(messages, with) : CompletableFuture.completedFuture(reply));
  }

  /** Deletes the lists of a user, of a product, or of a batch, and completes with how many. */
  public CompletableFuture<Long> delete(DeleteRecommendationsRequest what, With with) {
    return transport.unary(RecommendationServiceGrpc.getDeleteRecommendationsMethod(), what, with).thenApply(reply -> reply.getDeletedCount());
  }

  /** Cuts lists into messages. */
  private static final class Messages implements Iterator<ImportRecommendationsRequest> {
    private final String batchId;
    private final Iterator<RecommendationList> lists;
    private final boolean commit;
    private long first;
    private RecommendationList pending;
    private boolean isLast;

    Messages(String batchId, Iterator<RecommendationList> lists, long first, boolean commit) {
      this.batchId = batchId;
      this.lists = lists;
      this.first = first;
      this.commit = commit;
    }

    @Override
    public boolean hasNext() {
      return !isLast;
    }

    @Override
    public ImportRecommendationsRequest next() {
      var message = ImportRecommendationsRequest.newBuilder().setBatchId(batchId).setFirstList(first);
      int products = 0;
      while (pending != null || lists.hasNext()) {
        if (pending == null) pending = lists.next();
        products += pending.getRecommendationsCount();
        if (message.getListsCount() == LISTS || message.getListsCount() > 0 && products > PRODUCTS) break;
        message.addLists(pending);
        pending = null;
      }
      first += message.getListsCount();
      isLast = pending == null;
      return message.setCommit(isLast && commit).build();
    }
  }
}
