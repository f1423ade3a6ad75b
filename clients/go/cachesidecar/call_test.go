package cachesidecar

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAWriteKeepsItsRequestIDOverRetries(t *testing.T) {
	s := serve(t, &scripted{add: func(n int, _ *pb.AddCartItemRequest) (*pb.AddCartItemResponse, error) {
		switch n {
		case 1:
			return nil, fails(codes.Unavailable, TierUnavailable, nil)
		case 2:
			return nil, status.Error(codes.Canceled, "the server is stopping")
		case 3:
			return nil, fails(codes.ResourceExhausted, Overloaded, nil, after(time.Millisecond))
		}
		return &pb.AddCartItemResponse{Cart: &pb.Cart{UserId: "u"}}, nil
	}})
	client := dial(t, s)
	cart, err := client.Carts.Add(patient(t), "u", CartItem{ProductID: "mug", Quantity: 1, UnitPrice: MustMoney("1", "EUR")})
	if err != nil || cart.UserID != "u" {
		t.Fatal(cart, err)
	}
	var ids []string
	for _, request := range s.seen {
		ids = append(ids, request.(*pb.AddCartItemRequest).RequestId)
	}
	if len(ids) != 4 || len(slices.Compact(ids)) != 1 || ids[0] == "" {
		t.Errorf("the request_ids are %v", ids)
	}
	if stats := client.Stats(); stats.Calls != 1 || stats.Retries != 3 || stats.Failures != 0 {
		t.Errorf("counted %+v", stats)
	}
}

func TestTheCallersRequestIDIsSent(t *testing.T) {
	s := serve(t, &scripted{add: func(int, *pb.AddCartItemRequest) (*pb.AddCartItemResponse, error) {
		return &pb.AddCartItemResponse{}, nil
	}})
	const id = "0b6f1c3e-6f3a-4f0e-9f9c-0d6a0f0f8f10"
	if _, err := dial(t, s).Carts.Add(patient(t), "u", CartItem{}, RequestID(id)); err != nil {
		t.Fatal(err)
	}
	if sent := s.seen[0].(*pb.AddCartItemRequest).RequestId; sent != id {
		t.Errorf("sent %q", sent)
	}
}

func TestARestartFailsNoCall(t *testing.T) {
	s := serve(t, &scripted{get: func(int, *pb.GetProductRequest) (*pb.GetProductResponse, error) { return mug(1), nil }})
	client := dial(t, s)
	s.server.Stop()
	done := make(chan error)
	go func() {
		_, err := client.Products.Get(patient(t), "mug")
		done <- err
	}()
	s.start(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestWhatCannotSucceedIsNotRepeated(t *testing.T) {
	s := serve(t, &scripted{get: func(int, *pb.GetProductRequest) (*pb.GetProductResponse, error) {
		return nil, fails(codes.NotFound, NotFound, map[string]string{"resource": "product", "id": "mug"})
	}})
	_, err := dial(t, s).Products.Get(patient(t), "mug")
	var missing *NotFoundError
	if !errors.As(err, &missing) || missing.Resource != "product" || missing.ID != "mug" {
		t.Fatalf("%#v", err)
	}
	if s.count("GetProductRequest") != 1 {
		t.Errorf("asked %d times", s.count("GetProductRequest"))
	}
}

func TestOverloadIsNotMadeWorse(t *testing.T) {
	s := serve(t, &scripted{get: func(int, *pb.GetProductRequest) (*pb.GetProductResponse, error) {
		return nil, fails(codes.ResourceExhausted, Overloaded, nil, after(time.Millisecond))
	}})
	_, err := dial(t, s).Products.Get(patient(t), "mug")
	var overloaded *OverloadedError
	if !errors.As(err, &overloaded) || overloaded.Attempts != attemptsUnderLoad {
		t.Fatalf("%v", err)
	}
	if s.count("GetProductRequest") != attemptsUnderLoad {
		t.Errorf("asked %d times", s.count("GetProductRequest"))
	}
}

func TestTheFailureIsReturnedInsteadOfWaitingForTheDeadline(t *testing.T) {
	s := serve(t, &scripted{get: func(int, *pb.GetProductRequest) (*pb.GetProductResponse, error) {
		return nil, fails(codes.Unavailable, TierUnavailable, map[string]string{"tier": "PostgreSQL"}, after(2*time.Hour))
	}})
	_, err := dial(t, s).Products.Get(context.Background(), "mug", Timeout(time.Hour))
	var away *UnavailableError
	if !errors.As(err, &away) || away.Tier != "PostgreSQL" || away.RetryAfter != 2*time.Hour {
		t.Fatalf("%v", err)
	}
}

func TestADeadlineSaysWhatItWaitedFor(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, &scripted{get: func(n int, _ *pb.GetProductRequest) (*pb.GetProductResponse, error) {
		if n == 1 {
			return nil, fails(codes.Unavailable, Draining, nil)
		}
		<-release
		return mug(1), nil
	}})
	defer close(release)
	_, err := dial(t, s).Products.Get(context.Background(), "mug", Timeout(300*time.Millisecond))
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, Draining) || !IsAway(err) {
		t.Fatalf("%v", err)
	}
}

