package httpsession

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecar"
	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

// keeper keeps sessions in memory, as far as these tests look: the example is tested with a real sidecar.
type keeper struct {
	pb.UnimplementedSessionServiceServer
	mutex    sync.Mutex
	sessions map[string]*pb.Session
	updates  []*pb.UpdateSessionRequest
	ids      int
	isAway   bool
}

func (k *keeper) newID() string {
	k.ids++
	return "id-" + strconv.Itoa(k.ids)
}

func (k *keeper) find(id string) (*pb.Session, error) {
	if k.isAway {
		return nil, status.Error(codes.Internal, "away")
	}
	if session, isThere := k.sessions[id]; isThere {
		return session, nil
	}
	s, _ := status.New(codes.NotFound, "none").WithDetails(&errdetails.ErrorInfo{Reason: "NOT_FOUND", Domain: "cache-sidecar.io"})
	return nil, s.Err()
}

func (k *keeper) CreateSession(_ context.Context, r *pb.CreateSessionRequest) (*pb.CreateSessionResponse, error) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	id := k.newID()
	k.sessions[id] = &pb.Session{UserId: r.UserId, Attributes: r.Attributes, Client: r.Client}
	return &pb.CreateSessionResponse{SessionId: id, Session: proto.Clone(k.sessions[id]).(*pb.Session)}, nil
}

func (k *keeper) GetSession(_ context.Context, r *pb.GetSessionRequest) (*pb.GetSessionResponse, error) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	session, err := k.find(r.SessionId)
	if err != nil {
		return nil, err
	}
	return &pb.GetSessionResponse{Session: proto.Clone(session).(*pb.Session)}, nil
}

func (k *keeper) UpdateSession(_ context.Context, r *pb.UpdateSessionRequest) (*pb.UpdateSessionResponse, error) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	session, err := k.find(r.Session.SessionId)
	if err != nil {
		return nil, err
	}
	k.updates = append(k.updates, r)
	for _, path := range r.UpdateMask.Paths {
		if path == "user_id" {
			session.UserId = r.Session.UserId
			continue
		}
		key := path[len("attributes."):]
		delete(session.Attributes, key)
		if value, isThere := r.Session.Attributes[key]; isThere {
			session.Attributes[key] = value
		}
	}
	return &pb.UpdateSessionResponse{Session: proto.Clone(session).(*pb.Session)}, nil
}

func (k *keeper) RotateSession(_ context.Context, r *pb.RotateSessionRequest) (*pb.RotateSessionResponse, error) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	session, err := k.find(r.SessionId)
	if err != nil {
		return nil, err
	}
	id := k.newID()
	delete(k.sessions, r.SessionId)
	k.sessions[id] = session
	return &pb.RotateSessionResponse{SessionId: id, Session: proto.Clone(session).(*pb.Session)}, nil
}

func (k *keeper) DeleteSession(_ context.Context, r *pb.DeleteSessionRequest) (*pb.DeleteSessionResponse, error) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	delete(k.sessions, r.SessionId)
	return &pb.DeleteSessionResponse{}, nil
}

// open returns the keeper, and a browser of an application with this handler.
func open(t *testing.T, handler http.HandlerFunc) (*keeper, func(path string) *http.Response) {
	k := &keeper{sessions: map[string]*pb.Session{}}
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterSessionServiceServer(server, k)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	shop, err := cachesidecar.Dial(context.Background(), cachesidecar.WithAddress("unix:"+path), cachesidecar.WithoutWaiting(),
		cachesidecar.WithTimeouts(time.Minute, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shop.Close() })
	quiet := slog.New(slog.DiscardHandler)
	cookie := &http.Cookie{Name: "session", Path: "/", SameSite: http.SameSiteLaxMode}
	application := httptest.NewServer(New(shop.Sessions, Options{Cookie: cookie, Logger: quiet}).Handler(handler))
	t.Cleanup(application.Close)
	jar, _ := cookiejar.New(nil)
	browser := &http.Client{Jar: jar}
	t.Cleanup(browser.CloseIdleConnections)
	return k, func(path string) *http.Response {
		reply, err := browser.Get(application.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { reply.Body.Close() })
		return reply
	}
}

func body(t *testing.T, reply *http.Response) string {
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestAVisitorWithoutDataHasNoSession(t *testing.T) {
	k, visit := open(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, From(r.Context()).Get("x")) })
	if reply := visit("/"); len(reply.Cookies()) != 0 || len(k.sessions) != 0 {
		t.Error("a session was made for nothing")
	}
}

