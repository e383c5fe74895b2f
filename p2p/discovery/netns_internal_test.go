package discovery

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"narbor/p2p/p2ptest"
	"narbor/store/storetest"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/zeroconf/v2"
	"go.uber.org/zap"
)

// A testNet is a switch: a bridge in a network namespace of its own. Nothing of it is seen by this machine.
type testNet struct {
	t     *testing.T
	name  string
	hosts int
}

// A testHost is a network namespace with one interface, eth0, that is plugged into the switch.
type testHost struct {
	net  *testNet
	name string
	port string // its port of the switch
}

var testNets atomic.Int64 // makes names unique in this process

func newTestNet(t *testing.T) *testNet {
	t.Helper()
	p2ptest.NeedNamespaces(t)
	n := &testNet{t: t, name: fmt.Sprintf("nbt%d-%d", os.Getpid(), testNets.Add(1))}
	n.add(n.name)
	n.ip("-n", n.name, "link", "add", "br0", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
	n.ip("-n", n.name, "link", "set", "br0", "up")
	return n
}

func (n *testNet) add(ns string) {
	n.t.Helper()
	n.ip("netns", "add", ns)
	n.t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
}

func (n *testNet) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// host plugs in a machine. Its interface is down.
func (n *testNet) host() *testHost {
	n.t.Helper()
	n.hosts++
	h := &testHost{net: n, name: fmt.Sprintf("%s-%d", n.name, n.hosts), port: "p" + strconv.Itoa(n.hosts)}
	n.add(h.name)
	n.ip("-n", n.name, "link", "add", h.port, "type", "veth", "peer", "name", "eth0", "netns", h.name)
	n.ip("-n", n.name, "link", "set", h.port, "master", "br0", "up")
	h.ip("link", "set", "lo", "up")
	return h
}

// up plugs in a machine with these addresses.
func (n *testNet) up(addrs ...string) *testHost {
	n.t.Helper()
	h := n.host()
	h.ip("link", "set", "eth0", "up")
	for _, a := range addrs {
		h.addAddr(a)
	}
	return h
}

// upIPv4 is like up, for a machine without IPv6, not even a link-local address.
func (n *testNet) upIPv4(addr string) *testHost {
	n.t.Helper()
	h := n.host()
	h.ip("link", "set", "eth0", "addrgenmode", "none")
	h.ip("link", "set", "eth0", "up")
	h.addAddr(addr)
	return h
}

func (h *testHost) ip(args ...string) {
	h.net.t.Helper()
	h.net.ip(append([]string{"-n", h.name}, args...)...)
}

func (h *testHost) addAddr(a string) {
	h.net.t.Helper()
	args := []string{"addr", "add", a, "dev", "eth0"}
	if strings.Contains(a, ":") {
		args = append(args, "nodad")
	}
	h.ip(args...)
}

// pull takes the cable out of the switch: nothing arrives any more, and the machine has no way to notice.
func (h *testHost) pull() { h.net.ip("-n", h.net.name, "link", "set", h.port, "nomaster") }

func (h *testHost) plug() { h.net.ip("-n", h.net.name, "link", "set", h.port, "master", "br0") }

// exec runs a command on the machine.
func (h *testHost) exec(stdin string, args ...string) string {
	h.net.t.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", h.name}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		h.net.t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// childConfig is the part of the environment that a child process reads.
type childConfig struct {
	Peers []string
	Deny  []string
	Port  uint16
	Forge []string // announce these TXT strings instead of running a lan
}

const childEnv = "NARBOR_TEST_LAN"

// A testChild is a process on a testHost that runs a lan and prints what happens.
type testChild struct {
	t      *testing.T
	id     string
	stdin  io.Closer
	events chan string
	done   chan error
	output *bytes.Buffer // complete once done
}

func (h *testHost) start(cfg childConfig) *testChild {
	t := h.net.t
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", h.name, self, "-test.run=^TestLANChild$", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	c := &testChild{t: t, events: make(chan string, 4096), done: make(chan error, 1), output: new(bytes.Buffer)}
	c.stdin, err = cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			fmt.Fprintln(c.output, lines.Text())
			if event, ok := strings.CutPrefix(lines.Text(), "@"); ok {
				c.events <- event
			}
		}
		close(c.events)
		c.done <- cmd.Wait()
	}()
	t.Cleanup(c.stop)
	c.id, _ = c.wait("id ", 20*time.Second)
	return c
}

