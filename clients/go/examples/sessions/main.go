// Command sessions is a shop of one page that remembers its visitors: go run ./examples/sessions, then open the address that it
// prints. PORT=0 chooses a free port.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"

	"github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecar"
	"github.com/cache-sidecar/cache-sidecar/clients/go/httpsession"
)

func main() {
	shop, err := cachesidecar.Dial(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	defer shop.Close()
	// Without HTTPS on this machine, browsers would not send a cookie that is Secure.
	cookie := &http.Cookie{Name: "session", Path: "/", SameSite: http.SameSiteLaxMode}
	sessions := httpsession.New(shop.Sessions, httpsession.Options{Cookie: cookie})
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", cmp.Or(os.Getenv("PORT"), "8080")))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("http://%s/\n", listener.Addr())
	log.Fatal(http.Serve(listener, sessions.Handler(pages(shop))))
}

func pages(shop *cachesidecar.Client) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		session := httpsession.From(r.Context())
		visits, _ := strconv.Atoi(session.Get("visits"))
		session.Set("visits", strconv.Itoa(visits+1))
		fmt.Fprintf(w, "%s, visit %d\n", cmp.Or(session.UserID(), "stranger"), visits+1)
	})
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		if err := httpsession.From(r.Context()).Login(r.Context(), r.FormValue("user")); err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) {
		if err := httpsession.From(r.Context()).Logout(r.Context()); err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /products/{id}", func(w http.ResponseWriter, r *http.Request) {
		product, err := shop.Products.Get(r.Context(), r.PathValue("id"))
		switch {
		case errors.Is(err, cachesidecar.NotFound):
			http.NotFound(w, r)
		case err != nil:
			http.Error(w, "try again", http.StatusServiceUnavailable)
		default:
			fmt.Fprintf(w, "%s: %s\n", product.Title, product.Price)
		}
	})
	return mux
}
