package cachesidecar

import (
	"context"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc/codes"
)

// receiver is the client's side of a stream of the server.
type receiver[M any] interface{ Recv() (*M, error) }

// watch opens a stream, passes on its messages, and opens it again when it breaks, until the context ends, a message is not
// wanted, or the sidecar refuses it for good; then fail is given the error. restarts decides whether an error that would be
// final is none, because the next stream begins elsewhere.
func watch[M any](
	ctx context.Context, c *Client, method string,
	open func(context.Context) (receiver[M], error),
	restarts func(error) bool,
	pass func(*M) bool,
	fail func(error),
) {
	for attempts := 1; ; attempts++ {
		token := c.token.current()
		passed, err := follow(ctx, open, pass)
		if err == nil {
			return
		}
		if passed {
			attempts = 1
		}
		failed := errorFrom(err, method, attempts, nil)
		if ctx.Err() != nil || c.isClosed() {
			fail(failed)
			return
		}
		if c.hooks.WatchBroken != nil {
			c.hooks.WatchBroken(ctx, method, failed)
		}
		c.counters.watchBreaks.Add(1)
		switch e := asError(failed); {
		case restarts(failed), e.Code == codes.OK, e.Code == codes.Unavailable, e.Code == codes.Canceled,
			e.Code == codes.ResourceExhausted, e.Code == codes.DeadlineExceeded, e.Reason == WatchTooSlow,
			e.Code == codes.Internal && e.Reason == "": // the connection's: a stream that was reset
		case e.Code == codes.Unauthenticated && c.token.reread() != token:
		default:
			fail(failed)
			return
		}
		// Not longer than the pause between two connection attempts: what is watched is kept current by it.
		pause := max(asError(failed).RetryAfter, min(firstPause<<min(attempts-1, 10), longestPause))
		if !sleep(ctx, min(pause, time.Second)) {
			fail(errorFrom(contextError(ctx), method, attempts, failed))
			return
		}
	}
}

// follow passes on the messages of one stream. Returns no error if one was not wanted, and whether there were any.
func follow[M any](
	ctx context.Context, open func(context.Context) (receiver[M], error), pass func(*M) bool,
) (passed bool, err error) {
	// Ends the stream in all cases: gRPC keeps it until its context ends.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := open(ctx)
	if err != nil {
		return false, err
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return passed, endOfStream(err)
		}
		passed = true
		if !pass(message) {
			return true, nil
		}
	}
}

// endOfStream turns the end that a server gives to a stream without a reason into an error.
func endOfStream(err error) error {
	if err == io.EOF {
		return errStreamEnded
	}
	return err
}

// pages returns the elements of all pages, each of which is read when the one before is consumed.
func pages[T any](page func(token string) ([]T, string, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for token := ""; ; {
			elements, next, err := page(token)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, one := range elements {
				if !yield(one, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			token = next
		}
	}
}
