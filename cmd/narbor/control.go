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
	"os"
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
)

// listenControl opens the control socket, replacing one that a dead narbor left. Whoever may enter its directory
// may ask; only who may change things is told apart, by the peer's credentials.
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

// controlHandler answers on the control socket: everybody what the state is; and it turns sharing on and off for root
// and the user that narbor runs as.
func controlHandler(status func() Status, share func(on bool)) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(status())
	})
	mux.HandleFunc("PUT /share", func(w http.ResponseWriter, r *http.Request) {
		if !mayChange(r.Context()) {
			http.Error(w, "only root and the user that narbor runs as may change this", http.StatusForbidden)
			return
		}
		what, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<10))
		if err != nil {
			return
		}
		on, err := parseShare(string(what))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		share(on)
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

// uidKey is where a request's context has the user ID of who asks, if the kernel tells it.
type uidKey struct{}

// mayChange says whether who asks may change things. The ID of nobody stands for every user that has none in our user
// namespace, and so is nobody's.
func mayChange(ctx context.Context) bool {
	const nobody = 65534
	uid, ok := ctx.Value(uidKey{}).(uint32)
	return ok && (uid == 0 || uid == uint32(os.Geteuid()) && uid != nobody)
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
		MaxHeaderBytes: 16 << 10, ConnContext: withUID, ErrorLog: zap.NewStdLog(log)}
}

// askControl asks the narbor that runs here for its status.
func askControl(ctx context.Context, paths []string) (s Status, err error) {
	text, err := callControl(ctx, paths, http.MethodGet, "/status", "")
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	return s, err
}

// callControl sends a request to the narbor that runs here, at the first of the paths where one answers, and returns
// its answer.
func callControl(ctx context.Context, paths []string, method, what, body string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
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
	return nil, codedError{fmt.Errorf("narbor is not running (nobody listens on %s); start it with `narbor run`", paths[0]), exitNotRunning}
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
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxStatusLen))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusNoContent:
		return text, nil
	case http.StatusForbidden:
		return nil, fmt.Errorf("%s: %w: %s", path, fs.ErrPermission, strings.TrimSpace(string(text)))
	}
	return nil, fmt.Errorf("%s answers %s: is it a narbor of another version?", path, resp.Status)
}
