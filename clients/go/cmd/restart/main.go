// Command restart writes without a pause while its sidecar is killed and started again, and reports what it was told; see
// tests/clients/test_go.py. It reads a plan as a line of JSON, prints "written" for each write that was acknowledged, and, once
// it reads the line "stop", a line of JSON.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecar"
)

// plan is what the test wants.
type plan struct {
	Address string
	Users   int
	// Timeout is how long a call may take, in seconds: longer than any restart.
	Timeout float64
}

// report is what the program was told.
type report struct {
	// Added is how many pieces each user's cart should have, Reserved how many pieces of the stock.
	Added    map[string]int `json:"added"`
	Reserved int            `json:"reserved"`
	// Versions are those that updates of the product returned, Told those that the watch brought.
	Versions []int64  `json:"versions"`
	Told     []int64  `json:"told"`
	Missed   int      `json:"missed"`
	L0Hits   uint64   `json:"l0_hits"`
	Errors   []string `json:"errors"`
	Retries  uint64   `json:"retries"`
	Breaks   uint64   `json:"breaks"`
	// Slowest is the longest call, in seconds.
	Slowest float64 `json:"slowest"`
}

// shopper makes the calls, and notes what happens.
type shopper struct {
	*cachesidecar.Client
	stopped atomic.Bool
	mutex   sync.Mutex
	report  report
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	input := bufio.NewScanner(os.Stdin)
	input.Scan()
	var todo plan
	if err := json.Unmarshal(input.Bytes(), &todo); err != nil {
		return err
	}
	patience := time.Duration(todo.Timeout * float64(time.Second))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client, err := cachesidecar.Dial(ctx, cachesidecar.WithAddress(todo.Address), cachesidecar.WithTimeouts(patience, patience),
		cachesidecar.WithL0(100, time.Hour))
	if err != nil {
		return err
	}
	s := &shopper{Client: client, report: report{Added: map[string]int{}, Errors: []string{}}}
	price := cachesidecar.MustMoney("1", "EUR")
	if _, err := client.Products.Create(ctx, cachesidecar.Product{ProductID: "go", Title: "0", Price: price}); err != nil {
		return err
	}
	if _, err := client.Inventory.Set(ctx, cachesidecar.Inventory{ProductID: "go", Available: 1_000_000}); err != nil {
		return err
	}
	watching, started := make(chan struct{}), make(chan struct{})
	go s.watch(ctx, watching, started)
	<-started
	var writers sync.WaitGroup
	writer := func(write func(n int) error) {
		writers.Add(1)
		go func() {
			defer writers.Done()
			s.keep(write)
		}()
	}
	for user := range todo.Users {
		id := fmt.Sprintf("go-%d", user)
		writer(func(int) error {
			_, err := client.Carts.Add(ctx, id, cachesidecar.CartItem{ProductID: "go", Quantity: 1, UnitPrice: price})
			s.note(err, func() { s.report.Added[id]++ })
			return err
		})
	}
	writer(func(int) error {
		_, err := client.Inventory.Reserve(ctx, "go", []cachesidecar.ReservationItem{{ProductID: "go", Quantity: 1}}, 0)
		s.note(err, func() { s.report.Reserved++ })
		return err
	})
	writer(func(n int) error {
		updated, err := client.Products.Update(ctx, cachesidecar.Product{ProductID: "go", Title: strconv.Itoa(n)})
		s.note(err, func() {
			version, _ := strconv.ParseInt(updated.Etag, 16, 64)
			s.report.Versions = append(s.report.Versions, version)
		})
		if err != nil {
			return err
		}
		// Its own write, whatever L0 keeps.
		read, err := client.Products.Get(ctx, "go")
		if err == nil && read.Title != strconv.Itoa(n) {
			err = fmt.Errorf("read %q after writing %d", read.Title, n)
		}
		return err
	})
	for input.Scan() && input.Text() != "stop" {
	}
	s.stopped.Store(true)
	writers.Wait()
	last := s.report.Versions[len(s.report.Versions)-1]
	for deadline := time.Now().Add(patience); !s.wasTold(last) && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
	}
	stats := client.Stats()
	s.report.Retries, s.report.Breaks, s.report.L0Hits = stats.Retries, stats.WatchBreaks, stats.L0Hits
	cancel()
	<-watching
	if err := client.Close(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(s.report)
}

// keep writes until it is to stop. A cart holds at most 999 pieces of a product.
func (s *shopper) keep(write func(n int) error) {
	for n := 1; n < 900 && !s.stopped.Load(); n++ {
		began := time.Now()
		err := write(n)
		s.mutex.Lock()
		s.report.Slowest = max(s.report.Slowest, time.Since(began).Seconds())
		if err != nil {
			s.report.Errors = append(s.report.Errors, err.Error())
		}
		fmt.Println("written")
		s.mutex.Unlock()
	}
}

// note counts a write that was acknowledged.
func (s *shopper) note(err error, count func()) {
	if err == nil {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		count()
	}
}

// watch notes every change of the product until the context ends.
func (s *shopper) watch(ctx context.Context, done, started chan<- struct{}) {
	defer close(done)
	for change, err := range s.Products.Watch(ctx, 0) {
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.mutex.Lock()
			s.report.Errors = append(s.report.Errors, err.Error())
			s.mutex.Unlock()
			return
		case change.Missed:
			s.mutex.Lock()
			s.report.Missed++
			s.mutex.Unlock()
		case change.Kind == cachesidecar.ChangeWatchStarted:
			close(started)
		default:
			s.mutex.Lock()
			s.report.Told = append(s.report.Told, change.Version)
			s.mutex.Unlock()
		}
	}
}

func (s *shopper) wasTold(version int64) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return len(s.report.Told) > 0 && s.report.Told[len(s.report.Told)-1] >= version
}
