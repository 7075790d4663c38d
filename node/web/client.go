package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"hilum/store"
)

// socketName is the admin socket's name in the data folder.
const socketName = "admin.sock"

// maxSocketPath is the longest path that bind(2) takes on Linux, less the
// terminating NUL.
const maxSocketPath = 107

// Listen makes the admin socket of a data folder, mode 0600. The caller holds
// the store's lock, so a socket that is there is a dead node's and is
// replaced.
func Listen(data string) (net.Listener, error) {
	path := filepath.Join(data, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replace the admin socket of an earlier node: %w", err)
	}
	short, done, err := shortPath(path)
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := net.Listen("unix", short)
	if err != nil {
		return nil, fmt.Errorf("make the admin socket %s: %w", path, err)
	}
	// net would unlink the short name, which may be gone by then.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("restrict the admin socket: %w", err)
	}
	return &socket{Listener: l, path: path}, nil
}

// socket removes its file when it is closed.
type socket struct {
	net.Listener
	path string
}

func (s *socket) Close() error {
	err := s.Listener.Close()
	if rm := os.Remove(s.path); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}

// shortPath names the socket by way of its open folder where the whole path
// is longer than bind and connect take.
func shortPath(path string) (string, func(), error) {
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), func() { _ = dir.Close() }, nil
}

// Client calls the REST interface.
type Client struct {
	http  *http.Client
	close func() error
}

// Open reaches the node that owns the data folder. When none runs, it opens
// the store itself and answers its own requests; plugins then says what is
// configured. The folder must exist: a command that reads never makes one.
func Open(ctx context.Context, data string, plugins []Plugin, log *slog.Logger) (*Client, error) {
	path := filepath.Join(data, socketName)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		short, done, err := shortPath(path)
		if err != nil {
			return nil, err
		}
		defer done()
		var d net.Dialer
		return d.DialContext(ctx, "unix", short)
	}
	conn, err := dial(ctx, "", "")
	switch {
	case err == nil:
		_ = conn.Close()
		transport := &http.Transport{DialContext: dial}
		return &Client{
			http:  &http.Client{Transport: transport},
			close: func() error { transport.CloseIdleConnections(); return nil },
		}, nil
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("reach the running node by %s: %w", path, err)
	}
	if _, err := os.Stat(data); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the data folder %s does not exist: start a node with `hilum serve`, or name its configuration with --config", data)
	}
	st, err := store.Open(data, store.Options{Logger: log})
	if err != nil {
		return nil, err
	}
	h := &Handler{Store: st, Logger: log, Plugins: func() []Plugin { return plugins }}
	return &Client{http: &http.Client{Transport: direct{h.Routes()}}, close: st.Close}, nil
}

// direct is a transport that calls a handler instead of a network.
type direct struct{ handler http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	body, w := io.Pipe()
	answer := &answerWriter{PipeWriter: w, header: http.Header{}, started: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.handler.ServeHTTP(answer, r)
		answer.WriteHeader(http.StatusOK)
		_ = w.Close() // never fails
	}()
	<-answer.started
	return &http.Response{
		Status:        fmt.Sprintf("%d %s", answer.status, http.StatusText(answer.status)),
		StatusCode:    answer.status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        answer.header,
		Body:          &answerBody{PipeReader: body, done: done},
		ContentLength: -1,
		Request:       r,
	}, nil
}

// answerBody waits, when it is closed, for the handler to end: the store that
// it reads may be closed next.
type answerBody struct {
	*io.PipeReader
	done <-chan struct{}
}

func (b *answerBody) Close() error {
	err := b.PipeReader.Close()
	<-b.done
	return err
}

// answerWriter is an http.ResponseWriter into a pipe. started is closed when
// status and header are final.
type answerWriter struct {
	*io.PipeWriter
	header  http.Header
	status  int
	once    sync.Once
	started chan struct{}
}

func (a *answerWriter) Header() http.Header { return a.header }

