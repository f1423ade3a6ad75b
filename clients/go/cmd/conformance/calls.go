package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"

	"github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecar"
	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

// request is what a step gives to a call.
type request struct {
	args    map[string]any
	options map[string]any
}

// broken is an error of this program: it cannot read an argument.
type broken struct{ error }

// get reads an argument; a missing one has its zero value. What cannot be read ends the case.
func get[T any](r request, key string) T {
	var value T
	if argument, isThere := r.args[key]; isThere {
		if err := fromJSON(argument, &value); err != nil {
			panic(broken{fmt.Errorf("%s: %w", key, err)})
		}
	}
	return value
}

// all reads all arguments, except some, into a value with a field for each.
func all[T any](r request, except ...string) T {
	var value T
	others := map[string]any{}
	for key, argument := range r.args {
		if !slices.Contains(except, key) {
			others[key] = argument
		}
	}
	if err := fromJSON(others, &value); err != nil {
		panic(broken{err})
	}
	return value
}

func (r request) read() []cachesidecar.ReadOption {
	var options []cachesidecar.ReadOption
	given, _ := r.args["options"].(map[string]any)
	if seconds, ok := given["max_age"].(float64); ok {
		options = append(options, cachesidecar.MaxAge(time.Duration(seconds*float64(time.Second))))
	}
	if bypass, _ := given["bypass"].(bool); bypass {
		options = append(options, cachesidecar.Bypass())
	}
	return options
}

func (r request) write() []cachesidecar.WriteOption {
	if id, ok := r.args["request_id"].(string); ok {
		return []cachesidecar.WriteOption{cachesidecar.RequestID(id)}
	}
	return nil
}

func (r request) update() []cachesidecar.UpdateOption {
	var options []cachesidecar.UpdateOption
	if id, ok := r.args["request_id"].(string); ok {
		options = append(options, cachesidecar.RequestID(id))
	}
	if _, isThere := r.args["update_mask"]; isThere {
		options = append(options, cachesidecar.Fields(get[[]string](r, "update_mask")...))
	}
	return options
}

// optOut turns the proto's personalised, whose default is true, into this library's OptedOut.
func optOut(fields map[string]any) map[string]any {
	changed := map[string]any{}
	for key, value := range fields {
		if key == "personalised" {
			key, value = "opted_out", value == false
		}
		changed[key] = value
	}
	return changed
}

func events(list []any) []cachesidecar.UserEvent {
	converted := make([]cachesidecar.UserEvent, len(list))
	for i, one := range list {
		if err := fromJSON(optOut(one.(map[string]any)), &converted[i]); err != nil {
			panic(broken{err})
		}
	}
	return converted
}

type call func(context.Context, *shop, request) (any, error)

// reply returns the result of a call whose reply has the resource in one field, and its cache, if it is a read.
func reply[T any](name string, resource *T, cache *cachesidecar.Cache, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	fields, _ := toJSON(resource).(map[string]any)
	delete(fields, "cache")
	result := map[string]any{name: fields}
	if prices, ok := fields["catalogue_prices"]; ok {
		result["catalogue_prices"] = prices
		delete(fields, "catalogue_prices")
	}
	if cache != nil {
		result["cache"] = toJSON(*cache)
	}
	return result, nil
}

func product(p *cachesidecar.Product, isRead bool, err error) (any, error) {
	if err != nil || !isRead {
		return reply("product", p, nil, err)
	}
	result, err := reply("product", p, &p.Cache, nil)
	if p.Cache.Fallback {
		return map[string]any{"product": result.(map[string]any)["product"], "fallback": true}, err
	}
	return result, err
}

func cart(c *cachesidecar.Cart, isRead bool, err error) (any, error) {
	if err != nil || !isRead {
		return reply("cart", c, nil, err)
	}
	return reply("cart", c, &c.Cache, nil)
}

func inventory(i *cachesidecar.Inventory, isRead bool, err error) (any, error) {
	if err != nil || !isRead {
		return reply("inventory", i, nil, err)
	}
	return reply("inventory", i, &i.Cache, nil)
}

func reservation(r *cachesidecar.Reservation, err error) (any, error) {
	return reply("reservation", r, nil, err)
}

