package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"time"

	"github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecar"
)

// watching is how long a stream may bring nothing.
const watching = 20 * time.Second

// event is one event of a watch as JSON, or the error that ended it.
type event struct {
	fields map[string]any
	err    error
}

type watch func(context.Context, *shop, request) iter.Seq[event]

var watches = map[string]watch{
	"products.watch": func(ctx context.Context, s *shop, r request) iter.Seq[event] {
		return eventsOf(s.Products.Watch(ctx, get[int64](r, "after_version")))
	},
	"carts.watch": func(ctx context.Context, s *shop, r request) iter.Seq[event] {
		return func(yield func(event) bool) {
			for state, err := range s.Carts.Watch(ctx, get[string](r, "user_id")) {
				fields, _ := toJSON(state.Cart).(map[string]any)
				cache := fields["cache"]
				delete(fields, "cache")
				if !yield(event{map[string]any{"cart": fields, "cache": cache, "missed": state.Missed}, err}) {
					return
				}
			}
		}
	},
	"inventory.watch": func(ctx context.Context, s *shop, r request) iter.Seq[event] {
		return eventsOf(s.Inventory.Watch(ctx, all[cachesidecar.InventoryQuery](r)))
	},
}

func eventsOf[T any](states iter.Seq2[T, error]) iter.Seq[event] {
	return func(yield func(event) bool) {
		for state, err := range states {
			fields, _ := toJSON(state).(map[string]any)
			if !yield(event{fields, err}) {
				return
			}
		}
	}
}

// watch opens a watch, makes the calls of during once it has started, and collects events.
func (s *shop) watch(
	ctx context.Context, open watch, one step, args, where map[string]any, names variables,
) (any, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	arrived := make(chan event)
	go func() {
		defer close(arrived)
		for event := range open(ctx, s, request{args, one.Options}) {
			select {
			case arrived <- event:
			case <-ctx.Done():
				return
			}
		}
	}()
	first, err := next(arrived)
	if err != nil {
		return failure(err)
	}
	results := []any{}
	for _, inner := range one.During {
		got, err := s.step(inner, names)
		if err != nil {
			return nil, fmt.Errorf("during: %s: %w", inner.Call, err)
		}
		results = append(results, got)
	}
	collected := []any{}
	for len(collected) < one.Take {
		found, err := next(arrived)
		if err != nil {
			return failure(err)
		}
		if matches(found, where) {
			collected = append(collected, found)
		}
	}
	return map[string]any{"first": first, "events": collected, "during": results}, nil
}

// next returns the next event, or why there is none.
func next(arrived <-chan event) (map[string]any, error) {
	select {
	case found, isOpen := <-arrived:
		if !isOpen {
			return nil, errors.New("the watch has ended")
		}
		return found.fields, found.err
	case <-time.After(watching):
		return nil, fmt.Errorf("the watch brought nothing for %s", watching)
	}
}

// matches returns whether an event has all of some values, by their paths.
func matches(found, where map[string]any) bool {
	for path, wanted := range where {
		value, err := at(found, path)
		if err != nil || !reflect.DeepEqual(value, wanted) {
			return false
		}
	}
	return true
}
