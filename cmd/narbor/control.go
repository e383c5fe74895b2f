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
// may ask; it only tells.
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

// controlHandler answers on the control socket.
func controlHandler(status func() Status) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(status())
	})
	return mux
}

// controlServer has the limits that are due to every user of this machine.
func controlServer(h http.Handler, log *zap.Logger) *http.Server {
	return &http.Server{Handler: h, ReadTimeout: controlTimeout, WriteTimeout: controlTimeout, IdleTimeout: controlTimeout,
		MaxHeaderBytes: 16 << 10, ErrorLog: zap.NewStdLog(log)}
}

// askControl asks the narbor that runs here, at the first of the paths where one answers.
func askControl(ctx context.Context, paths []string) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	var denied error
	for _, path := range paths {
		s, err := askSocket(ctx, path)
		switch {
		case err == nil:
			return s, nil
		case errors.Is(err, fs.ErrPermission):
			denied = fmt.Errorf("%w: ask as the user that runs narbor, or as root", err)
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED):
			return Status{}, err
		}
	}
	if denied != nil {
		return Status{}, denied
	}
	return Status{}, codedError{fmt.Errorf("narbor is not running (nobody listens on %s); start it with `narbor run`", paths[0]), exitNotRunning}
}

func askSocket(ctx context.Context, path string) (Status, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://narbor/status", nil)
	if err != nil {
		return Status{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return Status{}, err
	}
	defer resp.Body.Close()
	var s Status
	if resp.StatusCode != http.StatusOK {
		return Status{}, fmt.Errorf("%s answers %s: is it a narbor of another version?", path, resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxStatusLen)).Decode(&s); err != nil {
		return Status{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}
