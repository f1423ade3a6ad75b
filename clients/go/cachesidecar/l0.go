package cachesidecar

import (
	"container/list"
	"context"
	"math"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

const (
	// How often the sidecar is asked whether it is there, and for how long an answer counts: a stream of a process that
	// hangs, or whose machine is gone, is not broken.
	heartbeatEvery = time.Second
	heartbeatLease = 3 * time.Second
	// How long changes are remembered against replies from before them: longer than any invalidation takes to reach the
	// sidecar's caches. A reply that took longer is not kept.
	changesKept = 15 * time.Second
)

// l0 is a cache of products in this process. It is emptied while the watch that tells it of changes is broken.
//
// A reply is kept only if it cannot be older than a change that the watch has brought. Two interleavings would keep one:
//   - a read is answered with version 1; the watch brings version 2, and there is nothing to drop; the answer is stored.
//   - the watch brings version 2 before the sidecar's own memory has dropped version 1, which then answers a read.
//
// So the versions of recent changes are remembered, and what is older than them is refused. A silent watch is no proof that
// nothing changed, as the sidecar may not reach PostgreSQL: therefore nothing is kept for longer than maxAge.
type l0 struct {
	maxEntries int
	maxAge     time.Duration
	counters   *counters

	mutex      sync.Mutex
	entries    map[string]*list.Element // of *l0Entry
	byUse      *list.List               // the most recently used first
	changes    map[string]int64         // the newest version of each product that changed lately
	changed    *list.List               // of l0Change, the oldest first
	liveSince  time.Time                // zero while the watch is broken
	leaseUntil time.Time                // when the last heartbeat ceases to count
}

type l0Entry struct {
	product Product
	asked   time.Time // before the sidecar was asked, so that ages are upper bounds
}

type l0Change struct {
	productID string
	version   int64
	when      time.Time
}

func newL0(maxEntries int, maxAge time.Duration, counters *counters) *l0 {
	l := &l0{maxEntries: maxEntries, maxAge: maxAge, counters: counters}
	l.clear()
	return l
}

// clear forgets everything; the caller holds the mutex, or is the only one.
func (l *l0) clear() {
	l.entries, l.byUse = map[string]*list.Element{}, list.New()
	l.changes, l.changed = map[string]int64{}, list.New()
}

// get returns a product that may be answered from here, or nil.
func (l *l0) get(productID string, options *pb.ReadOptions) *Product {
	if options.GetBypass() {
		return nil
	}
	now := time.Now()
	l.mutex.Lock()
	defer l.mutex.Unlock()
	element, isThere := l.entries[productID]
	if !isThere || now.After(l.leaseUntil) {
		l.counters.l0Misses.Add(1)
		return nil
	}
	entry := element.Value.(*l0Entry)
	kept := now.Sub(entry.asked)
	age := entry.product.Cache.Age + kept
	if kept > l.maxAge || options.GetMaxAge() != nil && age > options.GetMaxAge().AsDuration() {
		l.counters.l0Misses.Add(1)
		return nil
	}
	l.byUse.MoveToFront(element)
	l.counters.l0Hits.Add(1)
	product := entry.product
	product.Cache.Age, product.Cache.Local = age, true
	return &product
}

// put keeps a reply to a question that was asked at a moment.
func (l *l0) put(product *Product, asked time.Time) {
	now := time.Now()
	if product.Cache.Stale || product.Cache.Fallback || now.Sub(asked) > changesKept/2 {
		return
	}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	// A question from before the watch began, or began anew, may have been answered before a change that nobody told of.
	if l.liveSince.IsZero() || !asked.After(l.liveSince) || product.Cache.Version < l.changes[product.ProductID] {
		return
	}
	entry := &l0Entry{product: *product, asked: asked}
	if element, isThere := l.entries[product.ProductID]; isThere {
		if element.Value.(*l0Entry).product.Cache.Version <= product.Cache.Version {
			element.Value = entry
			l.byUse.MoveToFront(element)
		}
		return
	}
	l.entries[product.ProductID] = l.byUse.PushFront(entry)
	if len(l.entries) > l.maxEntries {
		oldest := l.byUse.Remove(l.byUse.Back()).(*l0Entry)
		delete(l.entries, oldest.product.ProductID)
	}
}

// change drops what is older than a version of a product, and refuses it for a while.
func (l *l0) change(productID string, version int64) {
	now := time.Now()
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if element, isThere := l.entries[productID]; isThere && element.Value.(*l0Entry).product.Cache.Version < version {
		l.byUse.Remove(element)
		delete(l.entries, productID)
	}
	l.changes[productID] = max(l.changes[productID], version)
	l.changed.PushBack(l0Change{productID, version, now})
	for front := l.changed.Front(); now.Sub(front.Value.(l0Change).when) > changesKept; front = l.changed.Front() {
		old := l.changed.Remove(front).(l0Change)
		if l.changes[old.productID] == old.version {
			delete(l.changes, old.productID)
		}
	}
	// More changes than can be remembered, as during an import: keep nothing until the last of them has reached every cache.
	if l.changed.Len() > max(l.maxEntries, 1000) {
		l.clear()
		if !l.liveSince.IsZero() {
			l.liveSince = now.Add(changesKept)
		}
	}
}

// wrote drops what is older than what this process has written. Without an etag, nothing is kept for a while.
func (l *l0) wrote(productID, etag string) {
	version, err := strconv.ParseInt(etag, 16, 64) // that is what a product's etag is
	if err != nil {
		version = math.MaxInt64
	}
	l.change(productID, version)
}

// begin says that every change from now on will be told.
func (l *l0) begin() {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.clear()
	l.liveSince = time.Now()
}

// end says that changes may be missed.
func (l *l0) end() {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.clear()
	l.liveSince = time.Time{}
}

// renew lets entries be served until a moment.
func (l *l0) renew(until time.Time) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.leaseUntil = until
}

// len returns how many products are kept.
func (l *l0) len() int {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return len(l.entries)
}

// feedL0 watches the catalogue until the context ends.
func (c *Client) feedL0(ctx context.Context, l *l0) {
	defer l.end()
	stub := pb.NewProductServiceClient(c.conn)
	open := func(ctx context.Context) (receiver[pb.WatchProductsResponse], error) {
		return stub.WatchProducts(ctx, &pb.WatchProductsRequest{})
	}
	isBroken := func(error) bool {
		l.end()
		return false
	}
	watch(ctx, c, pb.ProductService_WatchProducts_FullMethodName, open, isBroken,
		func(m *pb.WatchProductsResponse) bool {
			if m.Kind == ChangeWatchStarted {
				l.begin()
			} else {
				l.change(m.ProductId, m.Version)
			}
			return true
		},
		func(err error) {
			if ctx.Err() == nil {
				c.logger.Error("products are not kept in this process: the watch of the catalogue was refused", "error", err)
			}
		})
}

// beat asks the sidecar every second whether it is there, until the context ends.
func (c *Client) beat(ctx context.Context, l *l0) {
	ticker := time.NewTicker(heartbeatEvery)
	defer ticker.Stop()
	for {
		asked := time.Now()
		limited, cancel := context.WithTimeout(ctx, heartbeatLease-heartbeatEvery)
		reply, err := grpc_health_v1.NewHealthClient(c.conn).Check(limited, &grpc_health_v1.HealthCheckRequest{})
		cancel()
		if err == nil && reply.Status == grpc_health_v1.HealthCheckResponse_SERVING {
			l.renew(asked.Add(heartbeatLease))
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