// session returns the result of a session: the id is a field of the reply, not of the session.
func session(s *cachesidecar.Session, withID bool, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	result, err := reply("session", s, nil, nil)
	fields := result.(map[string]any)
	delete(fields["session"].(map[string]any), "session_id")
	if withID {
		fields["session_id"] = s.SessionID
	}
	if s.Cache != (cachesidecar.Cache{}) {
		fields["cache"] = toJSON(s.Cache)
	}
	return fields, err
}

// batch returns the result of a batch: the metadata of each element is a list of its own in the reply.
func batch[T any](name, caches string, elements []*T, cacheOf func(*T) cachesidecar.Cache, missing []string, whole cachesidecar.Cache) any {
	resources, metadata := []any{}, []any{}
	for _, one := range elements {
		fields := toJSON(one).(map[string]any)
		delete(fields, "cache")
		resources, metadata = append(resources, fields), append(metadata, toJSON(cacheOf(one)))
	}
	return map[string]any{name: resources, caches: metadata, "missing": toJSON(missing), "cache": toJSON(whole)}
}

// list goes through an iterator.
func list[T any](r request, elements iter.Seq2[T, error]) (any, error) {
	limit := 1000.0
	if given, ok := r.options["limit"].(float64); ok {
		limit = given
	}
	items := []any{}
	for one, err := range elements {
		if err != nil {
			return nil, err
		}
		fields, _ := toJSON(one).(map[string]any)
		delete(fields, "cache")
		if items = append(items, fields); len(items) >= int(limit) {
			break
		}
	}
	return map[string]any{"items": items}, nil
}

// count returns the result of a call whose reply is a number.
func count[N int | int64](name string, n N, err error) (any, error) {
	return map[string]any{name: n}, err
}

var calls map[string]call

