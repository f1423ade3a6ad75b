package cachesidecar

import (
	"context"
	"iter"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

// Placement is where a list is shown.
type Placement = pb.RecommendationPlacement

// The placements of recommendations.
const (
	PlacementHomePage      = pb.RecommendationPlacement_RECOMMENDATION_PLACEMENT_HOME_PAGE
	PlacementProductDetail = pb.RecommendationPlacement_RECOMMENDATION_PLACEMENT_PRODUCT_DETAIL
	PlacementShoppingCart  = pb.RecommendationPlacement_RECOMMENDATION_PLACEMENT_SHOPPING_CART
	PlacementCheckout      = pb.RecommendationPlacement_RECOMMENDATION_PLACEMENT_CHECKOUT
)

// Model is what a list is made of.
type Model = pb.RecommendationModel

// The models of recommendations.
const (
	ModelRecommendedForYou        = pb.RecommendationModel_RECOMMENDATION_MODEL_RECOMMENDED_FOR_YOU
	ModelOthersYouMayLike         = pb.RecommendationModel_RECOMMENDATION_MODEL_OTHERS_YOU_MAY_LIKE
	ModelFrequentlyBoughtTogether = pb.RecommendationModel_RECOMMENDATION_MODEL_FREQUENTLY_BOUGHT_TOGETHER
	ModelBuyItAgain               = pb.RecommendationModel_RECOMMENDATION_MODEL_BUY_IT_AGAIN
	ModelRecentlyViewed           = pb.RecommendationModel_RECOMMENDATION_MODEL_RECENTLY_VIEWED
	ModelBestSellers              = pb.RecommendationModel_RECOMMENDATION_MODEL_BEST_SELLERS
)

// RecommendationReason says why a product is in a list.
type RecommendationReason = pb.RecommendationReason

// RecommendationQuery says what Get returns. One that has nothing but UserID is the cheapest.
type RecommendationQuery struct {
	// UserID is the user who will see the list; empty for an unknown one.
	UserID    string
	Placement Placement
	Model     Model
	// PageSize is the maximum number of products, 1 to 100; 0 is 10.
	PageSize int
	// ContextProductIDs are those that the page is about, CartProductIDs those in the cart, ExcludeProductIDs others that must
	// not be in the list.
	ContextProductIDs, CartProductIDs, ExcludeProductIDs []string
	// FilterPurchased leaves out what the user bought, FilterOutOfStock what is sold out.
	FilterPurchased, FilterOutOfStock bool
	// OptedOut says that the user does not agree to be recognized.
	OptedOut bool
	// Explain has each product come with the terms of its score.
	Explain bool
}

// RecommendationList is a list of products, best first.
type RecommendationList struct {
	Recommendations []Recommendation
	// AttributionToken, ExperimentID and Variant belong in the events that the list leads to.
	AttributionToken string
	// MissingProductIDs are those of the page and the cart that are not in the catalogue.
	MissingProductIDs []string
	ExperimentID      string
	Variant           string
	// ModelVersion and ModelTime say what the list was computed by, and from when that is.
	ModelVersion string
	ModelTime    time.Time
	// Generator is what made the list.
	Generator string
	// Fallback is the generator that answered because another one had failed; empty if none had.
	Fallback string
	Cache    Cache
}

// Recommendation is one product of a list.
type Recommendation struct {
	ProductID string
	// Score is comparable within one list only.
	Score  float64
	Reason RecommendationReason
	// BecauseProductID is the product that the reason names.
	BecauseProductID string
	// Terms is what the score is made of, if the query has Explain.
	Terms *RecommendationTerms
}

// RecommendationTerms are the terms of a score, which is their sum.
type RecommendationTerms struct{ History, Context, Similar, Popular float64 }

// RecommendationService recommends products.
type RecommendationService struct{ client *Client }

// Get returns a list. An unknown user gets popular products.
func (s *RecommendationService) Get(
	ctx context.Context, query RecommendationQuery, options ...ReadOption,
) (*RecommendationList, error) {
	settings := readOf(options)
	size, err := int32From(query.PageSize, "PageSize")
	if err != nil {
		return nil, err
	}
	request := &pb.GetRecommendationsRequest{
		UserId: query.UserID, Options: settings.options, Placement: query.Placement, Model: query.Model, PageSize: size,
		ContextProductIds: query.ContextProductIDs, CartProductIds: query.CartProductIDs,
		ExcludeProductIds: query.ExcludeProductIDs, FilterPurchased: query.FilterPurchased,
		FilterOutOfStock: query.FilterOutOfStock, Explain: query.Explain,
	}
	if query.OptedOut {
		personalised := false
		request.Personalised = &personalised
	}
	return withFallback(ctx, s.client, settings, pb.RecommendationService_GetRecommendations_FullMethodName,
		func(ctx context.Context) (*RecommendationList, error) {
			reply, err := invoke[pb.GetRecommendationsResponse](ctx, s.client, read,
				pb.RecommendationService_GetRecommendations_FullMethodName, request, settings.callSettings)
			if err != nil {
				return nil, err
			}
			return recommendationsFrom(reply), nil
		})
}

// ProvidedList is a list that the shop computed itself, for a user or for the page of a product: exactly one is set.
type ProvidedList struct {
	UserID, ProductID string
	// Model is what it answers; 0 stands for the usual one of a user, or of a product.
	Model Model
	// Recommendations are 1 to 500, best first.
	Recommendations []ProvidedRecommendation
}

// ProvidedRecommendation is one product of a list that the shop computed.
type ProvidedRecommendation struct {
	ProductID string
	// Score is shown in replies; the order of the list decides.
	Score float64
}

// RecommendationImport is a batch of lists that the shop computed, which takes the place of the one before, whole.
type RecommendationImport struct {
	BatchID string
	// Lists are all lists of the batch, from the one with number FirstList on. They are iterated again, from the beginning, when
	// the connection breaks.
	Lists     iter.Seq[ProvidedList]
	FirstList int64
	// Commit says that the batch is complete with them, and is to be served.
	Commit bool
}

// Imported says how much of a batch is stored.
type Imported struct {
	// NextList is the number of lists that are stored.
	NextList int64
	// Committed says that the batch is served.
	Committed bool
}

// maxImportBytes bounds what one message of an import has; sidecars accept 4 MiB unless they are told otherwise.
const (
	maxImportBytes = 1 << 20
	maxImportLists = 1000
)

// Import stores lists. When the connection breaks, it goes on with the first list that is not stored, for as long as that
// makes progress. Fails with ListsMissing if FirstList is beyond what is stored, and with BatchCommitted if the batch is served
// already.
func (s *RecommendationService) Import(ctx context.Context, batch RecommendationImport) (*Imported, error) {
	const method = pb.RecommendationService_ImportRecommendations_FullMethodName
	stored, progress := batch.FirstList, time.Now()
	for attempts := 1; ; attempts++ {
		token := s.client.token.current()
		reply, err := s.send(ctx, batch, stored)
		if err == nil {
			return &Imported{NextList: reply.NextList, Committed: reply.Committed}, nil
		}
		failed := errorFrom(err, method, attempts, nil)
		// A deadline for each step, not for the import, which may take hours.
		step, cancel := context.WithDeadline(ctx, progress.Add(s.client.timeouts[admin]))
		pause, again := s.client.pauseBefore(step, failed, attempts, token)
		again = again && sleep(step, pause)
		cancel()
		if !again {
			return nil, failed
		}
		if reply, err := s.send(ctx, RecommendationImport{BatchID: batch.BatchID}, 0); err == nil && reply.NextList > stored {
			stored, progress, attempts = reply.NextList, time.Now(), 0
		}
	}
}

// send sends the lists of a batch from a number on.
func (s *RecommendationService) send(
	ctx context.Context, batch RecommendationImport, from int64,
) (*pb.ImportRecommendationsResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewRecommendationServiceClient(s.client.conn).ImportRecommendations(ctx)
	if err != nil {
		return nil, err
	}
	request := &pb.ImportRecommendationsRequest{BatchId: batch.BatchID, FirstList: from}
	number, bytes := batch.FirstList, 0
	if batch.Lists != nil {
		for list := range batch.Lists {
			if number++; number <= from {
				continue
			}
			message := list.proto()
			size := proto.Size(message)
			if len(request.Lists) == maxImportLists || len(request.Lists) > 0 && bytes+size > maxImportBytes {
				if stream.Send(request) != nil {
					return closeAndReceive(stream) // the reason is there
				}
				request = &pb.ImportRecommendationsRequest{BatchId: batch.BatchID, FirstList: number - 1}
				bytes = 0
			}
			request.Lists = append(request.Lists, message)
			bytes += size
		}
	}
	request.Commit = batch.Commit
	_ = stream.Send(request)
	return closeAndReceive(stream)
}

func closeAndReceive(
	stream pb.RecommendationService_ImportRecommendationsClient,
) (*pb.ImportRecommendationsResponse, error) {
	reply, err := stream.CloseAndRecv()
	return reply, endOfStream(err)
}

// RecommendationTarget says what Delete deletes: exactly one field is set.
type RecommendationTarget struct{ UserID, ProductID, BatchID string }

// Delete deletes lists that were imported, and returns how many.
func (s *RecommendationService) Delete(
	ctx context.Context, target RecommendationTarget, options ...CallOption,
) (int64, error) {
	request := &pb.DeleteRecommendationsRequest{
		UserId: target.UserID, ProductId: target.ProductID, BatchId: target.BatchID}
	reply, err := invoke[pb.DeleteRecommendationsResponse](ctx, s.client, write,
		pb.RecommendationService_DeleteRecommendations_FullMethodName, request, callOf(options))
	if err != nil {
		return 0, err
	}
	return reply.DeletedCount, nil
}

func recommendationsFrom(r *pb.GetRecommendationsResponse) *RecommendationList {
	convert := func(one *pb.Recommendation) Recommendation {
		converted := Recommendation{
			ProductID: one.GetProductId(), Score: one.GetScore(), Reason: one.GetReason(),
			BecauseProductID: one.GetBecauseProductId(),
		}
		if terms := one.GetTerms(); terms != nil {
			converted.Terms = &RecommendationTerms{
				History: terms.History, Context: terms.Context, Similar: terms.Similar, Popular: terms.Popular}
		}
		return converted
	}
	return &RecommendationList{
		Recommendations: each(r.Recommendations, convert), AttributionToken: r.AttributionToken,
		MissingProductIDs: r.MissingProductIds, ExperimentID: r.ExperimentId, Variant: r.Variant,
		ModelVersion: r.ModelVersion, ModelTime: timeFrom(r.ModelTime), Generator: r.Generator, Fallback: r.Fallback,
		Cache: cacheFrom(r.Cache),
	}
}

func (l ProvidedList) proto() *pb.RecommendationList {
	convert := func(r ProvidedRecommendation) *pb.ProvidedRecommendation {
		return &pb.ProvidedRecommendation{ProductId: r.ProductID, Score: r.Score}
	}
	return &pb.RecommendationList{
		UserId: l.UserID, ProductId: l.ProductID, Model: l.Model, Recommendations: each(l.Recommendations, convert)}
}

func (l *RecommendationList) setFallback() { l.Cache.Fallback = true }
