package integration_test

import (
	"testing"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// If nix-daemon starts after narbor, narbor shares the store without a restart.
func TestNixThatComesUpLaterIsShared(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	alice, err := w.lan.Add(lan.HostConfig{Name: "alice", Nix: c.Nix, Binds: map[string]string{"opt": programs.dir}})
	w.must(err)
	w.must(alice.Configure("extra-trusted-public-keys = "+corpus.PublicKey(), "substituters ="))
	w.start(alice)
	url := lan.Substituter + "/" + string(c.Top.HashPart()) + ".narinfo"
	if out, err := alice.Run(w.ctx, "curl", "-sf", url); err == nil {
		t.Fatalf("narbor serves a store that nobody may ask: %s", out)
	}
	_, err = alice.StartNixDaemon()
	w.must(err)
	for deadline := time.Now().Add(lan.AtMost(20 * time.Second)); ; time.Sleep(200 * time.Millisecond) {
		if _, err := alice.Run(w.ctx, "curl", "-sf", url); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the store is not served 20 s after its daemon came up: %v", err)
		}
	}
	bob, _ := w.fetching("bob")
	w.neighbours(bob, 1)
	w.realise(bob, c.Top.String())
	w.whole(bob, c, c.Top.String())
}