func init() {
	calls = map[string]call{
		"products.get": getProduct,
		"products.batch_get": func(ctx context.Context, s *shop, r request) (any, error) {
			found, err := s.Products.BatchGet(ctx, get[[]string](r, "product_ids"), r.read()...)
			if err != nil {
				return nil, err
			}
			cacheOf := func(p *cachesidecar.Product) cachesidecar.Cache { return p.Cache }
			return batch("products", "product_caches", found.Products, cacheOf, found.Missing, found.Cache), nil
		},
		"products.get_joined": getJoined,
		"products.create": func(ctx context.Context, s *shop, r request) (any, error) {
			created, err := s.Products.Create(ctx, get[cachesidecar.Product](r, "product"), r.write()...)
			return product(created, false, err)
		},
		"products.update": func(ctx context.Context, s *shop, r request) (any, error) {
			changed := get[cachesidecar.Product](r, "product")
			changed.Etag = cmp.Or(get[string](r, "etag"), changed.Etag)
			updated, err := s.Products.Update(ctx, changed, r.update()...)
			return product(updated, false, err)
		},
		"products.modify": modify,
		"products.delete": func(ctx context.Context, s *shop, r request) (any, error) {
			return map[string]any{}, s.Products.Delete(ctx, get[string](r, "product_id"), get[string](r, "etag"), r.write()...)
		},
		"products.list": func(ctx context.Context, s *shop, r request) (any, error) {
			return list(r, s.Products.List(ctx, all[cachesidecar.ProductQuery](r, "options"), r.read()...))
		},
		"products.get_categories": func(ctx context.Context, s *shop, r request) (any, error) {
			found, err := s.Products.Categories(ctx, r.read()...)
			return toJSON(found), err
		},

		"sessions.create": func(ctx context.Context, s *shop, r request) (any, error) {
			created, err := s.Sessions.Create(ctx, all[cachesidecar.Session](r, "request_id"), r.write()...)
			return session(created, true, err)
		},
		"sessions.get": func(ctx context.Context, s *shop, r request) (any, error) {
			found, err := s.Sessions.Get(ctx, get[string](r, "session_id"))
			return session(found, false, err)
		},
		"sessions.touch": func(ctx context.Context, s *shop, r request) (any, error) {
			touched, err := s.Sessions.Touch(ctx, get[string](r, "session_id"))
			if err != nil {
				return nil, err
			}
			return map[string]any{"expire_time": toJSON(touched.ExpireTime), "cache": toJSON(touched.Cache)}, nil
		},
		"sessions.update": func(ctx context.Context, s *shop, r request) (any, error) {
			changed := get[cachesidecar.Session](r, "session")
			changed.Etag = cmp.Or(get[string](r, "etag"), changed.Etag)
			updated, err := s.Sessions.Update(ctx, changed, r.update()...)
			return session(updated, false, err)
		},
		"sessions.delete": func(ctx context.Context, s *shop, r request) (any, error) {
			isPending, err := s.Sessions.Delete(ctx, get[string](r, "session_id"), r.write()...)
			return map[string]any{"revocation_pending": isPending}, err
		},
		"sessions.rotate": func(ctx context.Context, s *shop, r request) (any, error) {
			rotated, err := s.Sessions.Rotate(ctx, get[string](r, "session_id"), r.write()...)
			if err != nil {
				return nil, err
			}
			result, err := session(&rotated.Session, true, nil)
			result.(map[string]any)["revocation_pending"] = rotated.RevocationPending
			return result, err
		},
		"sessions.delete_all": func(ctx context.Context, s *shop, r request) (any, error) {
			n, err := s.Sessions.DeleteAll(ctx, get[string](r, "user_id"), r.write()...)
			return count("deleted", n, err)
		},
		"sessions.list": func(ctx context.Context, s *shop, r request) (any, error) {
			return list(r, s.Sessions.List(ctx, all[cachesidecar.SessionQuery](r)))
		},

		"carts.get": func(ctx context.Context, s *shop, r request) (any, error) {
			found, err := s.Carts.Get(ctx, get[string](r, "user_id"), r.read()...)
			return cart(found, true, err)
		},
		"carts.replace": func(ctx context.Context, s *shop, r request) (any, error) {
			replaced, err := s.Carts.Replace(ctx, get[cachesidecar.Cart](r, "cart"), r.write()...)
			return cart(replaced, false, err)
		},
		"carts.add": func(ctx context.Context, s *shop, r request) (any, error) {
			added, err := s.Carts.Add(ctx, get[string](r, "user_id"), get[cachesidecar.CartItem](r, "item"), r.write()...)
			return cart(added, false, err)
		},
		"carts.set_quantity": func(ctx context.Context, s *shop, r request) (any, error) {
			item := all[cachesidecar.CartItem](r, "user_id", "request_id")
			set, err := s.Carts.SetQuantity(ctx, get[string](r, "user_id"), item, r.write()...)
			return cart(set, false, err)
		},
		"carts.remove": func(ctx context.Context, s *shop, r request) (any, error) {
			item := all[cachesidecar.CartItem](r, "user_id", "request_id")
			removed, err := s.Carts.Remove(ctx, get[string](r, "user_id"), item, r.write()...)
			return cart(removed, false, err)
		},
		"carts.clear": func(ctx context.Context, s *shop, r request) (any, error) {
			cleared, err := s.Carts.Clear(ctx, get[string](r, "user_id"), r.write()...)
			return cart(cleared, false, err)
		},
		"carts.merge": func(ctx context.Context, s *shop, r request) (any, error) {
			merged, err := s.Carts.Merge(ctx, get[string](r, "user_id"), get[string](r, "guest_user_id"), r.write()...)
			return cart(merged, false, err)
		},
		"carts.apply": editCart,
		"carts.edit":  editCart,
		"carts.list_abandoned": func(ctx context.Context, s *shop, r request) (any, error) {
			return list(r, s.Carts.Abandoned(ctx, all[cachesidecar.AbandonedQuery](r)))
		},

		"inventory.get": func(ctx context.Context, s *shop, r request) (any, error) {
			found, err := s.Inventory.Get(ctx, get[string](r, "product_id"), r.read()...)
			return inventory(found, true, err)
		},
		"inventory.batch_get": func(ctx context.Context, s *shop, r request) (any, error) {
			found, err := s.Inventory.BatchGet(ctx, get[[]string](r, "product_ids"), r.read()...)
			if err != nil {
				return nil, err
			}
			cacheOf := func(i *cachesidecar.Inventory) cachesidecar.Cache { return i.Cache }
			return batch("inventories", "inventory_caches", found.Inventories, cacheOf, found.Missing, found.Cache), nil
		},
		"inventory.set": func(ctx context.Context, s *shop, r request) (any, error) {
			set, err := s.Inventory.Set(ctx, all[cachesidecar.Inventory](r, "request_id"), r.write()...)
			return inventory(set, false, err)
		},
		"inventory.adjust": func(ctx context.Context, s *shop, r request) (any, error) {
			adjusted, err := s.Inventory.Adjust(
				ctx, get[string](r, "product_id"), get[int64](r, "delta"), get[string](r, "reason"), r.write()...)
			return inventory(adjusted, false, err)
		},
		"inventory.reserve": func(ctx context.Context, s *shop, r request) (any, error) {
			items := get[[]cachesidecar.ReservationItem](r, "items")
			return reservation(s.Inventory.Reserve(
				ctx, get[string](r, "user_id"), items, get[time.Duration](r, "hold_duration"), r.write()...))
		},
		"inventory.extend": func(ctx context.Context, s *shop, r request) (any, error) {
			return reservation(s.Inventory.Extend(
				ctx, get[string](r, "reservation_id"), get[time.Duration](r, "hold_duration"), r.write()...))
		},
		"inventory.commit": func(ctx context.Context, s *shop, r request) (any, error) {
			return reservation(s.Inventory.Commit(ctx, get[string](r, "reservation_id"), r.write()...))
		},
		"inventory.release": func(ctx context.Context, s *shop, r request) (any, error) {
			return reservation(s.Inventory.Release(ctx, get[string](r, "reservation_id"), r.write()...))
		},
		"inventory.get_reservation": func(ctx context.Context, s *shop, r request) (any, error) {
			return reservation(s.Inventory.Reservation(ctx, get[string](r, "reservation_id")))
		},
		"inventory.list_reservations": func(ctx context.Context, s *shop, r request) (any, error) {
			return list(r, s.Inventory.Reservations(ctx, all[cachesidecar.ReservationQuery](r)))
		},

		"recommendations.get": func(ctx context.Context, s *shop, r request) (any, error) {
			asked := request{optOut(r.args), r.options}
			found, err := s.Recommendations.Get(ctx, all[cachesidecar.RecommendationQuery](asked, "options"), r.read()...)
			return toJSON(found), err
		},
		"recommendations.delete": func(ctx context.Context, s *shop, r request) (any, error) {
			n, err := s.Recommendations.Delete(ctx, all[cachesidecar.RecommendationTarget](r))
			return count("deleted_count", n, err)
		},
		"recommendations.import": importLists,

		"events.write": func(ctx context.Context, s *shop, r request) (any, error) {
			given, _ := r.args["events"].([]any)
			written, err := s.Events.Write(ctx, events(given))
			return toJSON(written), err
		},
		"events.purge": func(ctx context.Context, s *shop, r request) (any, error) {
			n, err := s.Events.Purge(ctx, get[string](r, "user_id"))
			return count("purged_count", n, err)
		},
		"events.stream": streamEvents,

		"admin.invalidate": func(ctx context.Context, s *shop, r request) (any, error) {
			asked := &pb.InvalidateRequest{}
			if err := message(r.args, asked); err != nil {
				return nil, broken{err}
			}
			found, err := s.Admin.Invalidate(ctx, asked)
			return orNothing(found, err)
		},
		"admin.get_stats": func(ctx context.Context, s *shop, r request) (any, error) {
			asked := &pb.GetStatsRequest{}
			if err := message(r.args, asked); err != nil {
				return nil, broken{err}
			}
			found, err := s.Admin.GetStats(ctx, asked)
			return orNothing(found, err)
		},
		"admin.inspect_key": func(ctx context.Context, s *shop, r request) (any, error) {
			asked := &pb.InspectKeyRequest{}
			if err := message(r.args, asked); err != nil {
				return nil, broken{err}
			}
			found, err := s.Admin.InspectKey(ctx, asked)
			return orNothing(found, err)
		},
		"admin.get_policy": func(ctx context.Context, s *shop, r request) (any, error) {
			found, err := s.Admin.GetPolicy(ctx, &pb.GetPolicyRequest{})
			return orNothing(found, err)
		},
		"admin.update_policy": func(ctx context.Context, s *shop, r request) (any, error) {
			asked := &pb.UpdatePolicyRequest{}
			if err := message(r.args, asked); err != nil {
				return nil, broken{err}
			}
			updated, err := s.Admin.UpdatePolicy(ctx, asked)
			return orNothing(updated, err)
		},

		"ready":      func(ctx context.Context, s *shop, _ request) (any, error) { return map[string]any{}, s.Ready(ctx) },
		"faults.add": func(_ context.Context, _ *shop, r request) (any, error) { return faults("add", r.args) },
		"faults.clear": func(_ context.Context, _ *shop, r request) (any, error) {
			return faults("clear", r.args)
		},
		"faults.seen": func(_ context.Context, _ *shop, r request) (any, error) { return faults("seen", r.args) },
	}
}

