package narserve_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"narbor/narserve"
)

// A pipeListener accepts one connection that is no socket, so that synctest can run its clock.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }
func (l pipeListener) Close() error   { close(l.closed); return nil }

func TestIdleClientsAreLetGo(t *testing.T) {
	for _, tt := range []struct {
		name, sent string
		status     int
		closed     time.Duration
	}{
		{"sends nothing", "", 0, 10 * time.Second},
		{"sends half a header", "GET / HTTP/1.1\r\nHo", 0, 10 * time.Second},
		{"sends no body", "PUT /nix-cache-info HTTP/1.1\r\nHost: nix\r\nContent-Length: 9\r\n\r\n", 405, 5 * time.Second},
		{"sends no chunk", "GET /nix-cache-info HTTP/1.1\r\nHost: nix\r\nTransfer-Encoding: chunked\r\n\r\n", 200, 5 * time.Second},
		{"says no more", "GET /nix-cache-info HTTP/1.1\r\nHost: nix\r\n\r\n", 200, 3 * time.Minute},
		{"sends its body", "PUT /nix-cache-info HTTP/1.1\r\nHost: nix\r\nContent-Length: 1\r\n\r\nx", 405, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := pipeListener{make(chan net.Conn, 1), make(chan struct{})}
			srv := narserve.New(narserve.Config{Hosts: []string{"nix"}}).HTTPServer()
			done := make(chan struct{})
			go func() { defer close(done); srv.Serve(l) }()
			client, server := net.Pipe()
			l.conns <- server
			began := time.Now()
			if _, err := io.WriteString(client, tt.sent); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(client)
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			if tt.status != 0 && !strings.HasPrefix(string(got), fmt.Sprintf("HTTP/1.1 %d ", tt.status)) {
				t.Errorf("%s: answered %.100q, want status %d", tt.name, got, tt.status)
			}
			if dur := time.Since(began); dur != tt.closed {
				t.Errorf("%s: let go after %v, want %v", tt.name, dur, tt.closed)
			}
			srv.Close()
			<-done
		})
	}
}

func TestServerSetsItsLimits(t *testing.T) {
	srv := narserve.New(narserve.Config{}).HTTPServer()
	if srv.ReadHeaderTimeout <= 0 || srv.IdleTimeout <= 0 || srv.MaxHeaderBytes <= 0 || srv.ErrorLog == nil {
		t.Errorf("HTTPServer = %+v: a limit is missing", srv)
	}
	if srv.WriteTimeout != 0 || srv.ReadTimeout != 0 {
		t.Errorf("WriteTimeout %v and ReadTimeout %v would cut off a long NAR", srv.WriteTimeout, srv.ReadTimeout)
	}
}
