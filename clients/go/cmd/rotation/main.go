// Command rotation reads a product for each line that it reads, and prints what came of it, while the TLS files are replaced
// that its environment names; see tests/clients/test_rotation.py.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecar"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	// Longer than any connection takes on a busy machine.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	shop, err := cachesidecar.Dial(ctx,
		cachesidecar.WithAddress(os.Getenv("CONFORMANCE_ADDRESS")),
		cachesidecar.WithTLS(cachesidecar.TLSFiles{
			CA: os.Getenv("CONFORMANCE_CA"), Cert: os.Getenv("CONFORMANCE_CERT"), Key: os.Getenv("CONFORMANCE_KEY"),
		}))
	if err != nil {
		return err
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		_, err := shop.Products.Get(ctx, "none", cachesidecar.Timeout(2*time.Minute))
		if errors.Is(err, cachesidecar.NotFound) {
			fmt.Println("NOT_FOUND")
		} else {
			fmt.Println(err)
		}
	}
	return shop.Close()
}
