package cachesidecar

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// tokenLooked is how long a token is used before its file is looked at again.
const tokenLooked = time.Second

// tokenFile sends the token in a file with each call. A nil one sends none.
type tokenFile struct {
	path   string
	logger *slog.Logger
	mutex  sync.Mutex
	token  string
	looked time.Time
	isBad  bool // whether that is not what is in the file, which has been logged
}

func newTokenFile(path string, logger *slog.Logger) (*tokenFile, error) {
	if path == "" {
		return nil, nil
	}
	token, err := readToken(path)
	if err != nil {
		return nil, err
	}
	return &tokenFile{path: path, logger: logger, token: token, looked: time.Now()}, nil
}

// tokenSyntax is that of RFC 6750, 2.1. Of other text gRPC makes errors that do not say what is wrong.
var tokenSyntax = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

// readToken returns the token in the first line that has one: a token, or a name, roles and a token as in the sidecar's own file.

func readToken(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("cachesidecar: cannot read the token: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		token := words[len(words)-1]
		if !tokenSyntax.MatchString(token) {
			return "", fmt.Errorf("cachesidecar: %s has no token: a token has only letters, digits and -._~+/", path)
		}
		return token, nil
	}
	return "", fmt.Errorf("cachesidecar: %s has no token: it is empty", path)
}

// current returns the token, which is read again if that was long ago.
func (t *tokenFile) current() string {
	if t == nil {
		return ""
	}
	t.mutex.Lock()
	isRecent := time.Since(t.looked) < tokenLooked
	token := t.token
	t.mutex.Unlock()
	if isRecent {
		return token
	}
	return t.reread()
}

// reread returns the token as it is in the file now. While it has none, as in the middle of a rotation, the last one.
func (t *tokenFile) reread() string {
	if t == nil {
		return ""
	}
	token, err := readToken(t.path)
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.looked = time.Now()
	if err == nil {
		t.token = token
	} else if !t.isBad {
		t.logger.Warn("the changed token file is ignored, the token from before stays in use", "error", err)
	}
	t.isBad = err != nil
	return t.token
}

// GetRequestMetadata is gRPC's question for what to send with a call.
func (t *tokenFile) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + t.current()}, nil
}

// RequireTransportSecurity returns false: Dial has refused to send a token in clear text to another machine.
func (t *tokenFile) RequireTransportSecurity() bool { return false }

// TLSFiles are PEM files, which are read for each new connection. While one of them cannot be used, as in the middle of a
// rotation, those of the connection before count.
type TLSFiles struct {
	// CA has the certificates that the sidecar's is checked with; empty for the system's.
	CA string
	// Cert and Key are the client's own certificate, for mutual TLS; both or neither.
	Cert, Key string
	// ServerName is the name in the sidecar's certificate, if it is not the host of the address.
	ServerName string
}

func (f TLSFiles) config() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.ServerName}
	if f.CA != "" {
		text, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("cachesidecar: cannot read the CA: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) || isCut(text) {
			return nil, fmt.Errorf("cachesidecar: %s has no whole certificates in PEM", f.CA)
		}
	}
	if f.Cert != "" || f.Key != "" {
		certificate, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("cachesidecar: cannot read the client's certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{certificate}
	}
	return config, nil
}

// isCut returns whether the end of a PEM file is missing: its writer is not done yet.
func isCut(text []byte) bool {
	for block := (*pem.Block)(nil); ; {
		if block, text = pem.Decode(text); block == nil {
			return bytes.Contains(text, []byte("-----BEGIN"))
		}
	}
}

// fileCredentials reads the files for each handshake, so that a renewed certificate needs no restart.
type fileCredentials struct {
	files  TLSFiles
	logger *slog.Logger
	mutex  sync.Mutex
	last   *tls.Config // what could be used last
	isBad  bool        // whether that is not what is in the files, which has been logged
}

func newFileCredentials(files TLSFiles, logger *slog.Logger) (*fileCredentials, error) {
	config, err := files.config()
	if err != nil {
		return nil, err
	}
	return &fileCredentials{files: files, logger: logger, last: config}, nil
}

// current returns what the files say now; if they cannot be used, what they said before.
func (c *fileCredentials) current() *tls.Config {
	config, err := c.files.config()
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if err == nil {
		c.last = config
	} else if !c.isBad {
		c.logger.Warn("the changed TLS files are ignored, those from before stay in use", "error", err)
	}
	c.isBad = err != nil
	return c.last
}

// ClientHandshake makes a TLS connection with the files as they are now.
func (c *fileCredentials) ClientHandshake(
	ctx context.Context, authority string, conn net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(c.current()).ClientHandshake(ctx, authority, conn)
}

// ServerHandshake is for servers.
func (c *fileCredentials) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("cachesidecar: these are the credentials of a client")
}

// Info says that it is TLS.
func (c *fileCredentials) Info() credentials.ProtocolInfo {
	return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.files.ServerName}).Info()
}

// Clone returns credentials of the same files; what was read of them is known to both.
func (c *fileCredentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName is deprecated: TLSFiles has the name.
func (c *fileCredentials) OverrideServerName(string) error {
	return errors.New("cachesidecar: set TLSFiles.ServerName")
}
