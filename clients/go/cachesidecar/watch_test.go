package cachesidecar

import (
	"context"
	"errors"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

// take returns the first n changes of a watch.
func take(t *testing.T, client *Client, afterVersion int64, n int) []ProductChange {
	// Without a deadline, so that a stream that is not ended stays open.
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	var changes []ProductChange
	for change, err := range client.Products.Watch(ctx, afterVersion) {
		if err != nil {
			t.Fatal(err)
		}
		if changes = append(changes, change); len(changes) == n {
			break
		}
	}
	return changes
}

func sendChange(stream pb.ProductService_WatchProductsServer, kind ChangeKind, version int64) {
	_ = stream.Send(&pb.WatchProductsResponse{Kind: kind, Version: version, ProductId: "mug"})
}

func started(stream pb.ProductService_WatchProductsServer, version int64) {
	_ = stream.Send(&pb.WatchProductsResponse{Kind: ChangeWatchStarted, Version: version})
}

func TestAWatchResumesAfterTheLastVersionReceived(t *testing.T) {
	ended := make(chan struct{})
	s := serve(t, &scripted{watch: func(n int, r *pb.WatchProductsRequest, stream pb.ProductService_WatchProductsServer) error {
		switch n {
		case 1:
			started(stream, 10)
			sendChange(stream, ChangeUpdated, 12)
			sendChange(stream, ChangeUpdated, 11) // of another product, committed later
			return fails(codes.Unavailable, Draining, nil)
		case 2:
			started(stream, r.AfterVersion)
			return fails(codes.Aborted, WatchTooSlow, nil)
		}
		started(stream, r.AfterVersion)
		sendChange(stream, ChangeDeleted, 13)
		<-stream.Context().Done()
		close(ended)
		return nil
	}})
	client := dial(t, s)
	changes := take(t, client, 0, 4)
	<-ended // the stream does not outlive the loop
	var versions []int64
	for _, change := range changes {
		versions = append(versions, change.Version)
		if change.Missed {
			t.Errorf("nothing was missed: %+v", change)
		}
	}
	if !slices.Equal(versions, []int64{10, 12, 11, 13}) {
		t.Errorf("received %v", versions)
	}
	for i, after := range []int64{0, 11, 11} {
		if asked := s.seen[i].(*pb.WatchProductsRequest).AfterVersion; asked != after {
			t.Errorf("stream %d began after %d", i, asked)
		}
	}
	if client.Stats().WatchBreaks != 2 {
		t.Errorf("counted %d breaks", client.Stats().WatchBreaks)
	}
}

func TestAWatchSaysWhenItMayHaveMissedSomething(t *testing.T) {
	s := serve(t, &scripted{watch: func(n int, r *pb.WatchProductsRequest, stream pb.ProductService_WatchProductsServer) error {
		switch n {
		case 1:
			started(stream, 10)
			return fails(codes.Unavailable, Draining, nil)
		case 2:
			return fails(codes.OutOfRange, ChangesExpired, nil)
		}
		started(stream, 50)
		<-stream.Context().Done()
		return nil
	}})
	changes := take(t, dial(t, s), 0, 2)
	if changes[0].Missed || !changes[1].Missed || changes[1].Kind != ChangeWatchStarted || changes[1].Version != 50 {
		t.Errorf("%+v", changes)
	}
}

func TestAWatchFromNothingCannotBeResumed(t *testing.T) {
	s := serve(t, &scripted{watch: func(n int, _ *pb.WatchProductsRequest, stream pb.ProductService_WatchProductsServer) error {
		started(stream, 0)
		if n == 1 {
			return fails(codes.Unavailable, Draining, nil)
		}
		<-stream.Context().Done()
		return nil
	}})
	if changes := take(t, dial(t, s), 0, 2); changes[0].Missed || !changes[1].Missed {
		t.Errorf("%+v", changes)
	}
}

func TestAWatchOfTheCallersVersionThatExpiredBeginsAnew(t *testing.T) {
	s := serve(t, &scripted{watch: func(_ int, r *pb.WatchProductsRequest, stream pb.ProductService_WatchProductsServer) error {
		if r.AfterVersion != 0 {
			return fails(codes.OutOfRange, ChangesExpired, nil)
		}
		started(stream, 50)
		<-stream.Context().Done()
		return nil
	}})
	if changes := take(t, dial(t, s), 7, 1); !changes[0].Missed {
		t.Errorf("%+v", changes)
	}
}

func TestAWatchThatIsRefusedEnds(t *testing.T) {
	s := serve(t, &scripted{watch: func(int, *pb.WatchProductsRequest, pb.ProductService_WatchProductsServer) error {
		return fails(codes.PermissionDenied, RoleMissing, nil)
	}})
	var last error
	for _, err := range dial(t, s).Products.Watch(patient(t), 0) {
		last = err
	}
	if !errors.Is(last, RoleMissing) || s.count("WatchProductsRequest") != 1 {
		t.Errorf("%v", last)
	}
}

func TestAWatchEndsWithItsContext(t *testing.T) {
	s := serve(t, &scripted{watch: func(_ int, _ *pb.WatchProductsRequest, stream pb.ProductService_WatchProductsServer) error {
		started(stream, 1)
		<-stream.Context().Done()
		return nil
	}})
	ctx, cancel := context.WithCancel(patient(t))
	defer cancel()
	var last error
	for _, err := range dial(t, s).Products.Watch(ctx, 0) {
		last = err
		cancel()
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("%v", last)
	}
}

func TestEventsThatWereNotAcknowledgedAreSentAgain(t *testing.T) {
	var received []string
	s := serve(t, &scripted{stream: func(n int, stream pb.UserEventService_StreamUserEventsServer) error {
		for {
			request, err := stream.Recv()
			if err != nil {
				return nil
			}
			received = append(received, request.Events[0].EventId)
			if n == 1 && len(received) == 2 {
				return fails(codes.Unavailable, Draining, nil)
			}
			_ = stream.Send(&pb.StreamUserEventsResponse{EventIds: []string{request.Events[0].EventId}})
		}
	}})
	batches := func(yield func([]UserEvent) bool) {
		for range 3 {
			if !yield([]UserEvent{{EventType: HomePageView, UserID: "u"}}) {
				return
			}
		}
	}
	var acknowledged []string
	for written, err := range dial(t, s).Events.Stream(patient(t), batches) {
		if err != nil {
			t.Fatal(err)
		}
		acknowledged = append(acknowledged, written.EventIDs...)
	}
	if len(acknowledged) != 3 || len(received) != 4 || received[1] != received[2] || received[1] == received[0] {
		t.Errorf("received %v, acknowledged %v", received, acknowledged)
	}
}