func orNothing(found any, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return toJSON(found), nil
}

// loaderFailed is an error of the application's own loader.
type loaderFailed struct{ text string }

func (e loaderFailed) Error() string { return e.text }

func getProduct(ctx context.Context, s *shop, r request) (any, error) {
	options := r.read()
	if given, ok := r.options["fallback"].(map[string]any); ok {
		options = append(options, cachesidecar.Fallback(func(context.Context) (*cachesidecar.Product, error) {
			if text, fails := given["error"].(string); fails {
				return nil, loaderFailed{text}
			}
			loaded := &cachesidecar.Product{}
			return loaded, fromJSON(given, loaded)
		}))
	}
	found, err := s.Products.Get(ctx, get[string](r, "product_id"), options...)
	return product(found, true, err)
}

// getJoined makes a get for each id at once.
func getJoined(ctx context.Context, s *shop, r request) (any, error) {
	ids := get[[]string](r, "product_ids")
	results := make([]any, len(ids))
	before := s.joined.Stats().Calls
	var waiting sync.WaitGroup
	for i, id := range ids {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			found, err := s.joined.Products.Get(ctx, id, r.read()...)
			result, err := product(found, true, err)
			if err != nil {
				result, _ = failure(err)
			}
			results[i] = result
		}()
	}
	waiting.Wait()
	return map[string]any{"results": results, "calls": s.joined.Stats().Calls - before}, nil
}