func (a *answerWriter) WriteHeader(status int) {
	a.once.Do(func() { a.status = status; close(a.started) })
}

func (a *answerWriter) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.PipeWriter.Write(p)
}

// Close ends the client, and closes the store if the client opened it.
func (c *Client) Close() error { return c.close() }

// Status says which node answers.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return get[Status](ctx, c, "/api/status")
}

// Studies lists the studies, newest first.
func (c *Client) Studies(ctx context.Context) ([]Study, error) {
	return get[[]Study](ctx, c, "/api/studies")
}

// Instances lists the SOP Instance UIDs of a series in slice order.
func (c *Client) Instances(ctx context.Context, seriesInstanceUID string) ([]string, error) {
	return get[[]string](ctx, c, "/api/series/"+url.PathEscape(seriesInstanceUID)+"/instances")
}

// Instance opens the stored Part 10 bytes of an image; the caller closes them.
func (c *Client) Instance(ctx context.Context, sopInstanceUID string) (io.ReadCloser, error) {
	resp, err := c.do(ctx, http.MethodGet, "/api/instances/"+url.PathEscape(sopInstanceUID))
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Jobs lists all analyses, oldest first.
func (c *Client) Jobs(ctx context.Context) ([]Job, error) { return get[[]Job](ctx, c, "/api/jobs") }

// Job returns one analysis with its detail.
func (c *Client) Job(ctx context.Context, id string) (Job, error) {
	return get[Job](ctx, c, "/api/jobs/"+url.PathEscape(id))
}

// RetryJob queues a dead analysis again.
func (c *Client) RetryJob(ctx context.Context, id string) (Job, error) {
	return call[Job](ctx, c, http.MethodPost, "/api/jobs/"+url.PathEscape(id)+"/retry")
}

// Findings lists the newest findings of a series, or of all for "".
func (c *Client) Findings(ctx context.Context, seriesInstanceUID string) ([]Finding, error) {
	path := "/api/findings"
	if seriesInstanceUID != "" {
		path += "?series=" + url.QueryEscape(seriesInstanceUID)
	}
	return get[[]Finding](ctx, c, path)
}

// Deliveries lists the sendings to destinations, oldest first.
func (c *Client) Deliveries(ctx context.Context) ([]Delivery, error) {
	return get[[]Delivery](ctx, c, "/api/deliveries")
}

// RetryDelivery queues a dead delivery again.
func (c *Client) RetryDelivery(ctx context.Context, id string) (Delivery, error) {
	return call[Delivery](ctx, c, http.MethodPost, "/api/deliveries/"+url.PathEscape(id)+"/retry")
}

// RetryDeliveries queues again every delivery to a destination, or to all for "",
// that is dead or waits for a retry, and returns them.
func (c *Client) RetryDeliveries(ctx context.Context, destination string) ([]Delivery, error) {
	path := "/api/deliveries/retry"
	if destination != "" {
		path += "?destination=" + url.QueryEscape(destination)
	}
	return call[[]Delivery](ctx, c, http.MethodPost, path)
}

// Plugins lists the configured plugins.
func (c *Client) Plugins(ctx context.Context) ([]Plugin, error) {
	return get[[]Plugin](ctx, c, "/api/plugins")
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	return call[T](ctx, c, http.MethodGet, path)
}

func call[T any](ctx context.Context, c *Client, method, path string) (T, error) {
	var v T
	resp, err := c.do(ctx, method, path)
	if err != nil {
		return v, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		return v, fmt.Errorf("read the node's answer: %w", err)
	}
	return v, nil
}

// do returns an answer of success; any other becomes the error it carries.
func (c *Client) do(ctx context.Context, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://hilum"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the node: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // a cut body gives the generic sentence below
	var e struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(bytes.TrimSpace(body), &e) != nil || e.Error == "" {
		return nil, fmt.Errorf("the node answered %s to %s", resp.Status, path)
	}
	return nil, errors.New(e.Error)
}
