package cachesidecar

import (
	"context"
	"iter"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

// Inventory is the stock of a product.
type Inventory struct {
	ProductID string
	// Available is how many pieces can be reserved, Reserved how many are held by reservations.
	Available, Reserved int64
	// BucketCount is how many rows of the database the stock is spread over.
	BucketCount int32
	// Etag is the state that was read. Set with it fails if the stock was changed since.
	Etag       string
	UpdateTime time.Time
	// Cache is set by reads.
	Cache Cache
}

// ReservationState is what has become of a reservation.
type ReservationState = pb.ReservationState

// The states of a Reservation.
const (
	ReservationHeld      = pb.ReservationState_RESERVATION_STATE_HELD
	ReservationCommitted = pb.ReservationState_RESERVATION_STATE_COMMITTED
	ReservationReleased  = pb.ReservationState_RESERVATION_STATE_RELEASED
	ReservationExpired   = pb.ReservationState_RESERVATION_STATE_EXPIRED
)

// Reservation is pieces of one or more products, held for a user.
type Reservation struct {
	ReservationID string
	UserID        string
	Items         []ReservationItem
	State         ReservationState
	CreateTime    time.Time
	// ExpireTime is when the pieces become available again unless the reservation is committed before.
	ExpireTime time.Time
	// EndTime is when it was committed, released or expired; zero while it is held.
	EndTime time.Time
}

// ReservationItem is a number of pieces of one product.
type ReservationItem struct {
	ProductID string
	Quantity  int32
}

// InventoryService reads, sets and reserves stock.
type InventoryService struct {
	client *Client
	joined *joiner[*Inventory]
}

func newInventory(c *Client, settings *config) *InventoryService {
	s := &InventoryService{client: c}
	if settings.joinWindow > 0 {
		s.joined = &joiner[*Inventory]{
			window: settings.joinWindow, resource: "inventory", method: pb.InventoryService_BatchGetInventory_FullMethodName,
			single: s.get,
			batch: func(ctx context.Context, ids []string, settings readSettings) ([]*Inventory, []string, error) {
				batch, err := s.batchGet(ctx, ids, settings)
				if err != nil {
					return nil, nil, err
				}
				return batch.Inventories, batch.Missing, nil
			},
			idOf: func(i *Inventory) string { return i.ProductID },
		}
	}
	return s
}

// Get returns the stock of a product. Fails with NotFound if none was ever set.
func (s *InventoryService) Get(ctx context.Context, productID string, options ...ReadOption) (*Inventory, error) {
	settings := readOf(options)
	return withFallback(ctx, s.client, settings, pb.InventoryService_GetInventory_FullMethodName,
		func(ctx context.Context) (*Inventory, error) {
			if s.joined == nil {
				return s.get(ctx, productID, settings)
			}
			ctx, cancel := s.client.withDeadline(ctx, read, settings.timeout)
			defer cancel()
			return s.joined.get(ctx, productID, settings)
		})
}

func (s *InventoryService) get(ctx context.Context, productID string, settings readSettings) (*Inventory, error) {
	request := &pb.GetInventoryRequest{ProductId: productID, Options: settings.options}
	reply, err := invoke[pb.GetInventoryResponse](
		ctx, s.client, read, pb.InventoryService_GetInventory_FullMethodName, request, settings.callSettings)
	if err != nil {
		return nil, err
	}
	return inventoryFrom(reply.Inventory, reply.Cache), nil
}

// InventoryBatch is what BatchGet returns.
type InventoryBatch struct {
	// Inventories are the stocks that there are, in the order of the request.
	Inventories []*Inventory
	// Missing are the ids of products without a stock.
	Missing []string
	// Cache is about the batch as a whole: the slowest tier, the greatest age.
	Cache Cache
}

// BatchGet returns the stock of up to 500 products.
func (s *InventoryService) BatchGet(ctx context.Context, productIDs []string, options ...ReadOption) (*InventoryBatch, error) {
	settings := readOf(options)
	return withFallback(ctx, s.client, settings, pb.InventoryService_BatchGetInventory_FullMethodName,
		func(ctx context.Context) (*InventoryBatch, error) { return s.batchGet(ctx, productIDs, settings) })
}

func (s *InventoryService) batchGet(ctx context.Context, productIDs []string, settings readSettings) (*InventoryBatch, error) {
	request := &pb.BatchGetInventoryRequest{ProductIds: productIDs, Options: settings.options}
	reply, err := invoke[pb.BatchGetInventoryResponse](
		ctx, s.client, read, pb.InventoryService_BatchGetInventory_FullMethodName, request, settings.callSettings)
	if err != nil {
		return nil, err
	}
	batch := &InventoryBatch{Missing: reply.Missing, Cache: cacheFrom(reply.Cache)}
	for i, one := range reply.Inventories {
		cache := reply.Cache
		if i < len(reply.InventoryCaches) {
			cache = reply.InventoryCaches[i]
		}
		batch.Inventories = append(batch.Inventories, inventoryFrom(one, cache))
	}
	return batch, nil
}

// Set sets how many pieces can be reserved, and, if BucketCount is not 0, how many rows the stock is spread over; all else is
// ignored. Fails with EtagMismatch if Etag is set and is not the current one.
func (s *InventoryService) Set(ctx context.Context, stock Inventory, options ...WriteOption) (*Inventory, error) {
	settings := writeOf(options)
	request := &pb.SetInventoryRequest{
		ProductId: stock.ProductID, Available: stock.Available, Etag: stock.Etag, BucketCount: stock.BucketCount,
		RequestId: settings.requestID,
	}
	reply, err := invoke[pb.SetInventoryResponse](
		ctx, s.client, write, pb.InventoryService_SetInventory_FullMethodName, request, settings.callSettings)
	if err != nil {
		return nil, err
	}
	return inventoryFrom(reply.Inventory, nil), nil
}

// Adjust adds pieces, or removes them if delta is negative; the reason is kept, such as returned or damaged. Fails with
// OutOfStock if there are fewer.
func (s *InventoryService) Adjust(
	ctx context.Context, productID string, delta int64, reason string, options ...WriteOption,
) (*Inventory, error) {
	settings := writeOf(options)
	request := &pb.AdjustInventoryRequest{ProductId: productID, Delta: delta, Reason: reason, RequestId: settings.requestID}
	reply, err := invoke[pb.AdjustInventoryResponse](
		ctx, s.client, write, pb.InventoryService_AdjustInventory_FullMethodName, request, settings.callSettings)
	if err != nil {
		return nil, err
	}
	return inventoryFrom(reply.Inventory, nil), nil
}

// Reserve reserves pieces of one or more products for a user: all or none. hold is 1 second to 7 days; 0 is 15 minutes. Fails
// with OutOfStock if there are too few.
func (s *InventoryService) Reserve(
	ctx context.Context, userID string, items []ReservationItem, hold time.Duration, options ...WriteOption,
) (*Reservation, error) {
	settings := writeOf(options)
	convert := func(i ReservationItem) *pb.ReservationItem {
		return &pb.ReservationItem{ProductId: i.ProductID, Quantity: i.Quantity}
	}
	request := &pb.ReserveInventoryRequest{
		UserId: userID, Items: each(items, convert), HoldDuration: holding(hold), RequestId: settings.requestID}
	reply, err := invoke[pb.ReserveInventoryResponse](
		ctx, s.client, write, pb.InventoryService_ReserveInventory_FullMethodName, request, settings.callSettings)
	return reservationOf(reply, err)
}

// Extend holds a reservation from now for so long, unless it is held longer anyway; 0 is 15 minutes. Fails with ReservationEnded
// if it is no longer held.
func (s *InventoryService) Extend(
	ctx context.Context, reservationID string, hold time.Duration, options ...WriteOption,
) (*Reservation, error) {
	settings := writeOf(options)
	request := &pb.ExtendReservationRequest{
		ReservationId: reservationID, HoldDuration: holding(hold), RequestId: settings.requestID}
	reply, err := invoke[pb.ExtendReservationResponse](
		ctx, s.client, write, pb.InventoryService_ExtendReservation_FullMethodName, request, settings.callSettings)
	return reservationOf(reply, err)
}

// Commit sells the pieces of a reservation. Fails with ReservationEnded if it was released or has expired.
func (s *InventoryService) Commit(ctx context.Context, reservationID string, options ...WriteOption) (*Reservation, error) {
	settings := writeOf(options)
	request := &pb.CommitReservationRequest{ReservationId: reservationID, RequestId: settings.requestID}
	reply, err := invoke[pb.CommitReservationResponse](
		ctx, s.client, write, pb.InventoryService_CommitReservation_FullMethodName, request, settings.callSettings)
	return reservationOf(reply, err)
}

// Release makes the pieces of a reservation available again. Fails with ReservationEnded if it was committed.
func (s *InventoryService) Release(ctx context.Context, reservationID string, options ...WriteOption) (*Reservation, error) {
	settings := writeOf(options)
	request := &pb.ReleaseReservationRequest{ReservationId: reservationID, RequestId: settings.requestID}
	reply, err := invoke[pb.ReleaseReservationResponse](
		ctx, s.client, write, pb.InventoryService_ReleaseReservation_FullMethodName, request, settings.callSettings)
	return reservationOf(reply, err)
}

// Reservation returns a reservation, always from PostgreSQL. Fails with NotFound if it does not exist.
func (s *InventoryService) Reservation(
	ctx context.Context, reservationID string, options ...CallOption,
) (*Reservation, error) {
	request := &pb.GetReservationRequest{ReservationId: reservationID}
	reply, err := invoke[pb.GetReservationResponse](
		ctx, s.client, read, pb.InventoryService_GetReservation_FullMethodName, request, callOf(options))
	return reservationOf(reply, err)
}

// ReservationQuery says what Reservations returns.
type ReservationQuery struct {
	// UserID and State select; empty and 0 select all.
	UserID string
	State  ReservationState
	// PageSize is how many reservations are read at once, at most 100; 0 is 50.
	PageSize int
}

// Reservations returns reservations, the newest first, always from PostgreSQL. An error ends it.
func (s *InventoryService) Reservations(
	ctx context.Context, query ReservationQuery, options ...CallOption,
) iter.Seq2[*Reservation, error] {
	settings := callOf(options)
	return pages(func(token string) ([]*Reservation, string, error) {
		size, err := int32From(query.PageSize, "PageSize")
		if err != nil {
			return nil, "", err
		}
		request := &pb.ListReservationsRequest{
			PageSize: size, PageToken: token, UserId: query.UserID, State: query.State}
		reply, err := invoke[pb.ListReservationsResponse](
			ctx, s.client, read, pb.InventoryService_ListReservations_FullMethodName, request, settings)
		if err != nil {
			return nil, "", err
		}
		return each(reply.Reservations, reservationFrom), reply.NextPageToken, nil
	})
}

// InventoryQuery says what Watch watches: products, all products of some categories, or both.
type InventoryQuery struct {
	ProductIDs []string
	Categories []string
}

// InventoryState is the stock of a product that is watched, or the start of the watch.
type InventoryState struct {
	// ProductID is empty where the watch starts: the current states follow.
	ProductID string
	// Inventory is nil if the product has no stock, or no longer has one.
	Inventory *Inventory
	// Cache has the version of the state, also if there is no stock.
	Cache Cache
	// Missed says, where the watch starts again, that states may have been skipped; a stock that was deleted meanwhile may not
	// be mentioned again.
	Missed bool
}

// Watch returns the stock of products, and their new states after each change; a slow reader skips states. The first one says
// that the watch has started. When the connection breaks, it starts again, and says so. It ends with an error when the context
// ends, or when the sidecar refuses it for good.
func (s *InventoryService) Watch(ctx context.Context, query InventoryQuery) iter.Seq2[InventoryState, error] {
	return func(yield func(InventoryState, error) bool) {
		started := false
		open := func(ctx context.Context) (receiver[pb.WatchInventoryResponse], error) {
			request := &pb.WatchInventoryRequest{ProductIds: query.ProductIDs, Categories: query.Categories}
			return pb.NewInventoryServiceClient(s.client.conn).WatchInventory(ctx, request)
		}
		watch(ctx, s.client, pb.InventoryService_WatchInventory_FullMethodName, open, never,
			func(m *pb.WatchInventoryResponse) bool {
				state := InventoryState{ProductID: m.ProductId, Cache: cacheFrom(m.Cache)}
				if m.Inventory != nil {
					state.Inventory = inventoryFrom(m.Inventory, m.Cache)
				}
				if m.ProductId == "" {
					state.Missed, started = started, true
				}
				return yield(state, nil)
			},
			func(err error) { yield(InventoryState{}, err) })
	}
}

// holding returns nil for 0, which stands for the server's default.
func holding(hold time.Duration) *durationpb.Duration {
	if hold == 0 {
		return nil
	}
	return durationpb.New(hold)
}

// reservationOf returns the reservation of a reply.
func reservationOf(reply interface{ GetReservation() *pb.Reservation }, err error) (*Reservation, error) {
	if err != nil {
		return nil, err
	}
	return reservationFrom(reply.GetReservation()), nil
}

func reservationFrom(r *pb.Reservation) *Reservation {
	convert := func(i *pb.ReservationItem) ReservationItem {
		return ReservationItem{ProductID: i.GetProductId(), Quantity: i.GetQuantity()}
	}
	return &Reservation{
		ReservationID: r.GetReservationId(), UserID: r.GetUserId(), Items: each(r.GetItems(), convert), State: r.GetState(),
		CreateTime: timeFrom(r.GetCreateTime()), ExpireTime: timeFrom(r.GetExpireTime()), EndTime: timeFrom(r.GetEndTime()),
	}
}

func inventoryFrom(i *pb.Inventory, cache *pb.CacheMetadata) *Inventory {
	return &Inventory{
		ProductID: i.GetProductId(), Available: i.GetAvailable(), Reserved: i.GetReserved(), BucketCount: i.GetBucketCount(),
		Etag: i.GetEtag(), UpdateTime: timeFrom(i.GetUpdateTime()), Cache: cacheFrom(cache),
	}
}

func (i *Inventory) setFallback() { i.Cache.Fallback = true }

func (b *InventoryBatch) setFallback() { b.Cache.Fallback = true }
