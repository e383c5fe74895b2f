package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"narbor/cmd/narbor/control"
)

const (
	// startTime bounds the start of a narbor. On an idle machine it takes less than a second.
	startTime = 30 * time.Second
	// stopTime is how long a narbor may take to end after SIGTERM; then it is killed.
	stopTime = 2 * time.Second
	// pollInterval is the interval at which a narbor is asked for its status.
	pollInterval = 100 * time.Millisecond
)

// noInterface matches no network interface, so nothing outside of this computer can connect.
const noInterface = "none-in-a-demo"

// A machine is a `narbor run` in a process of its own, with its own state directory and ports. It sees neither the Nix
// of this computer nor the network.
type machine struct {
	name  string
	dir   string
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
	err   error         // how it ended; to be read after that

	id   string // peer ID
	addr string // multiaddr for neighbours
	url  string // for Nix
}

// start runs program in dir, which has the name of the machine, with flags beside those that keep it to itself. It
// returns once that answers. The caller stops it.
func start(ctx context.Context, program, dir string, flags ...string) (*machine, error) {
	m := &machine{name: filepath.Base(dir), dir: dir, ended: make(chan struct{})}
	noNix := filepath.Join(m.dir, "no-nix")
	if err := os.MkdirAll(noNix, 0o700); err != nil {
		return nil, err
	}
	// The default would trust the key of cache.nixos.org, too.
	if err := os.WriteFile(filepath.Join(noNix, "nix.conf"), []byte("trusted-public-keys =\nsubstituters =\n"), 0o600); err != nil {
		return nil, err
	}
	logFile, err := os.Create(m.logName())
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	m.cmd = exec.Command(program, append([]string{"run", "--state-dir", m.dir, "--listen", "127.0.0.1:0", "--port", "0", "--no-mdns",
		"--no-vsock", "--no-dns-sd", "--interface", noInterface, "--min-free", "0", "--log-format", "console"}, flags...)...)
	m.cmd.Env = []string{"PATH=", "HOME=" + m.dir, "TMPDIR=" + os.TempDir(), "NIX_CONF_DIR=" + noNix, "NIX_STATE_DIR=" + noNix,
		"NIX_DAEMON_SOCKET_PATH=" + filepath.Join(noNix, "socket")}
	m.cmd.Stdout, m.cmd.Stderr = logFile, logFile
	m.cmd.SysProcAttr = apart()
	if err := startWithParent(m.cmd); err != nil {
		return nil, fmt.Errorf("narbor of %s: %w", m.name, err)
	}
	go func() {
		m.err = m.cmd.Wait()
		close(m.ended)
	}()
	if err := m.ready(ctx); err != nil {
		m.stop()
		return nil, fmt.Errorf("narbor of %s: %w\n%s", m.name, err, m.lastLines())
	}
	return m, nil
}

// ready waits until the machine answers, and learns its addresses.
func (m *machine) ready(ctx context.Context) error {
	st, err := m.await(ctx, func(st control.Status) bool { return st.Settled && len(st.HTTP) > 0 })
	if err != nil {
		return err
	}
	m.id, m.url = st.ID, "http://"+st.HTTP[0]
	for _, text := range st.Addrs {
		addr, err := ma.NewMultiaddr(text)
		if err != nil {
			continue
		}
		if port, err := addr.ValueForProtocol(ma.P_TCP); err == nil {
			m.addr = fmt.Sprintf("/ip4/127.0.0.1/tcp/%s/p2p/%s", port, m.id)
			return nil
		}
	}
	return fmt.Errorf("it has no TCP port for neighbours: %q", st.Addrs)
}

// await returns the first status for which ok is true.
func (m *machine) await(ctx context.Context, ok func(control.Status) bool) (control.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		st, err := m.status(ctx)
		if err == nil && ok(st) {
			return st, nil
		}
		select {
		case <-m.ended:
			return st, fmt.Errorf("it has ended: %v", m.err)
		case <-ctx.Done():
			return st, errors.Join(ctx.Err(), err)
		case <-tick.C:
		}
	}
}

func (m *machine) status(ctx context.Context) (st control.Status, err error) {
	client := control.Client{Paths: []string{filepath.Join(m.dir, control.SocketName)}, Timeout: control.Timeout}
	err = client.Get(ctx, "/status", &st)
	return st, err
}

// kill ends the process as a pulled plug would.
func (m *machine) kill() {
	_ = m.cmd.Process.Kill()
	<-m.ended
}

// stop ends the process and returns once it has ended. It may be called again.
func (m *machine) stop() {
	_ = m.cmd.Process.Signal(os.Interrupt)
	select {
	case <-m.ended:
	case <-time.After(stopTime):
		m.kill()
	}
}

func (m *machine) logName() string { return filepath.Join(m.dir, "log") }

// lastLines are the end of the machine's log, to explain why it does not run.
func (m *machine) lastLines() string {
	text, err := os.ReadFile(m.logName())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}
