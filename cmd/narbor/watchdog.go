package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
)

// watchdog notifies systemd at the interval of its watchdog, until ctx ends, while narbor answers on the port that Nix
// uses. Without these notifications systemd restarts narbor.
func watchdog(ctx context.Context, nix []net.Listener, log *zap.Logger) error {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("systemd's watchdog gets no notifications", zap.Error(err))
	}
	if limit == 0 || len(nix) == 0 {
		return nil
	}
	addr := nix[0].Addr()
	_, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: limit / 3, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, addr.Network(), addr.String())
		}}}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(limit / 3)
	defer tick.Stop()
	for {
		if err := answers(ctx, client, port); err == nil {
			notify(log, daemon.SdNotifyWatchdog)
		} else if ctx.Err() == nil {
			log.Warn("narbor does not answer itself", zap.Stringer("addr", addr), zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// answers asks for what Nix asks for first.
func answers(ctx context.Context, client *http.Client, port string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost:"+port+"/nix-cache-info", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/nix-cache-info: %s", resp.Status)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func notify(log *zap.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("cannot tell systemd", zap.String("state", state), zap.Error(err))
	}
}