// wait returns what follows prefix in the next event that begins with it, and how long it took to come.
func (c *testChild) wait(prefix string, limit time.Duration) (string, time.Duration) {
	c.t.Helper()
	start := time.Now()
	timeout := time.After(storetest.AtMost(limit))
	for {
		select {
		case e, ok := <-c.events:
			if !ok {
				c.t.Fatalf("child ended while waiting for %q:\n%s", prefix, c.output)
			}
			if rest, ok := strings.CutPrefix(e, prefix); ok {
				return rest, time.Since(start)
			}
		case <-timeout:
			c.stdin.Close()
			for range c.events { // until all of its output is here
			}
			c.t.Fatalf("no event %q within %v:\n%s", prefix, limit, c.output)
		}
	}
}

// stop ends the lan, and fails the test if it did not end well.
func (c *testChild) stop() {
	if c.stdin == nil {
		return
	}
	c.stdin.Close()
	c.stdin = nil
	timeout := time.AfterFunc(20*time.Second, func() { c.t.Error("child does not end") })
	for range c.events {
	}
	if err := <-c.done; err != nil {
		c.t.Errorf("child: %v:\n%s", err, c.output)
	}
	timeout.Stop()
}

// TestLANChild is not a test: it is the program that the others start on their hosts.
func TestLANChild(t *testing.T) {
	text := os.Getenv(childEnv)
	if text == "" {
		return
	}
	var cfg childConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		t.Fatal(err)
	}
	if cfg.Forge != nil {
		forge(t, cfg.Forge)
		return
	}
	defer p2ptest.LeavesNothing(t)()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	log := zap.NewNop()
	if os.Getenv("NARBOR_TEST_VERBOSE") != "" {
		log, _ = zap.NewDevelopment()
	}
	host := testHostConfig(t, cfg.Port)
	host.Log = log
	var say sync.Mutex // guards up, too
	up := map[peer.ID]bool{}
	is := func(id peer.ID, now bool) (was bool) {
		say.Lock()
		defer say.Unlock()
		was, up[id] = up[id], now
		return was
	}
	print := func(format string, args ...any) {
		say.Lock()
		defer say.Unlock()
		fmt.Printf("@"+format+"\n", args...)
	}
	l, err := New(Config{MDNS: true, Peers: cfg.Peers, DenyInterfaces: cfg.Deny}, host, Hooks{LinksLooked: func() {
		if cable, err := net.InterfaceByName("eth0"); err == nil {
			print("cable %t", cable.Flags&net.FlagRunning != 0)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	l.host.Network().Notify(&network.NotifyBundle{
		// Of two connections that begin at once, both may be there when the first of them is reported.
		ConnectedF: func(_ network.Network, c network.Conn) {
			if !is(c.RemotePeer(), true) {
				print("up %s %s", c.RemotePeer(), c.RemoteMultiaddr())
			} else {
				print("double %s", c.RemotePeer())
			}
		},
		DisconnectedF: func(_ network.Network, c network.Conn) {
			if l.connected(c.RemotePeer()) {
				print("dropped %s", c.RemotePeer()) // there is another one
			} else {
				is(c.RemotePeer(), false)
				print("down %s", c.RemotePeer())
			}
		},
	})
	print("id %s", l.host.ID())
	start := time.Now()
	var settling sync.WaitGroup
	settling.Go(func() {
		select {
		case <-l.Settled():
			print("settled %v", time.Since(start))
		case <-ctx.Done():
		}
	})
	if err := l.Run(ctx); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	settling.Wait()
}

// forge announces each text by itself until its input ends.
func forge(t *testing.T, texts []string) {
	for _, text := range texts {
		s, err := zeroconf.RegisterProxy(rand.Text(), "_narbor._tcp", "local", 1, rand.Text(), []string{"192.0.2.1"}, []string{text}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Shutdown()
	}
	fmt.Println("@id forged")
	io.Copy(io.Discard, os.Stdin)
}
