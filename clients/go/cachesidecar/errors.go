package cachesidecar

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

// errorDomain is that of the sidecar's ErrorInfo. Reasons of other domains come from proxies in between.
const errorDomain = "cache-sidecar.io"

// Reason says why a call failed. Use it with errors.Is: errors.Is(err, cachesidecar.NotFound).
type Reason string

// Error returns the reason, so that it can be the target of errors.Is.
func (r Reason) Error() string { return "cachesidecar: " + string(r) }

// The reasons of the sidecar. The service that a call belongs to documents which of them it has.
const (
	AlreadyExists      Reason = "ALREADY_EXISTS"
	AuditFailed        Reason = "AUDIT_FAILED"
	BatchCommitted     Reason = "BATCH_COMMITTED"
	BucketsInUse       Reason = "BUCKETS_IN_USE"
	ChangesExpired     Reason = "CHANGES_EXPIRED"
	ClientNotAllowed   Reason = "CLIENT_NOT_ALLOWED"
	DeadlineExceeded   Reason = "DEADLINE_EXCEEDED"
	Draining           Reason = "DRAINING"
	EtagMismatch       Reason = "ETAG_MISMATCH"
	EventBacklogFull   Reason = "EVENT_BACKLOG_FULL"
	Internal           Reason = "INTERNAL"
	InvalidCertificate Reason = "INVALID_CERTIFICATE"
	InvalidRequest     Reason = "INVALID_REQUEST"
	InvalidToken       Reason = "INVALID_TOKEN"
	LimitReached       Reason = "LIMIT_REACHED"
	ListsMissing       Reason = "LISTS_MISSING"
	NotFound           Reason = "NOT_FOUND"
	OutOfStock         Reason = "OUT_OF_STOCK"
	Overloaded         Reason = "OVERLOADED"
	ReadOnly           Reason = "READ_ONLY"
	ReplyTooLarge      Reason = "REPLY_TOO_LARGE"
	RequestIDReused    Reason = "REQUEST_ID_REUSED"
	ReservationEnded   Reason = "RESERVATION_ENDED"
	RevocationPending  Reason = "REVOCATION_PENDING"
	RoleMissing        Reason = "ROLE_MISSING"
	StreamIdle         Reason = "STREAM_IDLE"
	TierBusy           Reason = "TIER_BUSY"
	TierUnavailable    Reason = "TIER_UNAVAILABLE"
	UnreadableRow      Reason = "UNREADABLE_ROW"
	WatchTooSlow       Reason = "WATCH_TOO_SLOW"
)

// Error is what every failed call returns, alone or inside one of the types below: errors.As(err, &e) with an *Error
// always succeeds. It also matches its Reason, and context.DeadlineExceeded and context.Canceled, with errors.Is.
type Error struct {
	// Method is the gRPC method, such as /cache_sidecar.v1.CartService/GetCart.
	Method string
	// Code is the gRPC status.
	Code codes.Code
	// Reason is empty if the sidecar did not answer: the error is the connection's, or a proxy's.
	Reason Reason
	// Message is the sidecar's own sentence.
	Message string
	// Metadata has the values that belong to the reason.
	Metadata map[string]string
	// Violations are the fields of the request that break a rule.
	Violations []Violation
	// RetryAfter is what the sidecar asked to wait; 0 if it did not.
	RetryAfter time.Duration
	// Attempts is how often the call was made.
	Attempts int
	// Cause is the failure of the attempt before, if the deadline passed during the retry after it.
	Cause error

	status *status.Status
}

// Violation is a field of a request that breaks a rule.
type Violation struct {
	// Field is its path, such as cart.items[2].quantity.
	Field string
	// Description says what would be right.
	Description string
}

// Error returns one line.
func (e *Error) Error() string {
	what := string(e.Reason)
	if what == "" {
		what = e.Code.String()
	}
	text := fmt.Sprintf("cachesidecar: %s: %s: %s", e.Method, what, e.Message)
	if e.Cause != nil {
		text += fmt.Sprintf(" (before that: %v)", e.Cause)
	}
	return text
}

// Is matches reasons, and the errors of package context.
func (e *Error) Is(target error) bool {
	switch target {
	case context.DeadlineExceeded:
		return e.Code == codes.DeadlineExceeded
	case context.Canceled:
		return e.Code == codes.Canceled
	}
	reason, isReason := target.(Reason)
	return isReason && reason != "" && reason == e.Reason
}

// Unwrap returns the failure of the attempt before.
func (e *Error) Unwrap() error { return e.Cause }

// GRPCStatus lets status.FromError and status.Code work.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// IsAway returns whether the sidecar could not answer now: it is not there, is overloaded, has lost what it needs, or did
// not answer in time. What the call asked for may exist nevertheless.
func IsAway(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Canceled:
		return true
	}
	return false
}

// base is Error by a name that, embedded, does not hide the method Error.
type base = Error

// typed is what the types of errors share: all of them are an *Error too.
type typed struct{ *base }

