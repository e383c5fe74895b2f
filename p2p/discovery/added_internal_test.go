package discovery

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"narbor/p2p/p2ptest"
	"narbor/store/storetest"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// addedTo runs a lan that keeps added peers in a file.
func addedTo(t *testing.T, file string) *LAN {
	t.Helper()
	l, _ := startTestLAN(t, Config{PeersFile: file})
	return l
}

func waitGone(t *testing.T, n *LAN, l *LAN, limit time.Duration) {
	t.Helper()
	for end := time.Now().Add(storetest.AtMost(limit)); n.connected(l.host.ID()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still connected after %v", limit)
		}
	}
}

func TestPeersAreAddedAndRemovedWhileRunning(t *testing.T) {
	defer p2ptest.LeavesNothing(t)()
	a, stopA := startTestLAN(t, Config{})
	defer stopA()
	file := filepath.Join(t.TempDir(), "peers.json")
	text := loopback(a)
	t.Run("added", func(t *testing.T) {
		n := addedTo(t, file)
		if err := n.AddPeer(text); err != nil {
			t.Fatal(err)
		}
		if err := n.AddPeer(text); err != nil || len(n.NamedPeers()) != 1 {
			t.Errorf("adding it again: %v, and %d peers, want 1", err, len(n.NamedPeers()))
		}
		waitConnected(t, n, a.host.ID())
		got := n.NamedPeers()[0]
		if got.Text != text || got.From != fromAdded || !slices.Equal(got.Connected, []string{a.host.ID().String()}) {
			t.Errorf("Peers() = %+v", got)
		}
		st, err := os.Stat(file)
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("mode of the file = %v, %v, want 0600", st.Mode(), err)
		}
	})
	t.Run("after a restart", func(t *testing.T) {
		n := addedTo(t, file)
		waitConnected(t, n, a.host.ID())
		if err := n.RemovePeer(text); err != nil {
			t.Fatal(err)
		}
		waitGone(t, n, a, 10*time.Second)
		if got := n.NamedPeers(); len(got) != 0 {
			t.Errorf("Peers() = %v, want none", got)
		}
		if err := n.RemovePeer(text); err == nil {
			t.Error("removed twice without an error")
		}
	})
	t.Run("removed after a restart", func(t *testing.T) {
		if got := addedTo(t, file).NamedPeers(); len(got) != 0 {
			t.Errorf("Peers() = %v, want none", got)
		}
	})
}

func TestAddPeerRefuses(t *testing.T) {
	n, _ := startTestLAN(t, Config{PeersFile: filepath.Join(t.TempDir(), "peers.json"), Peers: []string{"127.0.0.1:9"}})
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
		host := testHostConfig(t, 0)
		host.Log = zap.New(core)
		n, _ := startTestLANAs(t, Config{PeersFile: file}, host, Hooks{})
		if len(n.NamedPeers()) != 0 || logs.FilterMessageSnippet("forgotten").Len() != 1 {
			t.Errorf("%s: peers %v and log %v, want none and one line", name, n.NamedPeers(), logs.All())
		}
		if err := n.AddPeer("127.0.0.1:9"); err != nil {
			t.Errorf("%s: AddPeer afterwards = %v", name, err)
		}
	}
}

func TestKernelPeers(t *testing.T) {
	a, _ := startTestLAN(t, Config{})
	core, logs := observer.New(zap.WarnLevel)
	host := testHostConfig(t, 0)
	host.Log = zap.New(core)
	n, _ := startTestLANAs(t, Config{KernelPeers: []string{"a b", loopback(a)}}, host, Hooks{})
	waitConnected(t, n, a.host.ID())
	if got := n.Via(a.host.ID()); got != viaKernel {
		t.Errorf("Via = %q, want %q", got, viaKernel)
	}
	if logs.FilterMessageSnippet("narbor.peers=").Len() != 1 {
		t.Errorf("log = %v, want a line about the mistake", logs.All())
	}
}
