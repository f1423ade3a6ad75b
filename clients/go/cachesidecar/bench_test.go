package cachesidecar

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

// benched returns a client of the sidecar that the environment names, which has the products of `cache-sidecar dev`.
func benched(b *testing.B, options ...Option) *Client {
	if os.Getenv(AddressVariable) == "" {
		b.Skip(AddressVariable + " is not set: start a sidecar with `make run`")
	}
	client, err := Dial(context.Background(), options...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { client.Close() })
	if _, err := client.Products.Get(context.Background(), "SKU-000001"); err != nil {
		b.Fatal(err)
	}
	return client
}

func stubGet(b *testing.B, stub pb.ProductServiceClient) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if _, err := stub.GetProduct(ctx, &pb.GetProductRequest{ProductId: "SKU-000001"}, grpc.WaitForReady(true)); err != nil {
		b.Error(err)
	}
}

func layerGet(b *testing.B, client *Client) {
	if _, err := client.Products.Get(context.Background(), "SKU-000001"); err != nil {
		b.Error(err)
	}
}

// BenchmarkGet compares the client with the bare stub on the same connection: one call after the other, and 32 at once. Each
// pair takes turns, so that a busy machine slows down both.
func BenchmarkGet(b *testing.B) {
	client := benched(b)
	stub := pb.NewProductServiceClient(client.Conn())
	for _, callers := range []int{1, 32} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			const turn = 192
			var layer, bare usage
			for range b.N {
				layer.add(used(callers, turn, func() { layerGet(b, client) }))
				bare.add(used(callers, turn, func() { stubGet(b, stub) }))
			}
			calls := time.Duration(b.N * turn)
			b.ReportMetric(float64(layer.time/calls), "client-ns/call")
			b.ReportMetric(float64(bare.time/calls), "stub-ns/call")
			b.ReportMetric(float64(layer.cpu/calls), "client-cpu-ns/call")
			b.ReportMetric(float64(bare.cpu/calls), "stub-cpu-ns/call")
			b.ReportMetric(100*(float64(layer.cpu)/float64(bare.cpu)-1), "percent-more-cpu")
		})
	}
}

// usage is what calls took: time by the clock, and of the processors. Only the latter says something on a busy machine.
type usage struct{ time, cpu time.Duration }

func (u *usage) add(other usage) {
	u.time += other.time
	u.cpu += other.cpu
}

// used returns what so many calls by so many callers take.
func used(callers, calls int, call func()) usage {
	var waiting sync.WaitGroup
	began, before := time.Now(), cpuTime()
	for range callers {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			for range calls / callers {
				call()
			}
		}()
	}
	waiting.Wait()
	return usage{time.Since(began), cpuTime() - before}
}

// cpuTime returns what this process has used of the processors.
func cpuTime() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		panic(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkJoined reads a page of 100 products at once, in 100 goroutines: as single calls, joined, and as one batch.
func BenchmarkJoined(b *testing.B) {
	ids := make([]string, 100)
	for i := range ids {
		ids[i] = fmt.Sprintf("SKU-%06d", i+1)
	}
	page := func(b *testing.B, client *Client) {
		before := cpuTime()
		defer func() { b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op") }()
		for range b.N {
			var waiting sync.WaitGroup
			for _, id := range ids {
				waiting.Add(1)
				go func() {
					defer waiting.Done()
					if _, err := client.Products.Get(context.Background(), id); err != nil {
						b.Error(err)
					}
				}()
			}
			waiting.Wait()
		}
	}
	b.Run("single", func(b *testing.B) { page(b, benched(b)) })
	b.Run("joined", func(b *testing.B) { page(b, benched(b, WithJoinedGets(300*time.Microsecond))) })
	b.Run("batch", func(b *testing.B) {
		client := benched(b)
		for range b.N {
			if _, err := client.Products.BatchGet(context.Background(), ids); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkL0 reads a product that is in this process, from one goroutine and from all cores.
func BenchmarkL0(b *testing.B) {
	l := openL0(10_000, time.Hour)
	ids := make([]string, 1024)
	for i := range ids {
		ids[i] = fmt.Sprintf("SKU-%06d", i)
		l.put(versionOf(ids[i], 1), time.Now())
	}
	service := &ProductService{l0: l}
	ctx := context.Background()
	b.Run("one", func(b *testing.B) {
		before := cpuTime()
		defer func() { b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op") }()
		for i := range b.N {
			if product, err := service.Get(ctx, ids[i%len(ids)]); err != nil || !product.Cache.Local {
				b.Fatal(product, err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		before := cpuTime()
		defer func() { b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op") }()
		b.RunParallel(func(p *testing.PB) {
			for i := 0; p.Next(); i++ {
				if product, err := service.Get(ctx, ids[i%len(ids)]); err != nil || !product.Cache.Local {
					b.Error(product, err)
				}
			}
		})
	})
}
