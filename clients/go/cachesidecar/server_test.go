package cachesidecar

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

// scripted is a gRPC server that answers as a test says, on a Unix socket: for what a real sidecar does only at bad moments. The
// tests with a real one are in tests/clients.
type scripted struct {
	pb.UnimplementedProductServiceServer
	pb.UnimplementedCartServiceServer
	pb.UnimplementedUserEventServiceServer

	path   string
	server *grpc.Server
	health *health.Server

	mutex  sync.Mutex
	seen   []proto.Message
	tokens []string

	// get, batch, add, watch and stream answer the calls of their methods; n counts them from 1.
	get    func(n int, r *pb.GetProductRequest) (*pb.GetProductResponse, error)
	batch  func(n int, r *pb.BatchGetProductsRequest) (*pb.BatchGetProductsResponse, error)
	update func(n int, r *pb.UpdateProductRequest) (*pb.UpdateProductResponse, error)
	add    func(n int, r *pb.AddCartItemRequest) (*pb.AddCartItemResponse, error)
	watch  func(n int, r *pb.WatchProductsRequest, stream pb.ProductService_WatchProductsServer) error
	stream func(n int, stream pb.UserEventService_StreamUserEventsServer) error

	counts map[string]int
}

func serve(t *testing.T, s *scripted) *scripted {
	s.path = filepath.Join(t.TempDir(), "s")
	s.start(t)
	t.Cleanup(func() { s.server.Stop() })
	return s
}

// start listens, again after server.Stop().
func (s *scripted) start(t *testing.T) {
	listener, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	s.server, s.health = grpc.NewServer(), health.NewServer()
	pb.RegisterProductServiceServer(s.server, s)
	pb.RegisterCartServiceServer(s.server, s)
	pb.RegisterUserEventServiceServer(s.server, s)
	grpc_health_v1.RegisterHealthServer(s.server, s.health)
	go func() { _ = s.server.Serve(listener) }()
}

// note remembers a request, and returns how many there were of its kind.
func (s *scripted) note(ctx context.Context, request proto.Message) int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.seen = append(s.seen, request)
	if values := metadata.ValueFromIncomingContext(ctx, "authorization"); len(values) > 0 {
		s.tokens = append(s.tokens, values[0])
	}
	if s.counts == nil {
		s.counts = map[string]int{}
	}
	name := string(request.ProtoReflect().Descriptor().Name())
	s.counts[name]++
	return s.counts[name]
}

func (s *scripted) count(name string) int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.counts[name]
}

func (s *scripted) GetProduct(ctx context.Context, r *pb.GetProductRequest) (*pb.GetProductResponse, error) {
	return s.get(s.note(ctx, r), r)
}

func (s *scripted) BatchGetProducts(ctx context.Context, r *pb.BatchGetProductsRequest) (*pb.BatchGetProductsResponse, error) {
	return s.batch(s.note(ctx, r), r)
}

func (s *scripted) UpdateProduct(ctx context.Context, r *pb.UpdateProductRequest) (*pb.UpdateProductResponse, error) {
	return s.update(s.note(ctx, r), r)
}

func (s *scripted) AddCartItem(ctx context.Context, r *pb.AddCartItemRequest) (*pb.AddCartItemResponse, error) {
	return s.add(s.note(ctx, r), r)
}

func (s *scripted) WatchProducts(r *pb.WatchProductsRequest, stream pb.ProductService_WatchProductsServer) error {
	return s.watch(s.note(stream.Context(), r), r, stream)
}

func (s *scripted) StreamUserEvents(stream pb.UserEventService_StreamUserEventsServer) error {
	return s.stream(s.note(stream.Context(), &pb.StreamUserEventsRequest{}), stream)
}

// dial returns a client of a server that is closed at the end.
func dial(t *testing.T, s *scripted, options ...Option) *Client {
	options = append([]Option{WithAddress("unix:" + s.path), WithLogger(slog.New(slog.DiscardHandler))}, options...)
	client, err := Dial(patient(t), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

// patient returns a context whose deadline only a hang reaches.
func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// fails returns an error as the sidecar sends it.
func fails(code codes.Code, reason Reason, values map[string]string, more ...protoadapt.MessageV1) error {
	info := &errdetails.ErrorInfo{Reason: string(reason), Domain: errorDomain, Metadata: values}
	s, err := status.New(code, "as scripted").WithDetails(append([]protoadapt.MessageV1{info}, more...)...)
	if err != nil {
		panic(err)
	}
	return s.Err()
}

// after returns the detail that says when to try again.
func after(d time.Duration) protoadapt.MessageV1 {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(d)}
}

// until polls a condition; what does not come true within a minute hangs.
func until(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the condition did not come true in time")
		}
	}
}

func mug(version int64) *pb.GetProductResponse {
	return &pb.GetProductResponse{
		Product: &pb.Product{ProductId: "mug", Title: "A mug"},
		Cache:   &pb.CacheMetadata{Source: SourceL1, Version: version},
	}
}
