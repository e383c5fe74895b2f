package p2p

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"narbor/p2p/p2ptest"
	"narbor/p2p/transport"
	"narbor/store/spool"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// startBanned makes a node with a file of bans, and returns what it warned of at its start.
func startBanned(t *testing.T, file string) (n *Node, warned []string) {
	t.Helper()
	core, logs := observer.New(zap.WarnLevel)
	s := trusttest.NewSigner(t)
	spool, err := spool.Open(spool.Config{Dir: t.TempDir(), MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { spool.Close() })
	n, err = New(Config{Host: transport.Config{Identity: p2ptest.NewIdentity(t), Log: zap.New(core)}, Trusted: s.Keys,
		Sharing: SharingConfig{Policy: trust.Policy{Keys: s.Keys}},
		Spool:   spool,
		Denied:  file})
	if err != nil {
		t.Fatalf("New = %v", err)
	}
	t.Cleanup(func() { n.lan.Host().Close() })
	for _, e := range logs.All() {
		warned = append(warned, fmt.Sprint(e.Message, " ", e.ContextMap()["error"]))
	}
	return n, warned
}

func TestNodeRefusesPeersBannedBefore(t *testing.T) {
	file := filepath.Join(t.TempDir(), "denied.json")
	liar := (&rogue{}).start(t)
	text := fmt.Sprintf(`[{"id":%q,"reason":"lied","until":%q}]`, liar.ID(), time.Now().Add(30*time.Minute).Format(time.RFC3339))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n, warned := startBanned(t, file)
	if len(warned) != 0 {
		t.Errorf("New warns: %q", warned)
	}
	if n.lan.Gate.InterceptPeerDial(liar.ID()) || n.lan.Gate.InterceptSecured(0, liar.ID(), nil) {
		t.Error("a connection with the liar is let through")
	}
	if s := n.Status().Banned; len(s) != 1 || s[0].ID != liar.ID().String() || s[0].Reason != "lied" {
		t.Errorf("banned are %v, want the liar", s)
	}
}
