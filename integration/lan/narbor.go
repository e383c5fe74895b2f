package lan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"

	"narbor/integration/corpus"
)

// Substituter is the URL of each host's narbor for Nix on the same host.
const Substituter = "http://127.0.0.1:6272"

// readyTimeout bounds the time until a started process answers: some seconds on two cores beside a build.
const readyTimeout = 30 * time.Second

// StartNarbor starts narbor as an unprivileged user, as its systemd unit would: with sockets that are opened before it
// starts and stay open when it ends, and with a state directory. It returns once narbor answers HTTP. binary is a path
// on the host.
func (h *Host) StartNarbor(binary string, args ...string) (*Process, error) {
	sockets, err := h.listen()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.Name, err)
	}
	p, err := h.start("narbor", command{
		// LISTEN_PID must be narbor's process ID, which is the shell's: exec keeps it.
		args:   append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" run "$@"`, binary}, args...),
		chroot: h.root,
		uid:    unprivileged,
		files:  sockets,
		env:    append(h.narborEnv(), fmt.Sprintf("LISTEN_FDS=%d", len(sockets))),
	})
	if err != nil {
		return nil, err
	}
	return p, h.waitHTTP(p, Substituter+"/nix-cache-info")
}

// narborEnv declares the corpora's key as one of a public cache: no host asks the https cache of that name.
func (h *Host) narborEnv() []string {
	return []string{"HOME=/", "STATE_DIRECTORY=/var/lib/narbor", "RUNTIME_DIRECTORY=/run/narbor", "NARBOR_SHARE_KEY=" + corpus.KeyName}
}

// Narbor runs a narbor command on the host, as the same user as the running narbor.
func (h *Host) Narbor(ctx context.Context, binary string, args ...string) (string, error) {
	out, err := h.ns.run(ctx, command{args: append([]string{binary}, args...), chroot: h.root, uid: unprivileged, env: h.narborEnv()})
	if err != nil {
		return out, fmt.Errorf("%s: %w", h.Name, err)
	}
	return out, nil
}

// StartHelper starts another program that connects to narbor's neighbours, as narbor's user.
func (h *Host) StartHelper(binary string, args ...string) (*Process, error) {
	return h.start(path.Base(binary), command{args: append([]string{binary}, args...), chroot: h.root, uid: unprivileged,
		env: h.narborEnv()})
}

// StartDaemon starts a program of this computer as root. It does not wait for it.
func (h *Host) StartDaemon(name string, args ...string) (*Process, error) {
	return h.start(name, h.command(append([]string{name}, args...)))
}

// listen opens narbor's listening sockets, or returns them if they are open.
func (h *Host) listen() ([]*os.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sockets != nil {
		return h.sockets, nil
	}
	err := h.ns.do(func() error {
		for _, addr := range append([]string{"127.0.0.1:6272", "[::1]:6272"}, h.listens...) {
			l, err := net.Listen("tcp", addr)
			if errors.Is(err, syscall.EADDRNOTAVAIL) && h.sockets != nil {
				continue // the host has no IPv6
			}
			if err != nil {
				return err
			}
			f, err := l.(*net.TCPListener).File()
			l.Close()
			if err != nil {
				return err
			}
			h.sockets = append(h.sockets, f)
		}
		return nil
	})
	return h.sockets, err
}

// CloseSockets closes the sockets of narbor, as uninstalling its unit would.
func (h *Host) CloseSockets() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.sockets {
		f.Close()
	}
	h.sockets = nil
}

// waitHTTP waits until p answers with success.
func (h *Host) waitHTTP(p *Process, url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), AtMost(readyTimeout))
	defer cancel()
	for {
		_, err := h.Run(ctx, "curl", "-sf", "--max-time", "10", url)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			log, _ := p.Log()
			return fmt.Errorf("%s: ended at once: %v\n%s", p.name, p.err, tail(log))
		case <-ctx.Done():
			log, _ := p.Log()
			return fmt.Errorf("%s: does not answer: %w\n%s", p.name, err, tail(log))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Status is the part of `narbor status --json` that tests use.
type Status struct {
	PeerID     string `json:"peerId"`
	Settled    bool   `json:"settled"`
	Goroutines int    `json:"goroutines"`
	Neighbours []struct {
		ID             string `json:"id"`
		Name           string `json:"name"`
		Addr           string `json:"addr"`
		Via            string `json:"via"`
		Claims         int64  `json:"claims"`
		BlocksReceived int64  `json:"blocksReceived"`
		BytesReceived  int64  `json:"bytesReceived"`
		BlocksSent     int64  `json:"blocksSent"`
		BytesSent      int64  `json:"bytesSent"`
		Strikes        int64  `json:"strikes"`
		WrongNARs      int64  `json:"wrongNars"`
		Aside          string `json:"aside"`
	} `json:"neighbours"`
	OtherGroup []struct {
		ID string `json:"id"`
	} `json:"otherGroup"`
	Banned []struct {
		ID     string `json:"id"`
		Reason string `json:"reason"`
	} `json:"banned"`
	Nix struct {
		NarinfoHits    int64 `json:"narinfoHits"`
		NarinfoMisses  int64 `json:"narinfoMisses"`
		NarsServed     int64 `json:"narsServed"`
		NarBytesServed int64 `json:"narBytesServed"`
	} `json:"nix"`
	Spool struct {
		Bytes    int64 `json:"bytes"`
		Entries  int64 `json:"entries"`
		MaxBytes int64 `json:"maxBytes"`
	} `json:"spool"`
}

// degraded is the exit code of `narbor status` if it reports a warning, as on most test hosts, where Nix does not ask
// narbor.
const degraded = 4

// Status returns the status of the narbor that runs on the host.
func (h *Host) Status(ctx context.Context, binary string) (Status, error) {
	out, err := h.Narbor(ctx, binary, "status", "--json")
	if exit := new(exec.ExitError); errors.As(err, &exit) && exit.ExitCode() == degraded {
		err = nil
	}
	if err != nil {
		return Status{}, err
	}
	var s Status
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return Status{}, fmt.Errorf("%s: narbor status --json: %w in %s", h.Name, err, out)
	}
	return s, nil
}

// WaitNeighbours waits until the host's narbor has at least n neighbours, and returns its status.
func (h *Host) WaitNeighbours(ctx context.Context, binary string, n int) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, AtMost(readyTimeout))
	defer cancel()
	for {
		s, err := h.Status(ctx, binary)
		if err == nil && len(s.Neighbours) >= n {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return s, fmt.Errorf("%s: %d of %d neighbours: %w %v", h.Name, len(s.Neighbours), n, ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Get requests a URL from the host itself. It returns the status code and the body.
func (h *Host) Get(ctx context.Context, url string) (code, body string, err error) {
	out, err := h.Run(ctx, "curl", "-s", "--max-time", "30", "-w", "\n%{http_code}", url)
	i := strings.LastIndexByte(out, '\n')
	if err != nil || i < 0 {
		return "", out, err
	}
	return out[i+1:], out[:i], nil
}

// Codes requests each URL from the host itself and returns the status codes.
func (h *Host) Codes(ctx context.Context, urls ...string) ([]string, error) {
	args := []string{"-s", "--max-time", "30", "-w", "%{http_code}\n"}
	for _, url := range urls {
		args = append(args, "-o", "/dev/null", url)
	}
	out, err := h.Run(ctx, "curl", args...)
	codes := strings.Fields(out)
	if err == nil && len(codes) != len(urls) {
		err = fmt.Errorf("%s: curl printed %q for %d URLs", h.Name, out, len(urls))
	}
	return codes, err
}
