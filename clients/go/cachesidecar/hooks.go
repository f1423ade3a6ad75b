package cachesidecar

import (
	"context"
	"sync/atomic"
	"time"
)

// Hooks are called by the client, in the goroutine of the call: they must be quick. Each may be nil. For spans, see also
// WithDialOptions.
type Hooks struct {
	// CallStarted is called before a unary call; the call gets the context that it returns.
	CallStarted func(ctx context.Context, method string) context.Context
	// CallEnded is called after it, with that context.
	CallEnded func(ctx context.Context, call CallStats)
	// FallbackUsed is called before a loader of the application runs, with the reason.
	FallbackUsed func(ctx context.Context, method string, cause error)
	// WatchBroken is called when a watch has lost its stream, before it is opened again.
	WatchBroken func(ctx context.Context, method string, cause error)
}

// CallStats describes a unary call that has ended.
type CallStats struct {
	// Method is the gRPC method, such as /cache_sidecar.v1.CartService/GetCart.
	Method string
	// Attempts is how often it was made.
	Attempts int
	// Duration is how long all of them took, with the pauses between them.
	Duration time.Duration
	// Err is nil if it succeeded.
	Err error
}

// Stats counts what a client has done since it was made.
type Stats struct {
	// Calls are unary calls that have ended; Failures are those that returned an error.
	Calls, Failures uint64
	// Retries are attempts after the first one of a call.
	Retries uint64
	// Fallbacks are reads that were answered by the application's own loader, or were to be.
	Fallbacks uint64
	// WatchBreaks are streams of watches that have ended and were opened again.
	WatchBreaks uint64
	// L0Hits and L0Misses are Gets of a product that this process's memory answered, or did not.
	L0Hits, L0Misses uint64
	// L0Entries is how many products it has now.
	L0Entries int
}

type counters struct {
	calls, failures, retries, fallbacks, watchBreaks, l0Hits, l0Misses atomic.Uint64
}

// Stats returns what the client has done.
func (c *Client) Stats() Stats {
	stats := Stats{
		Calls: c.counters.calls.Load(), Failures: c.counters.failures.Load(), Retries: c.counters.retries.Load(),
		Fallbacks: c.counters.fallbacks.Load(), WatchBreaks: c.counters.watchBreaks.Load(),
		L0Hits: c.counters.l0Hits.Load(), L0Misses: c.counters.l0Misses.Load(),
	}
	if l := c.Products.l0; l != nil {
		stats.L0Entries = l.len()
	}
	return stats
}
