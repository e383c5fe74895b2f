package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"narbor/cmd/narbor/exit"
)

// A Client is how a command speaks to the narbor that runs here.
type Client struct {
	Paths   []string // of its socket; the first where one answers is taken
	Timeout time.Duration
}

// Get asks, and decodes the answer into v.
func (c Client) Get(ctx context.Context, what string, v any) error {
	return c.call(ctx, request{http.MethodGet, what, ""}, v)
}

// Post has something done, and decodes the answer into v.
func (c Client) Post(ctx context.Context, what string, v any) error {
	return c.call(ctx, request{http.MethodPost, what, ""}, v)
}

// Put sets something to body.
func (c Client) Put(ctx context.Context, what, body string) error {
	return c.call(ctx, request{http.MethodPut, what, body}, nil)
}

type request struct{ method, what, body string }

// call sends a request, and decodes the answer into v unless that is nil.
func (c Client) call(ctx context.Context, r request, v any) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	text, err := c.ask(ctx, r)
	if err != nil || v == nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w: is it a narbor of another version?", r.what, err)
	}
	return nil
}

// ask sends a request at the first of the paths where a narbor answers, and returns its answer.
func (c Client) ask(ctx context.Context, r request) ([]byte, error) {
	var denied error
	for _, path := range c.Paths {
		text, err := callSocket(ctx, path, r)
		switch {
		case err == nil:
			return text, nil
		case errors.Is(err, fs.ErrPermission):
			denied = fmt.Errorf("%w: ask as the user that runs narbor, or as root", err)
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED):
			return nil, err
		}
	}
	if denied != nil {
		return nil, denied
	}
	return nil, exit.With(fmt.Errorf("narbor is not running (nothing listens on %s); start it with `narbor run`", c.Paths[0]),
		exit.NotRunning)
}

type wordedError struct {
	text  string
	cause error
}

func (e wordedError) Error() string { return e.text }
func (e wordedError) Unwrap() error { return e.cause }

// serverClosedIdle is the text of net/http's errServerClosedIdle, which is not exported: the other side closed the
// connection before the request was written.
const serverClosedIdle = "http: server closed idle connection"

// BareError returns what went wrong of an error of an HTTP client, without the request and the call of the system.
func BareError(err error) error {
	if failed, ok := errors.AsType[*url.Error](err); ok {
		err = failed.Err
	}
	var errno syscall.Errno
	switch {
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return wordedError{"it hung up before it had answered", err}
	case errors.As(err, &errno):
		return errno
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return wordedError{"no answer in time", err}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), err.Error() == serverClosedIdle:
		return wordedError{"it hung up before it had answered", err}
	}
	return err
}

func callSocket(ctx context.Context, path string, r request) ([]byte, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}}
	req, err := http.NewRequestWithContext(ctx, r.method, "http://narbor"+r.what, strings.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, BareError(err))
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, MaxAnswer))
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, BareError(err))
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusNoContent:
		return text, nil
	case http.StatusForbidden:
		return nil, fmt.Errorf("%s: %w: %s", path, fs.ErrPermission, strings.TrimSpace(string(text)))
	}
	if code, err := strconv.Atoi(resp.Header.Get(errorHeader)); err == nil {
		return nil, exit.With(errors.New(strings.TrimSpace(string(text))), code)
	}
	return nil, fmt.Errorf("%s answers %s: is it a narbor of another version?", path, resp.Status)
}
