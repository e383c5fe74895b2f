package main

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

	"go.uber.org/zap"
)

const (
	socketName = "narbor.sock"
	// controlTimeout bounds a question to a running narbor, which answers from memory.
	controlTimeout = 5 * time.Second
	maxStatusLen   = 16 << 20
	// maxControlBody bounds the body of a request: a word, a path or an address.
	maxControlBody = 4 << 10
)

// listenControl opens the control socket, replacing one that a dead narbor left. Every user that can enter its
// directory may query; changes need the peer credentials of root or of the user that narbor runs as.
func listenControl(path string) (net.Listener, error) {
	if st, err := os.Lstat(path); err == nil && st.Mode()&fs.ModeSocket == 0 {
		return nil, fmt.Errorf("%s is there and is no socket: give another by --socket", path)
	}
	if c, err := net.DialTimeout("unix", path, controlTimeout); err == nil {
		c.Close()
		return nil, fmt.Errorf("another narbor answers on %s: stop it, or give this one --state-dir and --socket of its own", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// answer returns a handler that sends the value of ask as JSON; nil sends no content.
func answer(ask func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxControlBody)
		v, err := ask(r)
		switch {
		case err != nil:
			refuse(w, err)
		case v == nil:
			w.WriteHeader(http.StatusNoContent)
		default:
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(v)
		}
	}
}

// change is answer for callers that may change things, see [mayChange].
func change(do func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !mayChange(r.Context()) {
			http.Error(w, "only root and the user that narbor runs as may do this", http.StatusForbidden)
			return
		}
		answer(do)(w, r)
	}
}

// lasting gives a handler more time than [controlTimeout] to answer.
func lasting(d time.Duration, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(d + controlTimeout)); err != nil {
			refuse(w, err)
			return
		}
		h(w, r)
	}
}

// errorHeader marks an answer as an error of narbor itself; its value is the exit code for the command.
const errorHeader = "Narbor-Exit-Code"

// refuse sends an error, and the exit code with which the calling command ends.
func refuse(w http.ResponseWriter, err error) {
	code, status := exitFailure, http.StatusInternalServerError
	var coded exitError
	if errors.As(err, &coded) {
		code = coded.code
	}
	switch code {
	case exitUsage:
		status = http.StatusBadRequest
	case exitNotFound:
		status = http.StatusNotFound
	case exitTemporary:
		status = http.StatusServiceUnavailable
	}
	w.Header().Set(errorHeader, strconv.Itoa(code))
	http.Error(w, err.Error(), status)
}

// uidKey is the context key of the caller's user ID. It is set if the kernel reports that ID.
type uidKey struct{}

// mayChange reports whether the caller of a request may change things.
func mayChange(ctx context.Context) bool {
	uid, ok := ctx.Value(uidKey{}).(uint32)
	return ok && isOwner(uid, uint32(os.Geteuid()))
}

// isOwner reports whether a user is root or the one that narbor runs as. The overflow ID 65534 is never an owner: it
// stands for every user without an ID in our user namespace.
func isOwner(uid, narbor uint32) bool {
	const nobody = 65534
	return uid == 0 || uid == narbor && uid != nobody
}

func withUID(ctx context.Context, c net.Conn) context.Context {
	if u, ok := c.(*net.UnixConn); ok {
		if uid, err := peerUID(u); err == nil {
			return context.WithValue(ctx, uidKey{}, uid)
		}
	}
	return ctx
}

// controlServer has the limits that are due to every user of this machine.
func controlServer(h http.Handler, log *zap.Logger) *http.Server {
	return &http.Server{Handler: h, ReadTimeout: controlTimeout, WriteTimeout: controlTimeout, IdleTimeout: controlTimeout,
		MaxHeaderBytes: 16 << 10, ConnContext: withUID, ErrorLog: zap.NewStdLog(log.Named("server"))}
}

// A control is how a command speaks to the narbor that runs here.
type control struct {
	paths   []string // of its socket; the first where one answers is taken
	timeout time.Duration
}

// get asks, and decodes the answer into v.
func (c control) get(ctx context.Context, what string, v any) error {
	return c.call(ctx, http.MethodGet, what, "", v)
}

// call sends a request, and decodes the answer into v unless that is nil.
func (c control) call(ctx context.Context, method, what, body string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	text, err := callControl(ctx, c.paths, method, what, body)
	if err != nil || v == nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w: is it a narbor of another version?", what, err)
	}
	return nil
}

// callControl sends a request to the narbor that runs here, at the first of the paths where one answers, and returns
// its answer.
func callControl(ctx context.Context, paths []string, method, what, body string) ([]byte, error) {
	var denied error
	for _, path := range paths {
		text, err := callSocket(ctx, path, method, what, body)
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
	return nil, withCode(fmt.Errorf("narbor is not running (nothing listens on %s); start it with `narbor run`", paths[0]),
		exitNotRunning)
}

// A wordedError is an error in words for people.
type wordedError struct {
	text  string
	cause error
}

func (e wordedError) Error() string { return e.text }
func (e wordedError) Unwrap() error { return e.cause }

// serverClosedIdle is the text of net/http's errServerClosedIdle, which is not exported: the other side closed the
// connection before the request was written.
const serverClosedIdle = "http: server closed idle connection"

// bareError returns what went wrong of an error of an HTTP client, without the request and the call of the system.
func bareError(err error) error {
	var failed *url.Error
	if errors.As(err, &failed) {
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

func callSocket(ctx context.Context, path, method, what, body string) ([]byte, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}}
	req, err := http.NewRequestWithContext(ctx, method, "http://narbor"+what, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, bareError(err))
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxStatusLen))
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, bareError(err))
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusNoContent:
		return text, nil
	case http.StatusForbidden:
		return nil, fmt.Errorf("%s: %w: %s", path, fs.ErrPermission, strings.TrimSpace(string(text)))
	}
	if code, err := strconv.Atoi(resp.Header.Get(errorHeader)); err == nil {
		return nil, withCode(errors.New(strings.TrimSpace(string(text))), code)
	}
	return nil, fmt.Errorf("%s answers %s: is it a narbor of another version?", path, resp.Status)
}
