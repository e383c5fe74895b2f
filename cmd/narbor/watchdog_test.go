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
	t.Setenv("WATCHDOG_USEC", "600000")
	for _, status := range []int{http.StatusOK, http.StatusNotFound} {
		socket := filepath.Join(t.TempDir(), "notify")
		t.Setenv("NOTIFY_SOCKET", socket)
		systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		asked := make(chan struct{}, 100)
		nix := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			asked <- struct{}{}
		}))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- watchdog(ctx, []net.Listener{nix.Listener}, zap.NewNop()) }()
		for range 3 {
			<-asked
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("watchdog = %v", err)
		}
		nix.Close()
		patience := map[int]time.Duration{http.StatusOK: 10 * time.Second, http.StatusNotFound: 100 * time.Millisecond}[status]
		systemd.SetReadDeadline(time.Now().Add(patience))
		buf := make([]byte, 100)
		n, err := systemd.Read(buf)
		if told := err == nil; told != (status == http.StatusOK) || told && string(buf[:n]) != "WATCHDOG=1" {
			t.Errorf("answering %d, systemd was told %q, %v", status, buf[:n], err)
		}
		systemd.Close()
	}
}
