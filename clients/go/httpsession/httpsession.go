// Package httpsession keeps the sessions of a net/http application in the cache sidecar.
//
//	sessions := httpsession.New(shop.Sessions, httpsession.Options{})
//	http.ListenAndServe(":8080", sessions.Handler(mux))
//
// and, in a handler:
//
//	session := httpsession.From(r.Context())
//	session.Set("currency", "EUR")
package httpsession

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"

	"github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecar"
)

// Options configure the middleware. The zero value is right for most.
type Options struct {
	// Cookie is the template of the cookie: its name, domain, path and so on. By default it is named session, and sent for
	// all paths, over HTTPS only, with SameSite=Lax. It is always HttpOnly.
	Cookie *http.Cookie
	// OnError answers a request whose session cannot be read or written. By default it gets 503 with Retry-After.
	OnError func(w http.ResponseWriter, r *http.Request, err error)
	// Client describes the browser; by default by the request's user agent, without an address, since behind a proxy the
	// request's is the proxy's.
	Client func(r *http.Request) cachesidecar.SessionClient
	// Logger is slog.Default() by default.
	Logger *slog.Logger
}

// Sessions is a middleware.
type Sessions struct {
	service *cachesidecar.SessionService
	options Options
}

// New returns a middleware.
func New(service *cachesidecar.SessionService, options Options) *Sessions {
	if options.Cookie == nil {
		options.Cookie = &http.Cookie{Name: "session", Path: "/", Secure: true, SameSite: http.SameSiteLaxMode}
	}
	if options.OnError == nil {
		options.OnError = unavailable
	}
	if options.Client == nil {
		options.Client = func(r *http.Request) cachesidecar.SessionClient {
			return cachesidecar.SessionClient{UserAgent: printable(r.UserAgent(), 512)}
		}
	}
	options.Logger = cmp.Or(options.Logger, slog.Default())
	return &Sessions{service, options}
}

// printable returns what a message can have of a header, which may be any bytes: else its visitor would get no session.
func printable(header string, most int) string {
	text := []rune(strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, header))
	return string(text[:min(len(text), most)])
}

func unavailable(w http.ResponseWriter, _ *http.Request, _ error) {
	w.Header().Set("Retry-After", "1")
	http.Error(w, "sessions are unavailable, try again", http.StatusServiceUnavailable)
}

type contextKey struct{}

// From returns the session of a request. It panics outside of Handler.
func From(ctx context.Context) *Session {
	session, ok := ctx.Value(contextKey{}).(*Session)
	if !ok {
		panic("httpsession: the request did not come through Sessions.Handler")
	}
	return session
}

// Handler gives each request its session. The session is read before next runs; what next has changed is written before the
// first byte of the response, because the cookie is part of its header. A visitor has a session, and a cookie, once something
// was set.
func (s *Sessions) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session := &Session{sessions: s, request: r, changes: map[string]*string{}}
		if err := session.load(); err != nil {
			s.fail(w, r, err)
			return
		}
		saving := &writer{ResponseWriter: w, session: session}
		next.ServeHTTP(saving, r.WithContext(context.WithValue(r.Context(), contextKey{}, session)))
		saving.save()
	})
}

func (s *Sessions) fail(w http.ResponseWriter, r *http.Request, err error) {
	s.options.Logger.ErrorContext(r.Context(), "the session cannot be read or written", "error", err)
	s.options.OnError(w, r, err)
}

// Session is what the shop keeps about a browser. It is safe for use by several goroutines of its request.
type Session struct {
	sessions *Sessions
	request  *http.Request

	mutex   sync.Mutex
	current *cachesidecar.Session // nil if there is none
	changes map[string]*string    // nil removes an attribute
	cookie  *http.Cookie          // to be set
}

func (s *Session) load() error {
	cookie, err := s.request.Cookie(s.sessions.options.Cookie.Name)
	// Longer than an id can be: not one of ours, and not worth a call.
	if err != nil || cookie.Value == "" || len(cookie.Value) > 256 {
		return nil
	}
	s.current, err = s.sessions.service.Get(s.request.Context(), cookie.Value)
	var notFound *cachesidecar.NotFoundError
	var invalid *cachesidecar.InvalidRequestError
	if errors.As(err, &notFound) || errors.As(err, &invalid) {
		return nil
	}
	return err
}

// UserID returns the user who is logged in; empty if nobody is.
func (s *Session) UserID() string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.current == nil {
		return ""
	}
	return s.current.UserID
}

// Get returns an attribute; empty if it is not set.
func (s *Session) Get(key string) string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if value, isChanged := s.changes[key]; isChanged {
		if value == nil {
			return ""
		}
		return *value
	}
	if s.current == nil {
		return ""
	}
	return s.current.Attributes[key]
}

