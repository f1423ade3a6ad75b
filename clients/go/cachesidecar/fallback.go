package cachesidecar

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc/connectivity"
)

// withFallback makes a read, and loads what it returns in the application's own way if the sidecar is away.
//
// The sidecar has a part of the caller's time, so that enough is left to load. While there is no connection at all, nobody
// waits for one. At most so many loaders run at once as WithFallbackLimits says; others wait for their turn, until their
// own deadline: what the sidecar shields would not survive all of its callers at once.
func withFallback[T any](
	ctx context.Context, c *Client, s readSettings, method string, ask func(context.Context) (T, error),
) (T, error) {
	load, err := loaderOf[T](s)
	if err != nil {
		var none T
		return none, err
	}
	if load == nil {
		return ask(ctx)
	}
	ctx, cancel := c.withDeadline(ctx, read, s.timeout)
	defer cancel()
	cause := errorFrom(errNoConnection, method, 0, nil)
	if state := c.conn.GetState(); state != connectivity.TransientFailure {
		deadline, _ := ctx.Deadline()
		limited, cancel := context.WithTimeout(ctx, min(c.fallbackAfter, time.Until(deadline)/2))
		value, err := ask(limited)
		cancel()
		if err == nil || !IsAway(err) || ctx.Err() != nil {
			if err == nil && c.isFallenBack.CompareAndSwap(true, false) {
				c.logger.LogAttrs(ctx, slog.LevelInfo, "the cache sidecar answers again", slog.String("address", c.address))
			}
			return value, err
		}
		cause = err
	}
	return loadInstead(ctx, c, method, cause, load)
}

func loadInstead[T any](
	ctx context.Context, c *Client, method string, cause error, load func(context.Context) (T, error),
) (T, error) {
	c.counters.fallbacks.Add(1)
	if c.isFallenBack.CompareAndSwap(false, true) {
		c.logger.LogAttrs(ctx, slog.LevelWarn, "the cache sidecar is away: falling back to the application's own loaders",
			slog.String("address", c.address), slog.String("method", method), slog.Any("error", cause))
	}
	if c.hooks.FallbackUsed != nil {
		c.hooks.FallbackUsed(ctx, method, cause)
	}
	var none T
	select {
	case c.loaders <- struct{}{}:
		defer func() { <-c.loaders }()
	case <-ctx.Done():
		return none, fmt.Errorf("cachesidecar: %d fallbacks are running already: %w", cap(c.loaders), cause)
	}
	value, err := load(ctx)
	if err != nil {
		return none, fmt.Errorf("cachesidecar: the fallback failed: %w; it was used because of: %w", err, cause)
	}
	if marked, ok := any(value).(interface{ setFallback() }); ok {
		marked.setFallback()
	}
	return value, nil
}
