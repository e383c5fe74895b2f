package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"go.uber.org/zap"

	"narbor/cmd/narbor/exit"
)

const (
	SocketName = "narbor.sock"
	// Timeout bounds a question to a running narbor, which answers from memory.
	Timeout = 5 * time.Second
	// DialBackTimeout is how long neighbours may take to connect to this machine on request, and to answer.
	DialBackTimeout = 7 * time.Second
	MaxAnswer       = 16 << 20
	// maxControlBody bounds the body of a request: a word, a path or an address.
	maxControlBody = 4 << 10
)

// Listen opens the control socket, replacing one that a dead narbor left. Every user that can enter its
// directory may query; changes need the peer credentials of root or of the user that narbor runs as.
func Listen(path string) (net.Listener, error) {
	if st, err := os.Lstat(path); err == nil && st.Mode()&fs.ModeSocket == 0 {
		return nil, fmt.Errorf("%s is there and is no socket: give another by --socket", path)
	}
	if c, err := net.DialTimeout("unix", path, Timeout); err == nil {
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

// Answer returns a handler that sends the value of ask as JSON; nil sends no content.
func Answer(ask func(*http.Request) (any, error)) http.HandlerFunc {
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

// Change is answer for callers that may change things, see [mayChange].
func Change(do func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !mayChange(r.Context()) {
			http.Error(w, "only root and the user that narbor runs as may do this", http.StatusForbidden)
			return
		}
		Answer(do)(w, r)
	}
}

// Lasting gives a handler more time than [Timeout] to answer.
func Lasting(d time.Duration, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(d + Timeout)); err != nil {
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
	code, status := exit.Code(err), http.StatusInternalServerError
	switch code {
	case exit.Usage:
		status = http.StatusBadRequest
	case exit.NotFound:
		status = http.StatusNotFound
	case exit.Temporary:
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

// NewServer has the limits that are due to every user of this machine.
func NewServer(h http.Handler, log *zap.Logger) *http.Server {
	return &http.Server{Handler: h, ReadTimeout: Timeout, WriteTimeout: Timeout, IdleTimeout: Timeout,
		MaxHeaderBytes: 16 << 10, ConnContext: withUID, ErrorLog: zap.NewStdLog(log.Named("server"))}
}