func TestTheContextEndsACall(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	s := serve(t, &scripted{get: func(int, *pb.GetProductRequest) (*pb.GetProductResponse, error) {
		close(entered)
		<-release
		return mug(1), nil
	}})
	defer close(release)
	client := dial(t, s)
	ctx, cancel := context.WithCancel(patient(t))
	go func() {
		<-entered
		cancel()
	}()
	if _, err := client.Products.Get(ctx, "mug"); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
}

func TestAClosedClientFailsAtOnce(t *testing.T) {
	client := dial(t, serve(t, &scripted{}))
	client.Close()
	if _, err := client.Products.Get(patient(t), "mug"); err == nil || !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
}

func TestAnErrorOfEachReasonHasItsType(t *testing.T) {
	cart := &pb.Cart{UserId: "u", Etag: "2"}
	for reason, c := range map[Reason]struct {
		err   error
		check func(error) bool
	}{
		EtagMismatch: {
			fails(codes.Aborted, EtagMismatch, map[string]string{"resource": "cart", "id": "u", "etag": "2"}, cart),
			func(err error) bool {
				var e *EtagMismatchError
				return errors.As(err, &e) && e.Etag == "2" && e.Cart.Etag == "2" && e.Cart.UserID == "u"
			},
		},
		OutOfStock: {
			fails(codes.FailedPrecondition, OutOfStock, map[string]string{"product_id": "mug", "available": "3"}),
			func(err error) bool {
				var e *OutOfStockError
				return errors.As(err, &e) && e.ProductID == "mug" && e.Available == 3
			},
		},
		ReplyTooLarge: {
			fails(codes.FailedPrecondition, ReplyTooLarge, map[string]string{"size": "9", "limit": "8"}),
			func(err error) bool {
				var e *ReplyTooLargeError
				return errors.As(err, &e) && e.Size == 9 && e.Limit == 8
			},
		},
		InvalidRequest: {
			fails(codes.InvalidArgument, InvalidRequest, nil, &errdetails.BadRequest{
				FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "title", Description: "too long"}}}),
			func(err error) bool {
				var e *InvalidRequestError
				return errors.As(err, &e) && e.Violations[0] == Violation{"title", "too long"}
			},
		},
		RoleMissing: {
			fails(codes.PermissionDenied, RoleMissing, map[string]string{"role": "admin"}),
			func(err error) bool {
				var e *PermissionError
				return errors.As(err, &e) && e.Role == "admin"
			},
		},
		"A_NEW_ONE": { // of a newer sidecar
			fails(codes.Unavailable, "A_NEW_ONE", nil),
			func(err error) bool {
				var e *UnavailableError
				return errors.As(err, &e)
			},
		},
	} {
		err := errorFrom(c.err, "/m", 1, nil)
		var e *Error
		if !c.check(err) || !errors.Is(err, reason) || !errors.As(err, &e) || status.Code(err) != status.Code(c.err) {
			t.Errorf("%s: %#v", reason, err)
		}
		if text := err.Error(); !strings.Contains(text, string(reason)) || strings.Contains(text, "\n") {
			t.Errorf("%s says %q", reason, text)
		}
		if errors.Is(err, Internal) || errors.Is(err, Reason("")) {
			t.Errorf("%s is another reason, too", reason)
		}
	}
}

func TestReasonsOfOtherDomainsAreNotOurs(t *testing.T) {
	s, _ := status.New(codes.Unavailable, "a proxy").WithDetails(&errdetails.ErrorInfo{Reason: "NOT_FOUND", Domain: "proxy"})
	if err := errorFrom(s.Err(), "/m", 1, nil); errors.Is(err, NotFound) {
		t.Errorf("%v", err)
	}
}

