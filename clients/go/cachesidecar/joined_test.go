package cachesidecar

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

// answerBatch answers as the sidecar does: products named missing-... do not exist, unreadable-... cannot be read.
func answerBatch(_ int, r *pb.BatchGetProductsRequest) (*pb.BatchGetProductsResponse, error) {
	reply := &pb.BatchGetProductsResponse{Cache: &pb.CacheMetadata{Source: SourceStore}}
	for i, id := range r.ProductIds {
		switch {
		case id == "bad\n":
			return nil, fails(codes.InvalidArgument, InvalidRequest, nil)
		case id[0] == 'm':
			reply.Missing = append(reply.Missing, id)
		case id[0] != 'u':
			reply.Products = append(reply.Products, &pb.Product{ProductId: id})
			reply.ProductCaches = append(reply.ProductCaches, &pb.CacheMetadata{Version: int64(i + 1)})
		}
	}
	return reply, nil
}

func answerSingle(_ int, r *pb.GetProductRequest) (*pb.GetProductResponse, error) {
	if r.ProductId == "bad\n" {
		return nil, fails(codes.InvalidArgument, InvalidRequest, nil)
	}
	if r.ProductId[:min(1, len(r.ProductId))] == "m" {
		return nil, fails(codes.NotFound, NotFound, nil)
	}
	return &pb.GetProductResponse{Product: &pb.Product{ProductId: r.ProductId}, Cache: &pb.CacheMetadata{}}, nil
}

// getAll gets each id in a goroutine of its own.
func getAll(t *testing.T, client *Client, ids []string, options ...ReadOption) ([]*Product, []error) {
	products, errs := make([]*Product, len(ids)), make([]error, len(ids))
	var waiting sync.WaitGroup
	for i, id := range ids {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			products[i], errs[i] = client.Products.Get(patient(t), id, options...)
		}()
	}
	waiting.Wait()
	return products, errs
}

func TestGetsOfAShortTimeAreOneBatch(t *testing.T) {
	s := serve(t, &scripted{batch: answerBatch, get: answerSingle})
	client := dial(t, s, WithJoinedGets(time.Hour)) // only a full batch is sent
	ids := make([]string, 0, maxBatch+2)
	for i := range maxBatch - 2 {
		ids = append(ids, fmt.Sprintf("a-%d", i))
	}
	ids = append(ids, "missing", "unreadable", "a-1", "a-2")
	products, errs := getAll(t, client, ids)
	for i, id := range ids {
		var missing *NotFoundError
		switch id {
		case "missing":
			if !errors.As(errs[i], &missing) || missing.ID != "missing" || missing.Resource != "product" {
				t.Errorf("%v", errs[i])
			}
		case "unreadable":
			if !errors.Is(errs[i], UnreadableRow) {
				t.Errorf("%v", errs[i])
			}
		default:
			if errs[i] != nil || products[i].ProductID != id || products[i].Cache.Version == 0 {
				t.Errorf("%s: %v, %v", id, products[i], errs[i])
			}
		}
	}
	if s.count("BatchGetProductsRequest") != 1 || s.count("GetProductRequest") != 0 {
		t.Errorf("%v", s.counts)
	}
}

func TestABatchIsSentAfterItsWindow(t *testing.T) {
	s := serve(t, &scripted{batch: answerBatch, get: answerSingle})
	client := dial(t, s, WithJoinedGets(time.Millisecond))
	if products, errs := getAll(t, client, []string{"a"}); errs[0] != nil || products[0].ProductID != "a" {
		t.Fatal(errs)
	}
	if s.count("GetProductRequest") != 1 {
		t.Error("one id alone is no batch")
	}
}

func TestGetsWithOtherOptionsAreAnotherBatch(t *testing.T) {
	s := serve(t, &scripted{batch: answerBatch, get: answerSingle})
	client := dial(t, s, WithJoinedGets(time.Second))
	var waiting sync.WaitGroup
	for _, options := range [][]ReadOption{nil, {MaxAge(time.Second)}, {MaxAge(time.Second)}, {Bypass()}} {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			if _, errs := getAll(t, client, []string{"a", "b"}, options...); errs[0] != nil || errs[1] != nil {
				t.Error(errs)
			}
		}()
	}
	waiting.Wait()
	for _, request := range s.seen {
		if batch, isBatch := request.(*pb.BatchGetProductsRequest); isBatch && len(batch.ProductIds) != 2 {
			t.Errorf("asked for %v", batch)
		}
	}
}

func TestWhatFailsABatchFailsOnlyWhoCausedIt(t *testing.T) {
	s := serve(t, &scripted{get: answerSingle, batch: func(n int, r *pb.BatchGetProductsRequest) (*pb.BatchGetProductsResponse, error) {
		if len(r.ProductIds) > 2 {
			return nil, fails(codes.FailedPrecondition, ReplyTooLarge, nil)
		}
		return answerBatch(n, r)
	}})
	client := dial(t, s, WithJoinedGets(200*time.Millisecond))
	ids := []string{"a", "b", "bad\n", "c", "missing", "d", "", "a\xff"}
	products, errs := getAll(t, client, ids)
	for i, id := range ids {
		switch id {
		case "bad\n":
			if !errors.Is(errs[i], InvalidRequest) {
				t.Errorf("%v", errs[i])
			}
		case "missing":
			if !errors.Is(errs[i], NotFound) {
				t.Errorf("%v", errs[i])
			}
		case "a\xff":
			if errs[i] == nil {
				t.Error("no message can have this id")
			}
		default:
			if errs[i] != nil || products[i].ProductID != id {
				t.Errorf("%q: %v", id, errs[i])
			}
		}
	}
}

func TestAJoinedGetEndsWithItsContext(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, &scripted{get: func(n int, r *pb.GetProductRequest) (*pb.GetProductResponse, error) {
		<-release
		return answerSingle(n, r)
	}})
	defer close(release)
	client := dial(t, s, WithJoinedGets(time.Millisecond))
	_, err := client.Products.Get(patient(t), "a", Timeout(100*time.Millisecond))
	if !IsAway(err) {
		t.Fatal(err)
	}
}