// Set sets an attribute. It is written before the response begins; after that it is lost.
func (s *Session) Set(key, value string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.changes[key] = &value
}

// Remove removes an attribute.
func (s *Session) Remove(key string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.changes[key] = nil
}

// Login makes the session that of a user, with a new id, so that one planted before is worthless (session fixation).
func (s *Session) Login(ctx context.Context, userID string) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.current == nil {
		return s.create(ctx, userID)
	}
	// First the new id: if the second call fails, nobody is logged in with the old one.
	rotated, err := s.sessions.service.Rotate(ctx, s.current.SessionID)
	if errors.Is(err, cachesidecar.NotFound) {
		return s.create(ctx, userID) // it has expired since the request began
	}
	if err != nil {
		return err
	}
	s.use(&rotated.Session)
	update := cachesidecar.Session{SessionID: rotated.SessionID, UserID: userID}
	updated, err := s.sessions.service.Update(ctx, update, cachesidecar.Fields("user_id"))
	if err == nil {
		s.current = updated
	}
	return err
}

// Logout ends the session, and has the browser forget its cookie.
func (s *Session) Logout(ctx context.Context) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	clear(s.changes)
	if s.current == nil {
		return nil
	}
	if _, err := s.sessions.service.Delete(ctx, s.current.SessionID); err != nil && !errors.Is(err, cachesidecar.NotFound) {
		return err
	}
	s.current = nil
	s.setCookie("", -1)
	return nil
}

// create makes a session with what was set so far; the caller holds the mutex.
func (s *Session) create(ctx context.Context, userID string) error {
	attributes := map[string]string{}
	for key, value := range s.changes {
		if value != nil {
			attributes[key] = *value
		}
	}
	created, err := s.sessions.service.Create(ctx, cachesidecar.Session{
		UserID: userID, Attributes: attributes, Client: s.sessions.options.Client(s.request)})
	if err != nil {
		return err
	}
	clear(s.changes)
	s.use(created)
	return nil
}

// use makes a session with a new id the one of the browser.
func (s *Session) use(session *cachesidecar.Session) {
	s.current = session
	s.setCookie(session.SessionID, 0)
}

func (s *Session) setCookie(value string, maxAge int) {
	cookie := *s.sessions.options.Cookie
	cookie.Value, cookie.HttpOnly = value, true
	if maxAge != 0 {
		cookie.MaxAge = maxAge
	}
	s.cookie = &cookie
}

// save writes what was changed; only that, so that two requests of one browser do not undo each other's changes.
func (s *Session) save(ctx context.Context) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if len(s.changes) == 0 {
		return nil
	}
	if s.current != nil {
		update := cachesidecar.Session{SessionID: s.current.SessionID, Attributes: map[string]string{}}
		var fields []string
		for key, value := range s.changes {
			fields = append(fields, "attributes."+key)
			if value != nil {
				update.Attributes[key] = *value
			}
		}
		updated, err := s.sessions.service.Update(ctx, update, cachesidecar.Fields(fields...))
		if err == nil {
			s.current = updated
			clear(s.changes)
		}
		if !errors.Is(err, cachesidecar.NotFound) {
			return err
		}
		// It has ended since the request began, perhaps in a logout everywhere: what was set goes to a new one, of nobody.
		s.current = nil
	}
	maps.DeleteFunc(s.changes, func(_ string, value *string) bool { return value == nil })
	if len(s.changes) == 0 {
		return nil
	}
	return s.create(ctx, "")
}

// writer saves the session before the first byte.
type writer struct {
	http.ResponseWriter
	session *Session
	isSaved bool
	failed  bool
}

// save writes the session and sets its cookie, once. If that fails, the response is OnError's.
func (w *writer) save() {
	if w.isSaved {
		return
	}
	w.isSaved = true
	if err := w.session.save(w.session.request.Context()); err != nil {
		w.failed = true
		w.session.sessions.fail(w.ResponseWriter, w.session.request, err)
		return
	}
	w.session.mutex.Lock()
	defer w.session.mutex.Unlock()
	if w.session.cookie != nil {
		http.SetCookie(w.ResponseWriter, w.session.cookie)
		// What belongs to one visitor is not for caches.
		w.Header().Add("Vary", "Cookie")
	}
}

// WriteHeader saves the session first.
func (w *writer) WriteHeader(status int) {
	// Informational headers may be followed by others.
	if status >= 200 {
		w.save()
	}
	if !w.failed {
		w.ResponseWriter.WriteHeader(status)
	}
}

// Write saves the session first.
func (w *writer) Write(data []byte) (int, error) {
	w.save()
	if w.failed {
		return len(data), nil // the response is an error already
	}
	return w.ResponseWriter.Write(data)
}

// Flush saves the session first.
func (w *writer) Flush() {
	w.save()
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController reach what is below.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