func TestEditBeginsAgainAfterAConflict(t *testing.T) {
	s := serve(t, &scripted{
		get: func(n int, r *pb.GetProductRequest) (*pb.GetProductResponse, error) {
			if n == 2 && !r.Options.GetBypass() {
				t.Error("after a conflict, the caches are no good")
			}
			return &pb.GetProductResponse{Product: &pb.Product{ProductId: "mug", Title: "A", Etag: string(rune('0' + n))}}, nil
		},
		update: func(n int, r *pb.UpdateProductRequest) (*pb.UpdateProductResponse, error) {
			if n == 1 {
				return nil, fails(codes.Aborted, EtagMismatch, nil)
			}
			return &pb.UpdateProductResponse{Product: r.Product}, nil
		},
	})
	tries := 0
	product, err := dial(t, s).Products.Edit(patient(t), "mug", func(p *Product) error {
		tries++
		p.Title += "B"
		p.Brand = ""
		return nil
	})
	if err != nil || tries != 2 || product.Title != "AB" || product.Etag != "2" {
		t.Fatal(product, tries, err)
	}
	first, second := s.seen[1].(*pb.UpdateProductRequest), s.seen[3].(*pb.UpdateProductRequest)
	if first.RequestId == second.RequestId {
		t.Error("another request needs another request_id")
	}
	if !slices.Equal(second.UpdateMask.Paths, []string{"title"}) {
		t.Errorf("updates %v", second.UpdateMask.Paths)
	}
}

func TestEditWithoutAChangeWritesNothing(t *testing.T) {
	s := serve(t, &scripted{get: func(int, *pb.GetProductRequest) (*pb.GetProductResponse, error) { return mug(1), nil }})
	client := dial(t, s)
	if _, err := client.Products.Edit(patient(t), "mug", func(*Product) error { return nil }); err != nil {
		t.Fatal(err)
	}
	refused := errors.New("no")
	if _, err := client.Products.Edit(patient(t), "mug", func(*Product) error { return refused }); err != refused {
		t.Fatal(err)
	}
	if s.count("UpdateProductRequest") != 0 {
		t.Error("something was written")
	}
}

func TestDialWaitsUntilTheSidecarServes(t *testing.T) {
	s := serve(t, &scripted{})
	s.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, WithAddress("unix:"+s.path)); err == nil || !strings.Contains(err.Error(), s.path) {
		t.Fatalf("%v", err)
	}
	s.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_SERVING)
	dial(t, s)
}

func TestTheAddressIsFound(t *testing.T) {
	t.Setenv(AddressVariable, "127.0.0.1:1")
	t.Setenv(SocketVariable, "/s")
	if found := addressFromEnvironment(); found != "127.0.0.1:1" {
		t.Error(found)
	}
	t.Setenv(AddressVariable, "")
	if found := addressFromEnvironment(); found != "unix:/s" {
		t.Error(found)
	}
	t.Setenv(SocketVariable, "")
	if found := addressFromEnvironment(); found != defaultAddress && found != "unix:"+defaultSocket {
		t.Error(found)
	}
}

func TestATokenIsReadAgainWhenItIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("old")
	s := serve(t, &scripted{get: func(n int, _ *pb.GetProductRequest) (*pb.GetProductResponse, error) {
		if n == 1 {
			write("new")
			return nil, fails(codes.Unauthenticated, InvalidToken, nil)
		}
		if n > 2 {
			return nil, fails(codes.Unauthenticated, InvalidToken, nil)
		}
		return mug(1), nil
	}})
	client := dial(t, s, WithTokenFile(file))
	client.token.mutex.Lock()
	client.token.looked = time.Now().Add(time.Hour) // not by the clock
	client.token.mutex.Unlock()
	if _, err := client.Products.Get(patient(t), "mug"); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.tokens, []string{"Bearer old", "Bearer new"}) {
		t.Errorf("sent %v", s.tokens)
	}
	// The same token again would be refused again.
	var refused *UnauthenticatedError
	if _, err := client.Products.Get(patient(t), "mug"); !errors.As(err, &refused) || refused.Attempts != 1 {
		t.Fatalf("%v", err)
	}
	os.Remove(file)
	if token := client.token.reread(); token != "new" {
		t.Errorf("without a file, the token is %q", token)
	}
}

func TestWrongOptionsAreRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("token"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, options := range map[string][]Option{
		"clear text":  {WithAddress("10.0.0.1:50051"), WithTokenFile(file)},
		"cannot read": {WithTokenFile(file + "-none")},
		"WithL0":      {WithL0(10, 0)},
		"timeout":     {WithTimeouts(0, time.Second)},
		"Fallback":    {WithFallbackLimits(0, 1)},
		"the CA":      {WithTLS(TLSFiles{CA: file + "-none"})},
		"in PEM":      {WithTLS(TLSFiles{CA: file})},
		"certificate": {WithTLS(TLSFiles{Cert: file})},
	} {
		client, err := Dial(patient(t), append(options, WithoutWaiting())...)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if client != nil {
			client.Close()
		}
	}
}
