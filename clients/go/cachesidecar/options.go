package cachesidecar

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

// CallOption is an option of any call.
type CallOption interface{ applyCall(*callSettings) }

// ReadOption is an option of a read that caches answer. Each CallOption of this package is one too.
type ReadOption interface{ applyRead(*readSettings) }

// WriteOption is an option of a write. Each CallOption of this package is one too.
type WriteOption interface{ applyWrite(*writeSettings) }

// UpdateOption is an option of an update. Each WriteOption of this package is one too.
type UpdateOption interface{ applyUpdate(*updateSettings) }

type callSettings struct{ timeout time.Duration }

type readSettings struct {
	callSettings
	options  *pb.ReadOptions
	fallback any // a func(context.Context) (T, error)
}

type writeSettings struct {
	callSettings
	requestID string
}

type updateSettings struct {
	writeSettings
	mask *fieldmaskpb.FieldMask
}

// TimeoutOption is what Timeout returns.
type TimeoutOption time.Duration

// Timeout is how long the call may take, with all its repetitions. The default is the context's deadline, or else what
// WithTimeouts says. A context that ends earlier ends the call.
func Timeout(d time.Duration) TimeoutOption { return TimeoutOption(d) }

func (t TimeoutOption) applyCall(s *callSettings)     { s.timeout = time.Duration(t) }
func (t TimeoutOption) applyRead(s *readSettings)     { s.timeout = time.Duration(t) }
func (t TimeoutOption) applyWrite(s *writeSettings)   { s.timeout = time.Duration(t) }
func (t TimeoutOption) applyUpdate(s *updateSettings) { s.timeout = time.Duration(t) }

type readOption func(*readSettings)

func (o readOption) applyRead(s *readSettings) { o(s) }

// MaxAge is the greatest age that is accepted: older content is read from the next tier. 0 accepts only PostgreSQL.
func MaxAge(d time.Duration) ReadOption {
	return readOption(func(s *readSettings) { s.proto().MaxAge = durationpb.New(d) })
}

// Bypass reads from PostgreSQL, whatever the caches hold.
func Bypass() ReadOption {
	return readOption(func(s *readSettings) { s.proto().Bypass = true })
}

func (s *readSettings) proto() *pb.ReadOptions {
	if s.options == nil {
		s.options = &pb.ReadOptions{}
	}
	return s.options
}

// FallbackOption is what Fallback returns.
type FallbackOption struct{ load any }

// Fallback is the application's own way to load what the call returns, a *Product for Products.Get, used while the sidecar is
// away. See [WithFallbackLimits]. What the loader returns is marked in its Cache.
func Fallback[T any](load func(ctx context.Context) (T, error)) FallbackOption {
	return FallbackOption{load}
}

func (o FallbackOption) applyRead(s *readSettings) { s.fallback = o.load }

type writeOption func(*writeSettings)

func (o writeOption) applyWrite(s *writeSettings)   { o(s) }
func (o writeOption) applyUpdate(s *updateSettings) { o(&s.writeSettings) }

// RequestIDOption is what RequestID returns.
type RequestIDOption = writeOption

// RequestID makes repetitions of a write safe also where the application repeats it itself, in another process or after a
// crash: for 24 hours, a write with the same id happens once and returns the original reply. A UUID. By default the client
// makes one for each call.
func RequestID(id string) RequestIDOption {
	return func(s *writeSettings) { s.requestID = id }
}

type updateOption func(*updateSettings)

func (o updateOption) applyUpdate(s *updateSettings) { o(s) }

// Fields are the fields that an update sets, by their names in the proto, such as title or attributes.color; those that
// are empty are cleared. "*" stands for all. By default an update sets the fields that are not empty.
func Fields(paths ...string) UpdateOption {
	return updateOption(func(s *updateSettings) { s.mask = &fieldmaskpb.FieldMask{Paths: paths} })
}

func callOf(options []CallOption) (s callSettings) {
	for _, option := range options {
		option.applyCall(&s)
	}
	return s
}

func readOf(options []ReadOption) (s readSettings) {
	for _, option := range options {
		option.applyRead(&s)
	}
	return s
}

func writeOf(options []WriteOption) (s writeSettings) {
	for _, option := range options {
		option.applyWrite(&s)
	}
	if s.requestID == "" {
		s.requestID = uuid.NewString()
	}
	return s
}

func updateOf(options []UpdateOption) (s updateSettings) {
	for _, option := range options {
		option.applyUpdate(&s)
	}
	if s.requestID == "" {
		s.requestID = uuid.NewString()
	}
	return s
}

// loaderOf returns the loader of a read, or nil; an error if it loads something else than the read returns.
func loaderOf[T any](s readSettings) (func(context.Context) (T, error), error) {
	if s.fallback == nil {
		return nil, nil
	}
	load, ok := s.fallback.(func(context.Context) (T, error))
	if !ok {
		var wanted T
		return nil, fmt.Errorf("cachesidecar: the fallback is a %T, but this call returns a %T", s.fallback, wanted)
	}
	return load, nil
}
