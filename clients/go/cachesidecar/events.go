package cachesidecar

import (
	"context"
	"encoding/binary"
	"iter"
	"time"

	"github.com/google/uuid"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

// maxEvents is how many events one call may write.
const maxEvents = 500

// UserEventType says what a user did.
type UserEventType = pb.UserEventType

// The types of a UserEvent.
const (
	DetailPageView       = pb.UserEventType_USER_EVENT_TYPE_DETAIL_PAGE_VIEW
	AddToCart            = pb.UserEventType_USER_EVENT_TYPE_ADD_TO_CART
	RemoveFromCart       = pb.UserEventType_USER_EVENT_TYPE_REMOVE_FROM_CART
	PurchaseComplete     = pb.UserEventType_USER_EVENT_TYPE_PURCHASE_COMPLETE
	Search               = pb.UserEventType_USER_EVENT_TYPE_SEARCH
	HomePageView         = pb.UserEventType_USER_EVENT_TYPE_HOME_PAGE_VIEW
	ShoppingCartPageView = pb.UserEventType_USER_EVENT_TYPE_SHOPPING_CART_PAGE_VIEW
)

// UserEvent is something that a user did, at one time.
type UserEvent struct {
	// EventID is a UUID of version 7. If it is empty, the client makes one before the first attempt, so that no repetition
	// writes the event twice.
	EventID   string
	EventType UserEventType
	// EventTime is now if it is zero.
	EventTime time.Time
	// UserID is the customer, or a guest by whatever id the shop has for one; never a session's id.
	UserID   string
	Products []UserEventProduct
	// Value is the total of a purchase, or of the cart after it was changed or viewed.
	Value            Money
	SearchQuery      string
	AttributionToken string
	ExperimentID     string
	Variant          string
	// OptedOut says that the user does not agree to be recognized: the event is written nowhere.
	OptedOut bool
}

// UserEventProduct is a product that an event is about.
type UserEventProduct struct {
	ProductID string
	// Quantity is 1 if it is 0.
	Quantity  int32
	UnitPrice Money
}

// RefusalReason says why an event was refused.
type RefusalReason = pb.RefusalReason

// The reasons of a RefusedUserEvent.
const (
	RefusedTooOld   = pb.RefusalReason_REFUSAL_REASON_TOO_OLD
	RefusedInFuture = pb.RefusalReason_REFUSAL_REASON_IN_FUTURE
)

// RefusedUserEvent is an event that was not written, and never will be.
type RefusedUserEvent struct {
	// Index is its place in what was given.
	Index   int32
	Reason  RefusalReason
	Message string
}

// WrittenEvents says what has become of events.
type WrittenEvents struct {
	// EventIDs are in the order of the events; empty for one that was not written.
	EventIDs      []string
	RefusedEvents []RefusedUserEvent
}

// EventService records what users do.
type EventService struct{ client *Client }

// Write writes events: more than 500 in several calls. After an error, the result has those that were acknowledged, and of
// the others some may have been written: write them again with the same ids.
func (s *EventService) Write(ctx context.Context, events []UserEvent, options ...CallOption) (*WrittenEvents, error) {
	settings, written := callOf(options), &WrittenEvents{}
	// Also without events there is one call: the sidecar says that this is a mistake.
	for first := true; first || len(events) > 0; first = false {
		chunk := events[:min(len(events), maxEvents)]
		events = events[len(chunk):]
		request := &pb.WriteUserEventsRequest{Events: each(chunk, UserEvent.proto)}
		reply, err := invoke[pb.WriteUserEventsResponse](
			ctx, s.client, write, pb.UserEventService_WriteUserEvents_FullMethodName, request, settings)
		if err != nil {
			return written, err
		}
		written.add(reply.EventIds, reply.RefusedEvents)
	}
	return written, nil
}

// Stream writes batches of at most 500 events over one stream, and returns what has become of each, in their order. A batch
// is taken when the one before was acknowledged. When the connection breaks, what was not acknowledged is sent again, for as
// long as a write may take; an error ends the stream.
func (s *EventService) Stream(ctx context.Context, batches iter.Seq[[]UserEvent]) iter.Seq2[*WrittenEvents, error] {
	return func(yield func(*WrittenEvents, error) bool) {
		sender := &eventSender{client: s.client}
		defer sender.end()
		for batch := range batches {
			request := &pb.StreamUserEventsRequest{Events: each(batch, UserEvent.proto)}
			reply, err := sender.send(ctx, request)
			if err != nil {
				yield(nil, err)
				return
			}
			written := &WrittenEvents{}
			written.add(reply.EventIds, reply.RefusedEvents)
			if !yield(written, nil) {
				return
			}
		}
	}
}

// Purge erases all events of a user, and returns how many PostgreSQL had.
func (s *EventService) Purge(ctx context.Context, userID string, options ...CallOption) (int64, error) {
	reply, err := invoke[pb.PurgeUserEventsResponse](ctx, s.client, write,
		pb.UserEventService_PurgeUserEvents_FullMethodName, &pb.PurgeUserEventsRequest{UserId: userID}, callOf(options))
	if err != nil {
		return 0, err
	}
	return reply.PurgedCount, nil
}

// eventSender sends batches one after the other, and opens its stream again when it breaks.
type eventSender struct {
	client *Client
	stream pb.UserEventService_StreamUserEventsClient
	cancel context.CancelFunc
}

// send returns the reply to one batch.
func (s *eventSender) send(ctx context.Context, request *pb.StreamUserEventsRequest) (*pb.StreamUserEventsResponse, error) {
	const method = pb.UserEventService_StreamUserEvents_FullMethodName
	ctx, cancel := s.client.withDeadline(ctx, write, 0)
	defer cancel()
	var before error
	for attempts := 1; ; attempts++ {
		token := s.client.token.current()
		reply, err := s.exchange(ctx, request)
		if err == nil {
			return reply, nil
		}
		s.end()
		failed := errorFrom(err, method, attempts, before)
		pause, again := s.client.pauseBefore(ctx, failed, attempts, token)
		if !again || !sleep(ctx, pause) {
			return nil, failed
		}
		s.client.counters.retries.Add(1)
		before = failed
		asError(before).Cause = nil
	}
}

// exchange sends one batch and waits for its reply, no longer than the context allows. The stream lives on after that.
func (s *eventSender) exchange(ctx context.Context, request *pb.StreamUserEventsRequest) (*pb.StreamUserEventsResponse, error) {
	if s.stream == nil {
		lasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
		s.cancel = cancel
		defer context.AfterFunc(ctx, cancel)()
		stream, err := pb.NewUserEventServiceClient(s.client.conn).StreamUserEvents(lasting)
		if err != nil {
			return nil, s.orContext(ctx, err)
		}
		s.stream = stream
	}
	defer context.AfterFunc(ctx, s.cancel)()
	// An error of Send is io.EOF: Recv has the reason.
	_ = s.stream.Send(request)
	reply, err := s.stream.Recv()
	if err != nil {
		return nil, s.orContext(ctx, err)
	}
	return reply, nil
}

// orContext returns the context's error if that is what ended the stream.
func (s *eventSender) orContext(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	return endOfStream(err)
}

// end ends the stream, if there is one.
func (s *eventSender) end() {
	if s.cancel != nil {
		s.cancel()
	}
	s.stream, s.cancel = nil, nil
}

func (w *WrittenEvents) add(ids []string, refused []*pb.RefusedUserEvent) {
	offset := int32(len(w.EventIDs))
	for _, one := range refused {
		w.RefusedEvents = append(w.RefusedEvents, RefusedUserEvent{offset + one.Index, one.Reason, one.Message})
	}
	w.EventIDs = append(w.EventIDs, ids...)
}

func (e UserEvent) proto() *pb.UserEvent {
	convert := func(p UserEventProduct) *pb.UserEventProduct {
		return &pb.UserEventProduct{ProductId: p.ProductID, Quantity: p.Quantity, UnitPrice: p.UnitPrice.proto()}
	}
	message := &pb.UserEvent{
		EventId: e.EventID, EventType: e.EventType, EventTime: timestamp(e.EventTime), UserId: e.UserID,
		Products: each(e.Products, convert), Value: e.Value.proto(), SearchQuery: e.SearchQuery,
		AttributionToken: e.AttributionToken, ExperimentId: e.ExperimentID, Variant: e.Variant,
	}
	if message.EventId == "" {
		message.EventId = newEventID(e.EventTime)
	}
	if e.OptedOut {
		personalised := false
		message.Personalised = &personalised
	}
	return message
}

// newEventID returns a UUID of version 7 with the time of an event, or with the present.
func newEventID(when time.Time) string {
	id := uuid.Must(uuid.NewV7())
	if !when.IsZero() {
		var millis [8]byte
		binary.BigEndian.PutUint64(millis[:], uint64(when.UnixMilli()))
		copy(id[:6], millis[2:])
	}
	return id.String()
}