// Unwrap returns the Error with the status.
func (t typed) Unwrap() error { return t.base }

// NotFoundError says that a resource does not exist.
type NotFoundError struct {
	typed
	// Resource is its kind, such as product.
	Resource string
	// ID is its id.
	ID string
}

// AlreadyExistsError says that the id of a new resource is taken.
type AlreadyExistsError struct {
	typed
	// Resource is its kind, such as product.
	Resource string
	// ID is its id.
	ID string
}

// EtagMismatchError says that a resource was changed since it was read.
type EtagMismatchError struct {
	typed
	// Resource is its kind, such as product.
	Resource string
	// ID is its id.
	ID string
	// Etag is the current one; empty if the resource does not exist.
	Etag string
	// Cart is the current cart, if the resource is one of at most 3,000 bytes.
	Cart *Cart
}

// OutOfStockError says that fewer pieces are available than were asked for.
type OutOfStockError struct {
	typed
	// ProductID is the first such product.
	ProductID string
	// Available is how many pieces of it there are.
	Available int64
}

// ReservationEndedError says that a reservation is no longer held.
type ReservationEndedError struct {
	typed
	// ReservationID is its id.
	ReservationID string
	// State is what became of it: committed, released or expired.
	State string
}

// LimitReachedError says that a resource would become too large.
type LimitReachedError struct {
	typed
	// What is limited, such as items in a cart.
	What string
	// Limit is how many there can be.
	Limit int64
}

// ReplyTooLargeError says that a reply, or what a write would make, is larger than the sidecar's max_message_bytes.
type ReplyTooLargeError struct {
	typed
	// Size is that of the reply, in bytes.
	Size int64
	// Limit is the sidecar's, in bytes.
	Limit int64
}

// InvalidRequestError says which fields of a request break a rule.
type InvalidRequestError struct{ typed }

// UnauthenticatedError says that the token or certificate is not accepted.
type UnauthenticatedError struct{ typed }

// PermissionError says that the caller may not call this.
type PermissionError struct {
	typed
	// Role is the one that is missing; empty if the caller is not allowed at all.
	Role string
}

// UnavailableError says that the sidecar could not answer: it is not there, or the tier that it needs is not.
type UnavailableError struct {
	typed
	// Tier is what the sidecar needs and cannot reach; empty if it is the sidecar that is away.
	Tier string
}

// OverloadedError says that the sidecar, or a tier, has too much to do. The client has waited and tried again.
type OverloadedError struct{ typed }

// contextError returns why a context has ended, as a status.
func contextError(ctx context.Context) error { return status.FromContextError(ctx.Err()).Err() }

// errorFrom returns the error of a failed attempt, as the type of its reason; method, attempts and cause are the call's.
func errorFrom(err error, method string, attempts int, cause error) error {
	s := status.Convert(err)
	e := &Error{Method: method, Code: s.Code(), Message: s.Message(), Attempts: attempts, Cause: cause, status: s}
	var cart *Cart
	for _, detail := range s.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == errorDomain {
				e.Reason, e.Metadata = Reason(detail.GetReason()), detail.GetMetadata()
			}
		case *errdetails.BadRequest:
			for _, one := range detail.GetFieldViolations() {
				e.Violations = append(e.Violations, Violation{Field: one.GetField(), Description: one.GetDescription()})
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = detail.GetRetryDelay().AsDuration()
		case *pb.Cart:
			cart = cartFrom(detail, nil)
		}
	}
	return e.typed(cart)
}

func (e *Error) typed(cart *Cart) error {
	t, values := typed{e}, e.Metadata
	switch e.Reason {
	case NotFound:
		return &NotFoundError{t, values["resource"], values["id"]}
	case AlreadyExists:
		return &AlreadyExistsError{t, values["resource"], values["id"]}
	case EtagMismatch:
		return &EtagMismatchError{t, values["resource"], values["id"], values["etag"], cart}
	case OutOfStock:
		return &OutOfStockError{t, values["product_id"], e.number("available")}
	case ReservationEnded:
		return &ReservationEndedError{t, values["reservation_id"], values["state"]}
	case LimitReached:
		return &LimitReachedError{t, values["what"], e.number("limit")}
	case ReplyTooLarge:
		return &ReplyTooLargeError{t, e.number("size"), e.number("limit")}
	}
	switch e.Code {
	case codes.InvalidArgument:
		return &InvalidRequestError{t}
	case codes.Unauthenticated:
		return &UnauthenticatedError{t}
	case codes.PermissionDenied:
		return &PermissionError{t, values["role"]}
	case codes.Unavailable:
		return &UnavailableError{t, values["tier"]}
	case codes.ResourceExhausted:
		return &OverloadedError{t}
	}
	return e
}

// number returns a value of the metadata; 0 where a newer sidecar writes something else.
func (e *Error) number(key string) int64 {
	n, _ := strconv.ParseInt(e.Metadata[key], 10, 64)
	return n
}
