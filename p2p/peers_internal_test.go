package p2p

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// newPeersNode returns a node that runs until the test ends, and keeps added peers in a file.
func newPeersNode(t *testing.T, cfg Config) *Node {
	t.Helper()
	cfg.Identity = newTestIdentity(t)
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
	return n
}

func waitGone(t *testing.T, n *Node, l *lan, limit time.Duration) {
	t.Helper()
	for end := time.Now().Add(limit); n.lan.connected(l.host.ID()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still connected after %v", limit)
		}
	}
}

func TestPeersAreAddedAndRemovedWhileRunning(t *testing.T) {
	defer leavesNothing(t)()
	a, stopA := startTestLAN(t, lanConfig{})
	defer stopA()
	file := filepath.Join(t.TempDir(), "peers.json")
	text := loopback(a)
	t.Run("added", func(t *testing.T) {
		n := newPeersNode(t, Config{PeersFile: file})
		if err := n.AddPeer(text); err != nil {
			t.Fatal(err)
		}
		if err := n.AddPeer(text); err != nil || len(n.Peers()) != 1 {
			t.Errorf("adding it again: %v, and %d peers, want 1", err, len(n.Peers()))
		}
		waitConnected(t, n.lan, a.host.ID(), 10*time.Second)
		got := n.Peers()[0]
		if got.Text != text || got.From != fromAdded || !slices.Equal(got.Connected, []string{a.host.ID().String()}) {
			t.Errorf("Peers() = %+v", got)
		}
		st, err := os.Stat(file)
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("mode of the file = %v, %v, want 0600", st.Mode(), err)
		}
	})
	t.Run("after a restart", func(t *testing.T) {
		n := newPeersNode(t, Config{PeersFile: file})
		waitConnected(t, n.lan, a.host.ID(), 10*time.Second)
		if err := n.RemovePeer(text); err != nil {
			t.Fatal(err)
		}
		waitGone(t, n, a, 10*time.Second)
		if got := n.Peers(); len(got) != 0 {
			t.Errorf("Peers() = %v, want none", got)
		}
		if err := n.RemovePeer(text); err == nil {
			t.Error("removed twice without an error")
		}
	})
	t.Run("removed after a restart", func(t *testing.T) {
		if got := newPeersNode(t, Config{PeersFile: file}).Peers(); len(got) != 0 {
			t.Errorf("Peers() = %v, want none", got)
		}
	})
}

func TestAddPeerRefuses(t *testing.T) {
	n := newPeersNode(t, Config{PeersFile: filepath.Join(t.TempDir(), "peers.json"), Peers: []string{"127.0.0.1:9"}})
	for _, text := range []string{"", "a b", "10.0.0.1:0", "/ip4/10.0.0.1/udp/1", strings.Repeat("a", maxPeerText+1)} {
		if err := n.AddPeer(text); err == nil {
			t.Errorf("AddPeer(%.20q) = nil, want an error", text)
		}
	}
	if err := n.RemovePeer("127.0.0.1:9"); err == nil || !strings.Contains(err.Error(), "--peer") {
		t.Errorf("RemovePeer(of a flag) = %v, want an error that says where it comes from", err)
	}
	for i := range maxAdded {
		if err := n.AddPeer(fmt.Sprintf("127.0.1.%d:9", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.AddPeer("127.0.2.1:9"); err == nil {
		t.Errorf("%d peers were added, want at most %d", maxAdded+1, maxAdded)
	}
}

func TestDamagedPeersFileStopsNothing(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON": "[\"10.0.0.1\"", "more": `["10.0.0.1"] x`, "not a list": `{"a": 1}`, "no peer": `["10.0.0.1", "a b"]`,
		"too many": `["` + strings.Repeat(`10.0.0.1","`, maxAdded) + `10.0.0.1"]`,
	} {
		file := filepath.Join(t.TempDir(), "peers.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		core, logs := observer.New(zap.WarnLevel)
		n := newPeersNode(t, Config{PeersFile: file, Log: zap.New(core)})
		if len(n.Peers()) != 0 || logs.FilterMessageSnippet("forgotten").Len() != 1 {
			t.Errorf("%s: peers %v and log %v, want none and one line", name, n.Peers(), logs.All())
		}
		if err := n.AddPeer("127.0.0.1:9"); err != nil {
			t.Errorf("%s: AddPeer afterwards = %v", name, err)
		}
	}
}

func TestKernelPeers(t *testing.T) {
	a, _ := startTestLAN(t, lanConfig{})
	core, logs := observer.New(zap.WarnLevel)
	n := newPeersNode(t, Config{KernelPeers: []string{"a b", loopback(a)}, Log: zap.New(core)})
	waitConnected(t, n.lan, a.host.ID(), 10*time.Second)
	if got := n.lan.Via(a.host.ID()); got != viaKernel {
		t.Errorf("Via = %q, want %q", got, viaKernel)
	}
	if logs.FilterMessageSnippet("narbor.peers=").Len() != 1 {
		t.Errorf("log = %v, want a line about the mistake", logs.All())
	}
}
