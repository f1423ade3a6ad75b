// Package cachesidecar calls a cache sidecar: products, sessions, carts, inventory, user events and recommendations.
//
//	shop, err := cachesidecar.Dial(ctx)
//	product, err := shop.Products.Get(ctx, "SKU-1", cachesidecar.MaxAge(5*time.Second))
//
// Dial finds the sidecar by itself, in pods and on a developer's machine. Every call has a deadline: the context's, or a
// default. Until then it waits for a connection and is repeated where that helps, so a sidecar that restarts delays calls
// and fails none whose deadline allows it. Every write has a request_id that its repetitions keep, so none happens twice.
//
// Errors are an *Error with the reason of the sidecar, inside a type of its own where there are details:
//
//	var soldOut *cachesidecar.OutOfStockError
//	if errors.As(err, &soldOut) { ... soldOut.Available ... }
//	if errors.Is(err, cachesidecar.NotFound) { ... }
//
// Lists and watches are iterators. A watch reconnects and resumes, and says when it may have missed something.
//
// What the methods do, their limits and their errors are documented with the protos; package cachesidecarv1 has the messages
// and bare stubs, which [Client.Conn] can be given.
package cachesidecar