func TestABrowserOfAnyNameHasASession(t *testing.T) {
	request := httptest.NewRequest(http.MethodGet, "/", nil)
	agent := func(header string) string {
		request.Header.Set("User-Agent", header)
		return New(nil, Options{}).options.Client(request).UserAgent
	}
	if got := agent("Caf\xe9\t\x7f1"); got != "Caf\ufffd  1" {
		t.Errorf("%q", got)
	}
	if got := agent(strings.Repeat("é", 600)); got != strings.Repeat("é", 512) {
		t.Errorf("%q", got)
	}
}

func TestOnlyWhatChangedIsWrittenAndBeforeTheResponse(t *testing.T) {
	k, visit := open(t, func(w http.ResponseWriter, r *http.Request) {
		session := From(r.Context())
		switch r.URL.Path {
		case "/first":
			session.Set("a", "1")
			session.Set("b", "2")
			_, _ = io.WriteString(w, session.Get("a"))
			session.Set("late", "lost")
		case "/second":
			session.Remove("a")
			w.WriteHeader(http.StatusAccepted)
		default:
			_, _ = io.WriteString(w, session.Get("a")+session.Get("b")+session.Get("late"))
		}
	})
	first := visit("/first")
	if text := body(t, first); text != "1" || len(first.Cookies()) != 1 || !first.Cookies()[0].HttpOnly {
		t.Fatal(text, first.Cookies())
	}
	if first.Header.Get("Vary") != "Cookie" {
		t.Error("a cache may keep it for others")
	}
	if second := visit("/second"); second.StatusCode != http.StatusAccepted || len(second.Cookies()) != 0 {
		t.Error(second.Status, second.Cookies())
	}
	if len(k.updates) != 1 || len(k.updates[0].UpdateMask.Paths) != 1 || k.updates[0].UpdateMask.Paths[0] != "attributes.a" {
		t.Errorf("wrote %v", k.updates)
	}
	if text := body(t, visit("/")); text != "2" {
		t.Errorf("kept %q", text)
	}
}

func TestALoginHasANewID(t *testing.T) {
	k, visit := open(t, func(w http.ResponseWriter, r *http.Request) {
		session := From(r.Context())
		switch r.URL.Path {
		case "/login":
			session.Set("basket", "mug")
			if err := session.Login(r.Context(), "ada"); err != nil {
				t.Error(err)
			}
		case "/logout":
			if err := session.Logout(r.Context()); err != nil {
				t.Error(err)
			}
		case "/set":
			session.Set("seen", "yes")
		}
		_, _ = io.WriteString(w, session.UserID()+session.Get("seen")+session.Get("basket"))
	})
	before := visit("/set").Cookies()[0].Value
	login := visit("/login")
	if text := body(t, login); text != "adayesmug" || login.Cookies()[0].Value == before || len(k.sessions) != 1 {
		t.Error(text, login.Cookies(), k.sessions)
	}
	if text := body(t, visit("/")); text != "adayesmug" {
		t.Error(text)
	}
	if out := visit("/logout"); out.Cookies()[0].MaxAge >= 0 || len(k.sessions) != 0 {
		t.Error(out.Cookies(), k.sessions)
	}
}

func TestAnEndedSessionIsFollowedByANewOne(t *testing.T) {
	k, visit := open(t, func(w http.ResponseWriter, r *http.Request) { From(r.Context()).Set("a", r.URL.Path) })
	visit("/1")
	clear(k.sessions) // logged out everywhere
	if reply := visit("/2"); len(reply.Cookies()) != 1 || len(k.sessions) != 1 {
		t.Error(reply.Cookies(), k.sessions)
	}
}

func TestWithoutItsSessionARequestIsTurnedAway(t *testing.T) {
	handled := 0
	k, visit := open(t, func(w http.ResponseWriter, r *http.Request) {
		handled++
		From(r.Context()).Set("a", "1")
		_, _ = io.WriteString(w, "secret")
	})
	visit("/")
	k.isAway = true
	reply := visit("/")
	if reply.StatusCode != http.StatusServiceUnavailable || reply.Header.Get("Retry-After") == "" || handled != 1 {
		t.Error(reply.Status, handled)
	}
}
