package cachesidecar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

const (
	// AddressVariable and SocketVariable are what the sidecar's injector sets in the containers of a pod.
	AddressVariable = "CACHE_SIDECAR_ADDRESS"
	SocketVariable  = "CACHE_SIDECAR_SOCKET"
	defaultSocket   = "/run/cache-sidecar/grpc.sock"
	defaultAddress  = "127.0.0.1:50051"
	// The most that max_message_bytes of a sidecar can be, so that no reply is too large to be received.
	maxReplyBytes = 64 << 20
	// How long Dial waits if the context has no deadline.
	defaultPatience = 30 * time.Second
)

var (
	errStreamEnded  = status.Error(codes.Unavailable, "the sidecar ended the stream")
	errNoConnection = status.Error(codes.Unavailable, "there is no connection to the sidecar")
	errNotServing   = status.Error(codes.Unavailable, "the sidecar is starting or stopping")
)

// Client calls one sidecar. It is safe for use by any number of goroutines; one per process is enough.
type Client struct {
	Products        *ProductService
	Sessions        *SessionService
	Carts           *CartService
	Inventory       *InventoryService
	Events          *EventService
	Recommendations *RecommendationService
	Admin           *AdminService

	address       string
	conn          *grpc.ClientConn
	token         *tokenFile
	timeouts      [3]time.Duration
	fallbackAfter time.Duration
	loaders       chan struct{}
	isFallenBack  atomic.Bool
	hooks         Hooks
	logger        *slog.Logger
	counters      counters

	stop       context.CancelFunc
	closed     atomic.Bool
	background sync.WaitGroup
}

// Option is an option of Dial.
type Option func(*config)

type config struct {
	address       string
	tls           *TLSFiles
	tokenFile     string
	timeouts      [3]time.Duration
	fallbackAfter time.Duration
	loaders       int
	joinWindow    time.Duration
	l0Entries     int
	l0Age         time.Duration
	hooks         Hooks
	logger        *slog.Logger
	lazy          bool
	dialOptions   []grpc.DialOption
}

// WithAddress names the sidecar: host:port, or unix:/path/of/the/socket. The default is the environment's
// CACHE_SIDECAR_ADDRESS, then CACHE_SIDECAR_SOCKET, then /run/cache-sidecar/grpc.sock if it is there, then 127.0.0.1:50051.
func WithAddress(address string) Option { return func(c *config) { c.address = address } }

// WithTLS encrypts the connection, and presents a certificate if the files have one. Changed files are used by the next
// connection; while they cannot be used, which is logged, those from before.
func WithTLS(files TLSFiles) Option { return func(c *config) { c.tls = &files } }

// WithTokenFile sends the token in a file with each call. A changed file is read again within a second.
func WithTokenFile(path string) Option { return func(c *config) { c.tokenFile = path } }

// WithTimeouts sets how long calls may take whose context has no deadline, with all their repetitions. The defaults are 2 s
// for reads and 5 s for writes.
func WithTimeouts(reads, writes time.Duration) Option {
	return func(c *config) { c.timeouts[read], c.timeouts[write] = reads, writes }
}

// WithFallbackLimits sets after how long a read with a Fallback stops waiting for the sidecar (250 ms by default, at most
// half of the time that it has), and how many loaders may run at once (16).
func WithFallbackLimits(after time.Duration, concurrent int) Option {
	return func(c *config) { c.fallbackAfter, c.loaders = after, concurrent }
}

// WithJoinedGets sends the Gets of a product, and those of an inventory, that begin within a window as one batch: a few
// hundred microseconds, such as 300*time.Microsecond, by which each of them is delayed. For applications that make many at once.
func WithJoinedGets(window time.Duration) Option { return func(c *config) { c.joinWindow = window } }

// WithL0 keeps products in this process: at most so many, for so long (10 s, the sidecar's own bound, is a good value). A
// watch drops those that change, within the time that the change takes to be streamed; while the watch is broken, nothing is
// kept. A product is never older than the sidecar's bound plus maxAge.
func WithL0(maxEntries int, maxAge time.Duration) Option {
	return func(c *config) { c.l0Entries, c.l0Age = maxEntries, maxAge }
}

// WithHooks lets metrics and traces see what the client does.
func WithHooks(hooks Hooks) Option { return func(c *config) { c.hooks = hooks } }

// WithLogger sets where the client logs the few lines that it has; the default is slog.Default().
func WithLogger(logger *slog.Logger) Option { return func(c *config) { c.logger = logger } }

// WithoutWaiting has Dial return before the sidecar is ready, or is there.
func WithoutWaiting() Option { return func(c *config) { c.lazy = true } }

// WithDialOptions passes options to gRPC, such as a stats.Handler of OpenTelemetry.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(c *config) { c.dialOptions = append(c.dialOptions, options...) }
}

// Dial returns a client once its sidecar is ready, or an error when the context ends (after 30 s, if it has no deadline).
// Close it at the end.
func Dial(ctx context.Context, options ...Option) (*Client, error) {
	settings := config{
		timeouts:      [3]time.Duration{2 * time.Second, 5 * time.Second, 30 * time.Second},
		fallbackAfter: 250 * time.Millisecond,
		loaders:       16,
		logger:        slog.Default(),
	}
	for _, option := range options {
		option(&settings)
	}
	settings.address = cmp.Or(settings.address, addressFromEnvironment())
	if err := settings.check(); err != nil {
		return nil, err
	}
	client, err := settings.open()
	if err != nil || settings.lazy {
		return client, err
	}
	if err := client.Ready(ctx); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return client, nil
}

