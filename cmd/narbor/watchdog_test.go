package main

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
)

func TestWatchdogHearsOnlyOfWhatAnswers(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", "600000")
	for _, status := range []int{http.StatusOK, http.StatusNotFound} {
		asked := make(chan struct{}, 100)
		nix := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			asked <- struct{}{}
		}))
		s := service{log: zap.NewNop(), listeners: []net.Listener{nix.Listener}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.watchdog(ctx) }()
		for range 3 {
			<-asked
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("watchdog = %v", err)
		}
		nix.Close()
		systemd.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		buf := make([]byte, 100)
		n, err := systemd.Read(buf)
		if told := err == nil; told != (status == http.StatusOK) || told && string(buf[:n]) != "WATCHDOG=1" {
			t.Errorf("answering %d, systemd was told %q, %v", status, buf[:n], err)
		}
		for err == nil { // what was told besides
			_, err = systemd.Read(buf)
		}
	}
}
