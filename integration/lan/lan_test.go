package lan_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// unable skips the test on a user's machine and fails it under CI=true.
func unable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func newLAN(t *testing.T) *lan.LAN {
	t.Helper()
	if os.Geteuid() != 0 {
		unable(t, "a LAN of namespaces needs root")
	}
	for _, tool := range []string{"ip", "tc", "nft", "nix-store", "nginx", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			unable(t, err.Error())
		}
	}
	l, err := lan.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func add(t *testing.T, l *lan.LAN, cfg lan.HostConfig) *lan.Host {
	t.Helper()
	h, err := l.Add(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHostsReachEachOtherAndNothingElse(t *testing.T) {
	l := newLAN(t)
	a, b := add(t, l, lan.HostConfig{Name: "a"}), add(t, l, lan.HostConfig{Name: "b"})
	if err := a.WriteFile("/srv/web/nix-cache-info", "StoreDir: /nix/store\n"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.StartNginx("/srv/web"); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{a.Addr4.String(), "[" + a.Addr6.String() + "]"} {
		code, _, err := b.Get(t.Context(), "http://"+addr+":8080/nix-cache-info")
		if err != nil || code != "200" {
			t.Errorf("b gets %s, %v from %s, want 200", code, err, addr)
		}
	}
	if out, err := b.Run(t.Context(), "ip", "-brief", "link"); err != nil || strings.Count(out, "\n") != 2 {
		t.Errorf("b's interfaces are %s, %v, want lo and eth0", out, err)
	}
	if err := b.Unplug(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if code, _, err := b.Get(ctx, "http://"+a.Addr4.String()+":8080/nix-cache-info"); err == nil {
		t.Errorf("b gets %s though its cable is pulled", code)
	}
}

func TestLANEndsWithItsProcesses(t *testing.T) {
	l := newLAN(t)
	a := add(t, l, lan.HostConfig{Name: "a"})
	d, err := a.StartNixDaemon()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-d.Done():
	case <-time.After(10 * time.Second):
		t.Error("nix-daemon has survived its host")
	}
	if _, err := os.Stat("/nix/var/nix/daemon-socket/socket"); err == nil && os.Getenv("CI") == "true" {
		t.Error("the host's /nix has reached the computer's own")
	}
}

func TestRealNixFetchesFromNginxNextDoor(t *testing.T) {
	l := newLAN(t)
	c, err := corpus.Open(t.Context(), corpus.Small(), func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	a := add(t, l, lan.HostConfig{Name: "a", Nix: c.Nix, Binds: map[string]string{"srv/cache": c.Cache}})
	b := add(t, l, lan.HostConfig{Name: "b"})
	_, url, err := a.StartNginx("/srv/cache")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Configure("substituters = "+url, "trusted-public-keys = "+corpus.PublicKey()); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*lan.Host{a, b} {
		if _, err := h.StartNixDaemon(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	start := time.Now()
	var said []string
	out, err := b.Watch(ctx, func(line string) { said = append(said, line) }, lan.BuildCommand("reader", c.Top.String())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s after %s", out, time.Since(start))
	if len(said) < len(c.Infos) {
		t.Errorf("Watch told %d lines of nix-build, want one for each of %d paths at least", len(said), len(c.Infos))
	}
	for _, h := range []*lan.Host{a, b} {
		if err := h.Verify(ctx); err != nil {
			t.Error(err)
		}
		if paths, err := h.Requisites(ctx, c.Top.String()); err != nil || len(paths) != len(c.Infos) {
			t.Errorf("%s has %d of %d paths: %v", h.Name, len(paths), len(c.Infos), err)
		}
	}
	reqs, err := a.NginxRequests()
	if err != nil || len(reqs) < 2*len(c.Infos) {
		t.Errorf("nginx was asked %d times (%v), want at least %d", len(reqs), err, 2*len(c.Infos))
	}
}
