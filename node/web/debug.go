package web

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/pprof"
)

// WithProfiles adds the profiles of package net/http/pprof under /debug/pprof/
// to the paths of next: goroutines, heap and CPU of the node, for whoever looks
// for the cause of a leak or a slow node. They are for the admin socket only.
//
//	curl --unix-socket data/admin.sock http://hilum/debug/pprof/goroutine?debug=1
func WithProfiles(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", next)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	return mux
}

// Goroutines asks the node how many goroutines it has.
func (c *Client) Goroutines(ctx context.Context) (int, error) {
	resp, err := c.do(ctx, http.MethodGet, "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("read the node's goroutines: %w", err)
	}
	var n int
	if _, err := fmt.Sscanf(line, "goroutine profile: total %d", &n); err != nil {
		return 0, fmt.Errorf("read the node's goroutines from %q: %w", line, err)
	}
	return n, nil
}
