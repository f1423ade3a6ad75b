// Command conformance runs the scenarios of clients/conformance with this library, as its README describes: everything is given
// by environment variables, and each case becomes a line of JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecar"
)

// testCase is a scenario.
type testCase struct {
	Name    string
	Through string
	Steps   []step
}

// step is one call of a case.
type step struct {
	Call    string
	Args    map[string]any
	Options map[string]any
	Save    map[string]string
	Where   map[string]any
	Take    int
	During  []step
}

// outcome is the line that is printed about a case.
type outcome struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Got  []any  `json:"got"`
	Why  string `json:"why,omitempty"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	text, err := os.ReadFile(os.Getenv("CONFORMANCE_CASES"))
	if err != nil {
		return err
	}
	var suite struct{ Cases []testCase }
	if err := json.Unmarshal(text, &suite); err != nil {
		return err
	}
	direct, err := openShop(os.Getenv("CONFORMANCE_ADDRESS"), true)
	if err != nil {
		return err
	}
	defer direct.close()
	var faulty *shop // opened when the first case needs it
	printer := json.NewEncoder(os.Stdout)
	for _, one := range suite.Cases {
		if !strings.Contains(one.Name, os.Getenv("CONFORMANCE_ONLY")) {
			continue
		}
		target := direct
		if one.Through == "faults" {
			if faulty == nil {
				if faulty, err = openShop(os.Getenv("CONFORMANCE_FAULTS"), false); err != nil {
					return err
				}
				defer faulty.close()
			}
			if _, err := faults("clear", nil); err != nil {
				return err
			}
			target = faulty
		}
		if err := printer.Encode(target.run(one)); err != nil {
			return err
		}
	}
	return nil
}

// shop is the clients of one address: what only some cases are about, such as joined gets, is not on in the others.
type shop struct {
	*cachesidecar.Client
	joined *cachesidecar.Client
}

func openShop(address string, mayHaveTLS bool) (*shop, error) {
	options := []cachesidecar.Option{
		cachesidecar.WithAddress(address),
		cachesidecar.WithLogger(slog.New(slog.NewTextHandler(os.Stderr, nil))),
	}
	if file := os.Getenv("CONFORMANCE_TOKEN_FILE"); file != "" {
		options = append(options, cachesidecar.WithTokenFile(file))
	}
	if ca := os.Getenv("CONFORMANCE_CA"); ca != "" && mayHaveTLS {
		options = append(options, cachesidecar.WithTLS(cachesidecar.TLSFiles{
			CA: ca, Cert: os.Getenv("CONFORMANCE_CERT"), Key: os.Getenv("CONFORMANCE_KEY"),
			ServerName: os.Getenv("CONFORMANCE_SERVER_NAME"),
		}))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	client, err := cachesidecar.Dial(ctx, options...)
	if err != nil {
		return nil, err
	}
	joined, err := cachesidecar.Dial(ctx, append(options, cachesidecar.WithJoinedGets(2*time.Millisecond))...)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return &shop{client, joined}, nil
}

func (s *shop) close() {
	s.Close()
	s.joined.Close()
}

// run executes the steps of a case, one after the other.
func (s *shop) run(one testCase) outcome {
	names := variables{"run": os.Getenv("CONFORMANCE_RUN")}
	done := outcome{Name: one.Name, OK: true, Got: []any{}}
	for _, step := range one.Steps {
		got, err := s.step(step, names)
		if err != nil {
			done.OK, done.Why = false, fmt.Sprintf("%s: %v", step.Call, err)
			break
		}
		done.Got = append(done.Got, got)
	}
	return done
}

// step makes one call and returns its result, which may be an error of the sidecar. An error is the program's own: it cannot
// go on.
func (s *shop) step(one step, names variables) (any, error) {
	filled, err := names.fill(one.Args)
	if err != nil {
		return nil, err
	}
	args, _ := filled.(map[string]any)
	ctx := context.Background()
	if seconds, ok := one.Options["timeout"].(float64); ok {
		limited, cancel := context.WithTimeout(ctx, time.Duration(seconds*float64(time.Second)))
		defer cancel()
		ctx = limited
	}
	var result any
	if watch, isWatch := watches[one.Call]; isWatch {
		where, err := names.fill(one.Where)
		if err != nil {
			return nil, err
		}
		result, err = s.watch(ctx, watch, one, args, where.(map[string]any), names)
		if err != nil {
			return nil, err
		}
	} else {
		call, isKnown := calls[one.Call]
		if !isKnown {
			return nil, errors.New("this program does not know the call")
		}
		if result, err = attempt(ctx, call, s, request{args, one.Options}); err != nil {
			return nil, err
		}
	}
	for name, path := range one.Save {
		value, err := at(result, path)
		if err != nil {
			return nil, err
		}
		names[name] = value
	}
	return result, nil
}

// attempt returns the result of a call, or an error if the program cannot read its arguments.
func attempt(ctx context.Context, make call, s *shop, r request) (result any, err error) {
	defer func() {
		switch unread := recover().(type) {
		case nil:
		case broken:
			err = unread
		default:
			panic(unread)
		}
	}()
	if result, err = make(ctx, s, r); err != nil {
		return failure(err)
	}
	return result, nil
}