func modify(ctx context.Context, s *shop, r request) (any, error) {
	id, attempts := get[string](r, "product_id"), 0
	updated, err := s.Products.Edit(ctx, id, func(p *cachesidecar.Product) error {
		attempts++
		if text := get[string](r, "interfere"); text != "" && attempts == 1 {
			other := cachesidecar.Product{ProductID: id, Title: p.Title + text}
			if _, err := s.Products.Update(ctx, other); err != nil {
				return err
			}
		}
		p.Title += get[string](r, "append")
		return nil
	})
	result, err := product(updated, false, err)
	if err == nil {
		result.(map[string]any)["attempts"] = attempts
	}
	return result, err
}

// change is one of the changes of a cart: exactly one is set.
type change struct {
	AddItem, SetItemQuantity, RemoveItem *cachesidecar.CartItem
}

func editCart(ctx context.Context, s *shop, r request) (any, error) {
	edited, err := s.Carts.Edit(ctx, get[string](r, "user_id"), func(edit *cachesidecar.CartEdit) error {
		for _, one := range get[[]change](r, "changes") {
			switch {
			case one.AddItem != nil:
				edit.Add(*one.AddItem)
			case one.SetItemQuantity != nil:
				edit.SetQuantity(*one.SetItemQuantity)
			case one.RemoveItem != nil:
				edit.Remove(*one.RemoveItem)
			}
		}
		return nil
	}, r.write()...)
	if err == nil && edited == nil {
		return map[string]any{}, nil
	}
	return cart(edited, false, err)
}

func importLists(ctx context.Context, s *shop, r request) (any, error) {
	first, _ := r.options["first_list"].(float64)
	imported, err := s.Recommendations.Import(ctx, cachesidecar.RecommendationImport{
		BatchID: get[string](r, "batch_id"), Lists: slices.Values(get[[]cachesidecar.ProvidedList](r, "lists")),
		FirstList: int64(first), Commit: get[bool](r, "commit"),
	})
	return toJSON(imported), err
}

