package cachesidecar

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

// maxBatch is how many ids a batch of the API may have.
const maxBatch = 500

// joiner sends the gets of a short time as one batch.
type joiner[T any] struct {
	window time.Duration
	// resource and method are for the errors of single ids.
	resource, method string
	single           func(context.Context, string, readSettings) (T, error)
	batch            func(ctx context.Context, ids []string, settings readSettings) (found []T, missing []string, err error)
	idOf             func(T) string

	mutex   sync.Mutex
	pending []*gathering[T]
}

// gathering is a batch that is not sent yet, or not answered.
type gathering[T any] struct {
	options  *pb.ReadOptions
	deadline time.Time
	ids      []string
	waiting  map[string]*joinedGet[T]
	timer    *time.Timer
}

// joinedGet is one id of a batch, for however many callers.
type joinedGet[T any] struct {
	done       chan struct{}
	isAnswered bool
	value      T
	err        error
}

// get returns what single would, but asks together with others.
func (j *joiner[T]) get(ctx context.Context, id string, settings readSettings) (T, error) {
	// A batch with an id that breaks a rule fails as a whole, and has no place for the answer to this one.
	if len(id) == 0 || len(id) > 128 || !utf8.ValidString(id) {
		return j.single(ctx, id, settings)
	}
	one := j.join(ctx, id, settings)
	select {
	case <-one.done:
		return one.value, one.err
	case <-ctx.Done():
		var none T
		return none, errorFrom(contextError(ctx), j.method, 0, nil)
	}
}

// join adds an id to a batch of the same options, and begins one if there is none.
func (j *joiner[T]) join(ctx context.Context, id string, settings readSettings) *joinedGet[T] {
	deadline, _ := ctx.Deadline()
	j.mutex.Lock()
	defer j.mutex.Unlock()
	var g *gathering[T]
	for _, other := range j.pending {
		if proto.Equal(other.options, settings.options) {
			g = other
		}
	}
	if g == nil {
		g = &gathering[T]{options: settings.options, deadline: deadline, waiting: map[string]*joinedGet[T]{}}
		j.pending = append(j.pending, g)
		g.timer = time.AfterFunc(j.window, func() { j.send(g) })
	}
	// The one who waits longest decides: others leave at their own deadline.
	if deadline.After(g.deadline) {
		g.deadline = deadline
	}
	if one, isThere := g.waiting[id]; isThere {
		return one
	}
	one := &joinedGet[T]{done: make(chan struct{})}
	g.ids, g.waiting[id] = append(g.ids, id), one
	if len(g.ids) == maxBatch && g.timer.Stop() {
		j.remove(g)
		go j.ask(g)
	}
	return one
}

func (j *joiner[T]) remove(g *gathering[T]) {
	for i, other := range j.pending {
		if other == g {
			j.pending = append(j.pending[:i], j.pending[i+1:]...)
			return
		}
	}
}

// send asks for what has gathered; nobody joins it any more.
func (j *joiner[T]) send(g *gathering[T]) {
	j.mutex.Lock()
	j.remove(g)
	j.mutex.Unlock()
	j.ask(g)
}

func (j *joiner[T]) ask(g *gathering[T]) {
	// Not the context of one caller: the others want their answer although this one may give up.
	ctx, cancel := context.WithDeadline(context.Background(), g.deadline)
	defer cancel()
	j.fill(ctx, g, g.ids, readSettings{options: g.options})
}

// fill asks for some ids of a batch, and answers those who wait for them.
func (j *joiner[T]) fill(ctx context.Context, g *gathering[T], ids []string, settings readSettings) {
	if len(ids) == 1 {
		one := g.waiting[ids[0]]
		one.value, one.err = j.single(ctx, ids[0], settings)
		close(one.done)
		return
	}
	found, missing, err := j.batch(ctx, ids, settings)
	var e *Error
	if errors.As(err, &e) && (e.Reason == ReplyTooLarge || e.Code == codes.InvalidArgument) {
		// Too much for one reply, or one of the ids breaks a rule: ask for less at once.
		half := len(ids) / 2
		j.fill(ctx, g, ids[:half], settings)
		j.fill(ctx, g, ids[half:], settings)
		return
	}
	for _, value := range found {
		if one, isThere := g.waiting[j.idOf(value)]; isThere {
			one.value, one.isAnswered = value, true
		}
	}
	for _, id := range missing {
		if one, isThere := g.waiting[id]; isThere {
			one.err, one.isAnswered = j.failure(id, codes.NotFound, NotFound, "there is no "+j.resource), true
		}
	}
	for _, id := range ids {
		one := g.waiting[id]
		if err != nil {
			one.err = err
		} else if !one.isAnswered {
			// A batch omits what cannot be read.
			one.err = j.failure(id, codes.DataLoss, UnreadableRow, "the row cannot be read of "+j.resource)
		}
		close(one.done)
	}
}

// failure returns the error that a get of one id would have returned.
func (j *joiner[T]) failure(id string, code codes.Code, reason Reason, message string) error {
	info := &errdetails.ErrorInfo{
		Reason: string(reason), Domain: errorDomain, Metadata: map[string]string{"resource": j.resource, "id": id}}
	failed, err := status.New(code, fmt.Sprintf("%s '%s'", message, id)).WithDetails(info)
	if err != nil {
		return err
	}
	return errorFrom(failed.Err(), j.method, 1, nil)
}
