// Command reads reads products by the library and by the bare stub, to be compared by `make bench ONLY='client_go*'`.
//
//	reads KIND JOB.json      # the job: {"address", "keys", "workers"}
//
// KIND is bare, client, joined or l0. It prints "ready", and for each number of seconds that it reads, what it has measured, as
// JSON.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecar"
	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

type job struct {
	Address string
	Keys    []string
	Workers int
}

type result struct {
	Calls       int                `json:"calls"`
	Seconds     float64            `json:"seconds"`
	Percentiles map[string]float64 `json:"percentiles_us"`
}

type readFunc func(productID string) error

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(kind, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var j job
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	// How many are read between two looks at the clock: a read of L0 takes about as long as one.
	runs := 1
	if kind == "l0" {
		runs = 100
	}
	read, err := readOf(kind, j)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		seconds, err := strconv.ParseFloat(lines.Text(), 64)
		if err != nil {
			return err
		}
		measured, err := measure(read, j, time.Duration(seconds*float64(time.Second)), runs)
		if err != nil {
			return err
		}
		if err := json.NewEncoder(os.Stdout).Encode(measured); err != nil {
			return err
		}
	}
	return nil
}

func readOf(kind string, j job) (readFunc, error) {
	ctx := context.Background()
	if kind == "bare" {
		conn, err := grpc.NewClient(j.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, err
		}
		stub := pb.NewProductServiceClient(conn)
		return func(productID string) error {
			// With a deadline, as every call needs one.
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			_, err := stub.GetProduct(ctx, &pb.GetProductRequest{ProductId: productID})
			return err
		}, nil
	}
	options := []cachesidecar.Option{cachesidecar.WithAddress(j.Address)}
	switch kind {
	case "joined":
		options = append(options, cachesidecar.WithJoinedGets(300*time.Microsecond))
	case "l0":
		options = append(options, cachesidecar.WithL0(10_000, time.Hour))
	}
	shop, err := cachesidecar.Dial(ctx, options...)
	if err != nil {
		return nil, err
	}
	for _, key := range j.Keys {
		for kind == "l0" {
			product, err := shop.Products.Get(ctx, key)
			if err != nil {
				return nil, err
			}
			if product.Cache.Local {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return func(productID string) error {
		_, err := shop.Products.Get(ctx, productID)
		return err
	}, nil
}

func measure(read readFunc, j job, duration time.Duration, runs int) (result, error) {
	var next atomic.Int64
	var working sync.WaitGroup
	times := make([][]float64, j.Workers)
	failures := make([]error, j.Workers)
	began := time.Now()
	for worker := range j.Workers {
		working.Add(1)
		go func() {
			defer working.Done()
			for before := time.Now(); before.Sub(began) < duration; {
				for range runs {
					if err := read(j.Keys[int(next.Add(1))%len(j.Keys)]); err != nil {
						failures[worker] = err
						return
					}
				}
				now := time.Now()
				times[worker] = append(times[worker], float64(now.Sub(before).Nanoseconds())/1000/float64(runs))
				before = now
			}
		}()
	}
	working.Wait()
	took := time.Since(began)
	for _, err := range failures {
		if err != nil {
			return result{}, err
		}
	}
	all := slices.Concat(times...)
	slices.Sort(all)
	return result{
		Calls:       len(all) * runs,
		Seconds:     took.Seconds(),
		Percentiles: map[string]float64{"50": all[len(all)*50/100], "99": all[len(all)*99/100]},
	}, nil
}