func streamEvents(ctx context.Context, s *shop, r request) (any, error) {
	batches := func(yield func([]cachesidecar.UserEvent) bool) {
		given, _ := r.args["batches"].([]any)
		for _, one := range given {
			if !yield(events(one.([]any))) {
				return
			}
		}
	}
	replies := []any{}
	for written, err := range s.Events.Stream(ctx, batches) {
		if err != nil {
			return nil, err
		}
		replies = append(replies, toJSON(written))
	}
	return map[string]any{"replies": replies}, nil
}

// faults controls the proxy that injects them.
func faults(what string, args map[string]any) (any, error) {
	if args == nil {
		args = map[string]any{}
	}
	body, err := json.Marshal(args)
	if err != nil {
		return nil, broken{err}
	}
	answer, err := http.Post(os.Getenv("CONFORMANCE_FAULTS_URL")+what, "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, broken{err}
	}
	defer answer.Body.Close()
	var result any
	if err := json.NewDecoder(answer.Body).Decode(&result); err != nil {
		return nil, broken{fmt.Errorf("faults.%s: %s: %w", what, answer.Status, err)}
	}
	return result, nil
}

// failure returns the result of a call that failed; an error if it is this program that failed.
func failure(err error) (any, error) {
	var loader loaderFailed
	var e *cachesidecar.Error
	switch {
	case errors.As(err, &loader):
		return map[string]any{"error": map[string]any{"type": "FallbackFailed", "message": err.Error()}}, nil
	case !errors.As(err, &e):
		return nil, err
	}
	fields := map[string]any{}
	for _, one := range e.Violations {
		fields[one.Field] = one.Description
	}
	var retryAfter any
	if e.RetryAfter > 0 {
		retryAfter = e.RetryAfter.Seconds()
	}
	return map[string]any{"error": map[string]any{
		"type": typeOf(err, e), "code": code.Code(e.Code).String(), "reason": string(e.Reason), "metadata": toJSON(e.Metadata),
		"fields": fields, "retry_after": retryAfter, "message": e.Message,
	}}, nil
}

// typeOf returns the type of an error by the name that the cases have for it. Where this library has no type of its own, since
// there are no details, it is the reason that tells.
func typeOf(err error, e *cachesidecar.Error) string {
	switch err.(type) {
	case *cachesidecar.NotFoundError:
		return "NotFound"
	case *cachesidecar.AlreadyExistsError:
		return "AlreadyExists"
	case *cachesidecar.EtagMismatchError:
		return "EtagMismatch"
	case *cachesidecar.OutOfStockError:
		return "OutOfStock"
	case *cachesidecar.ReservationEndedError:
		return "ReservationEnded"
	case *cachesidecar.LimitReachedError:
		return "LimitReached"
	case *cachesidecar.ReplyTooLargeError:
		return "ReplyTooLarge"
	case *cachesidecar.UnauthenticatedError:
		return "Unauthenticated"
	case *cachesidecar.PermissionError:
		return "PermissionDenied"
	}
	for reason, name := range map[cachesidecar.Reason]string{
		cachesidecar.RequestIDReused: "RequestIdReused", cachesidecar.BucketsInUse: "BucketsInUse",
		cachesidecar.UnreadableRow: "UnreadableRow", cachesidecar.RevocationPending: "RevocationPending",
		cachesidecar.ChangesExpired: "ChangesExpired", cachesidecar.WatchTooSlow: "WatchTooSlow",
		cachesidecar.ListsMissing: "ListsMissing", cachesidecar.BatchCommitted: "BatchCommitted",
		cachesidecar.ReadOnly: "ReadOnly", cachesidecar.EventBacklogFull: "EventBacklogFull",
	} {
		if errors.Is(err, reason) {
			return name
		}
	}
	switch err.(type) {
	case *cachesidecar.InvalidRequestError:
		return "InvalidRequest"
	case *cachesidecar.UnavailableError:
		return "Unavailable"
	case *cachesidecar.OverloadedError:
		return "Overloaded"
	}
	if e.Code == codes.DeadlineExceeded {
		return "DeadlineExceeded"
	}
	return "SidecarError"
}
