package cachesidecar

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// Kinds of calls, which differ in how long they may take.
type kind int

const (
	read kind = iota
	write
	admin
)

const (
	firstPause   = 50 * time.Millisecond
	longestPause = 500 * time.Millisecond
	// How often a call is made that the sidecar refuses because it has too much to do: more would add to it.
	attemptsUnderLoad = 5
)

// invoke makes one call of any method, and returns its reply or an error of this package.
//
// Here, and nowhere else, is decided how long a call may take and whether it is made again. The deadline is the context's,
// or else the default of the method's kind. Until then the call waits for a connection, and is repeated with the same
// request after UNAVAILABLE, and after CANCELLED if it was the server that cancelled. Every method of the API may be
// repeated, because each write has a request_id, which stays the same.
func invoke[R any, PR interface {
	*R
	proto.Message
}](ctx context.Context, c *Client, k kind, method string, request proto.Message, s callSettings) (PR, error) {
	ctx, cancel := c.withDeadline(ctx, k, s.timeout)
	defer cancel()
	began := time.Now()
	if c.hooks.CallStarted != nil {
		ctx = c.hooks.CallStarted(ctx, method)
	}
	reply := PR(new(R))
	attempts, err := c.attempt(ctx, method, request, reply)
	c.counters.calls.Add(1)
	c.counters.retries.Add(uint64(attempts - 1))
	if err != nil {
		c.counters.failures.Add(1)
		reply = nil
	}
	if c.hooks.CallEnded != nil {
		c.hooks.CallEnded(ctx, CallStats{Method: method, Attempts: attempts, Duration: time.Since(began), Err: err})
	}
	return reply, err
}

// withDeadline returns the context of a call, which always has a deadline.
func (c *Client) withDeadline(ctx context.Context, k kind, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout == 0 {
		if _, has := ctx.Deadline(); has {
			return ctx, func() {}
		}
		timeout = c.timeouts[k]
	}
	return context.WithTimeout(ctx, timeout)
}

// attempt makes a call until it succeeds, fails for good, or runs out of time. Returns how often it was made.
func (c *Client) attempt(ctx context.Context, method string, request, reply proto.Message) (int, error) {
	var before error
	for attempts := 1; ; attempts++ {
		token := c.token.current()
		err := c.conn.Invoke(ctx, method, request, reply)
		if err == nil {
			return attempts, nil
		}
		failed := errorFrom(err, method, attempts, before)
		pause, again := c.pauseBefore(ctx, failed, attempts, token)
		if !again || !sleep(ctx, pause) {
			return attempts, failed
		}
		before = failed
		asError(before).Cause = nil // only the last one is kept: nobody reads a chain of all attempts
	}
}

// pauseBefore returns how long to wait before a failed call is made again, and whether it is.
func (c *Client) pauseBefore(ctx context.Context, failed error, attempts int, token string) (time.Duration, bool) {
	if ctx.Err() != nil || c.isClosed() {
		return 0, false
	}
	e := asError(failed)
	switch e.Code {
	case codes.Unavailable, codes.Canceled:
	case codes.ResourceExhausted:
		if e.RetryAfter == 0 || attempts >= attemptsUnderLoad {
			return 0, false
		}
	case codes.Unauthenticated:
		// The file may have been replaced after this call read it, and the sidecar have dropped the old token since.
		return 0, c.token.reread() != token
	default:
		return 0, false
	}
	grown := min(firstPause<<min(attempts-1, 10), longestPause)
	pause := max(e.RetryAfter, time.Duration(float64(grown)*(0.5+rand.Float64())))
	// A reply after the deadline would be no use: the failure says more than the deadline's.
	deadline, _ := ctx.Deadline()
	return pause, time.Until(deadline) > pause
}

// sleep returns whether the time passed before the context ended.
func sleep(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// asError returns the Error in what errorFrom returned.
func asError(err error) *Error {
	var e *Error
	errors.As(err, &e)
	return e
}