func addressFromEnvironment() string {
	if address := os.Getenv(AddressVariable); address != "" {
		return address
	}
	if socket := os.Getenv(SocketVariable); socket != "" {
		return "unix:" + socket
	}
	if _, err := os.Stat(defaultSocket); err == nil {
		return "unix:" + defaultSocket
	}
	return defaultAddress
}

func (c *config) check() error {
	if c.tokenFile != "" && c.tls == nil && !isLocal(c.address) {
		return fmt.Errorf("cachesidecar: the token would be sent to %s in clear text: use WithTLS", c.address)
	}
	if c.l0Entries < 0 || (c.l0Entries > 0) != (c.l0Age > 0) {
		return fmt.Errorf("cachesidecar: WithL0(%d, %s) keeps nothing: both must be greater than 0", c.l0Entries, c.l0Age)
	}
	if c.loaders < 1 || c.fallbackAfter <= 0 {
		return fmt.Errorf("cachesidecar: WithFallbackLimits(%s, %d): both must be greater than 0", c.fallbackAfter, c.loaders)
	}
	for _, timeout := range c.timeouts {
		if timeout <= 0 {
			return fmt.Errorf("cachesidecar: a timeout of %s leaves no time for a call", timeout)
		}
	}
	return nil
}

// isLocal returns whether nobody else can listen to what is sent to an address.
func isLocal(address string) bool {
	if strings.HasPrefix(address, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

func (c *config) open() (*Client, error) {
	token, err := newTokenFile(c.tokenFile, c.logger)
	if err != nil {
		return nil, err
	}
	transport := insecure.NewCredentials()
	if c.tls != nil {
		if transport, err = newFileCredentials(*c.tls, c.logger); err != nil {
			return nil, err
		}
	}
	dialOptions := append([]grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		// Here it is decided what is made again; gRPC itself repeats only what the server has not seen.
		grpc.WithDisableRetry(),
		grpc.WithNoProxy(),
		grpc.WithConnectParams(grpc.ConnectParams{
			// At most a second apart, jitter included: the sidecar is on the same machine.
			Backoff: backoff.Config{
				BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 800 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(maxReplyBytes)),
		// A service config of the resolver could set other timeouts and repetitions.
		grpc.WithDisableServiceConfig(),
	}, c.dialOptions...)
	if token != nil {
		dialOptions = append(dialOptions, grpc.WithPerRPCCredentials(token))
	}
	conn, err := grpc.NewClient(c.address, dialOptions...)
	if err != nil {
		return nil, fmt.Errorf("cachesidecar: %q is no address: use host:port or unix:/path: %w", c.address, err)
	}
	background, stop := context.WithCancel(context.Background())
	client := &Client{
		address: c.address, conn: conn, token: token, timeouts: c.timeouts, fallbackAfter: c.fallbackAfter,
		loaders: make(chan struct{}, c.loaders), hooks: c.hooks, logger: c.logger, stop: stop,
	}
	client.Products = newProducts(client, c)
	client.Sessions = &SessionService{client}
	client.Carts = &CartService{client}
	client.Inventory = newInventory(client, c)
	client.Events = &EventService{client}
	client.Recommendations = &RecommendationService{client}
	client.Admin = &AdminService{client}
	if l := client.Products.l0; l != nil {
		client.background.Add(2)
		go func() { defer client.background.Done(); client.feedL0(background, l) }()
		go func() { defer client.background.Done(); client.beat(background, l) }()
	}
	return client, nil
}

// Ready waits until the sidecar says that it serves, or the context ends (after 30 s, if it has no deadline).
func (c *Client) Ready(ctx context.Context) error {
	if _, has := ctx.Deadline(); !has {
		limited, cancel := context.WithTimeout(ctx, defaultPatience)
		defer cancel()
		ctx = limited
	}
	for {
		reply, err := grpc_health_v1.NewHealthClient(c.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		if err == nil && reply.Status == grpc_health_v1.HealthCheckResponse_SERVING {
			return nil
		}
		failed := errNotServing
		if err != nil {
			failed = err
		}
		if code := status.Code(failed); code != codes.Unavailable && code != codes.Canceled || !sleep(ctx, firstPause) {
			return fmt.Errorf("cachesidecar: the sidecar at %s is not ready: %w", c.address,
				errorFrom(failed, grpc_health_v1.Health_Check_FullMethodName, 1, nil))
		}
	}
}

// Conn returns the connection, for bare stubs: pb.NewProductServiceClient(client.Conn()). What the client does for each call,
// such as deadlines, repetitions and typed errors, they do not have.
func (c *Client) Conn() *grpc.ClientConn { return c.conn }

// Address returns where the sidecar is.
func (c *Client) Address() string { return c.address }

// Close ends calls in progress, watches and the connection, and returns when nothing of the client runs any more.
func (c *Client) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.stop()
	err := c.conn.Close()
	c.background.Wait()
	return err
}

func (c *Client) isClosed() bool { return c.closed.Load() }
