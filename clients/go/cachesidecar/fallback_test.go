package cachesidecar

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

func loaded(context.Context) (*Product, error) {
	return &Product{ProductID: "mug", Title: "loaded"}, nil
}

func TestTheFallbackIsUsedWhileTheSidecarIsAway(t *testing.T) {
	var isAway bool
	s := serve(t, &scripted{get: func(int, *pb.GetProductRequest) (*pb.GetProductResponse, error) {
		if isAway {
			return nil, fails(codes.Unavailable, TierUnavailable, nil, after(time.Hour))
		}
		return mug(1), nil
	}})
	var log bytes.Buffer
	var causes []error
	hooks := Hooks{FallbackUsed: func(_ context.Context, _ string, cause error) { causes = append(causes, cause) }}
	client := dial(t, s, WithLogger(slog.New(slog.NewTextHandler(&log, nil))), WithHooks(hooks))
	for range 2 {
		for isAway = range booleans {
			product, err := client.Products.Get(patient(t), "mug", Fallback(loaded))
			if err != nil || product.Cache.Fallback != isAway || (product.Title == "loaded") != isAway {
				t.Fatal(product, err)
			}
			product, err = client.Products.Get(patient(t), "mug", Fallback(loaded))
			if err != nil || product.Cache.Fallback != isAway {
				t.Fatal(product, err)
			}
		}
	}
	if client.Stats().Fallbacks != 4 || len(causes) != 4 || !errors.Is(causes[0], TierUnavailable) {
		t.Errorf("counted %d, told %v", client.Stats().Fallbacks, causes)
	}
	// Once per outage, not once per call.
	if falls := strings.Count(log.String(), "is away"); falls != 2 || strings.Count(log.String(), "answers again") != 1 {
		t.Errorf("logged:\n%s", log.String())
	}
}

// booleans yields false, then true.
func booleans(yield func(bool) bool) { _ = yield(false) && yield(true) }

func TestAnAnswerIsNoReasonToFallBack(t *testing.T) {
	s := serve(t, &scripted{get: func(int, *pb.GetProductRequest) (*pb.GetProductResponse, error) {
		return nil, fails(codes.NotFound, NotFound, nil)
	}})
	if _, err := dial(t, s).Products.Get(patient(t), "mug", Fallback(loaded)); !errors.Is(err, NotFound) {
		t.Fatal(err)
	}
}

func TestTheFallbackHasTimeLeftWhenTheSidecarHangs(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, &scripted{get: func(int, *pb.GetProductRequest) (*pb.GetProductResponse, error) {
		<-release
		return mug(1), nil
	}})
	defer close(release)
	product, err := dial(t, s).Products.Get(patient(t), "mug", Fallback(loaded))
	if err != nil || !product.Cache.Fallback {
		t.Fatal(product, err)
	}
}

func TestNobodyWaitsForAConnectionThatIsNotThere(t *testing.T) {
	client, err := Dial(patient(t), WithAddress("unix:/nowhere/at/all"), WithoutWaiting(), WithLogger(slog.New(slog.DiscardHandler)),
		WithFallbackLimits(time.Hour, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.conn.Connect()
	until(t, func() bool { return client.conn.GetState().String() == "TRANSIENT_FAILURE" })
	// It would wait for half an hour otherwise.
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	if product, err := client.Products.Get(ctx, "mug", Fallback(loaded)); err != nil || !product.Cache.Fallback {
		t.Fatal(product, err)
	}
}

func TestLoadersAreBounded(t *testing.T) {
	s := serve(t, &scripted{get: func(int, *pb.GetProductRequest) (*pb.GetProductResponse, error) {
		return nil, fails(codes.Unavailable, TierUnavailable, nil, after(time.Hour))
	}})
	client := dial(t, s, WithFallbackLimits(time.Second, 2))
	entered, release := make(chan struct{}, 3), make(chan struct{})
	load := func(ctx context.Context) (*Product, error) {
		entered <- struct{}{}
		<-release
		return loaded(ctx)
	}
	var waiting sync.WaitGroup
	for range 2 {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			if _, err := client.Products.Get(patient(t), "mug", Fallback(load)); err != nil {
				t.Error(err)
			}
		}()
	}
	<-entered
	<-entered
	_, err := client.Products.Get(context.Background(), "mug", Fallback(load), Timeout(200*time.Millisecond))
	if !errors.Is(err, TierUnavailable) || len(entered) != 0 {
		t.Errorf("a third loader ran, or: %v", err)
	}
	close(release)
	waiting.Wait()
}

func TestAFallbackThatFailsSaysBoth(t *testing.T) {
	s := serve(t, &scripted{get: func(int, *pb.GetProductRequest) (*pb.GetProductResponse, error) {
		return nil, fails(codes.Unavailable, TierUnavailable, nil, after(time.Hour))
	}})
	client, down := dial(t, s), errors.New("the database is down")
	_, err := client.Products.Get(patient(t), "mug", Fallback(func(context.Context) (*Product, error) { return nil, down }))
	if !errors.Is(err, down) || !errors.Is(err, TierUnavailable) {
		t.Fatal(err)
	}
	_, err = client.Products.Get(patient(t), "mug", Fallback(func(context.Context) (*Cart, error) { return nil, nil }))
	if err == nil || !strings.Contains(err.Error(), "*cachesidecar.Cart") {
		t.Fatal(err)
	}
}
