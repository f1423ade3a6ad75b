// A shop's pages, called as `clients/README.md` tells Go to: see `tests/interop/test_service_config.py`.
//
//	shop TARGET CONFIG PLAN
package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// What a user asks for, as a method's path and the request in hexadecimal.
type plan struct {
	Deadline float64
	Once     []string
	Users    [][][]string
}

// raw sends and takes messages as they are on the wire.
type raw struct{}

func (raw) Name() string                        { return "proto" }
func (raw) Marshal(message any) ([]byte, error) { return message.([]byte), nil }
func (raw) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = data
	return nil
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	config, err := os.ReadFile(os.Args[2])
	check(err)
	file, err := os.ReadFile(os.Args[3])
	check(err)
	var todo plan
	check(json.Unmarshal(file, &todo))
	reconnect := backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}
	channel, err := grpc.NewClient(os.Args[1],
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(string(config)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: time.Second}))
	check(err)
	call := func(one []string) error {
		ctx := context.Background()
		if todo.Deadline > 0 {
			limited, cancel := context.WithTimeout(ctx, time.Duration(todo.Deadline*float64(time.Second)))
			defer cancel()
			ctx = limited
		}
		request, err := hex.DecodeString(one[1])
		check(err)
		var reply []byte
		return channel.Invoke(ctx, one[0], request, &reply, grpc.ForceCodec(raw{}))
	}
	if todo.Once != nil {
		began := time.Now()
		code := status.Code(call(todo.Once))
		names := map[codes.Code]string{codes.OK: "OK", codes.DeadlineExceeded: "DEADLINE_EXCEEDED"}
		check(json.NewEncoder(os.Stdout).Encode(map[string]any{"code": names[code], "seconds": time.Since(began).Seconds()}))
		return
	}
	var isOver atomic.Bool
	go func() {
		io.Copy(io.Discard, os.Stdin)
		isOver.Store(true)
	}()
	var lock sync.Mutex
	failed := []string{}
	var users sync.WaitGroup
	for _, page := range todo.Users {
		users.Go(func() {
			for !isOver.Load() {
				for _, one := range page {
					if err := call(one); err != nil {
						lock.Lock()
						failed = append(failed, one[0]+": "+err.Error())
						lock.Unlock()
					}
				}
				fmt.Println("page")
			}
		})
	}
	users.Wait()
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{"failed": failed}))
}
