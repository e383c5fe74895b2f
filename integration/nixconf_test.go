package integration_test

import (
	"strings"
	"testing"

	"narbor/integration/lan"
)

// Each Nix has narbor's line and all other settings after nix.conf, which has no final line feed, was edited.
func TestEditOfNixConfHoldsWithEveryNix(t *testing.T) {
	nixes := nixes(t)
	w := newWorld(t)
	for _, nix := range nixes {
		h, err := w.lan.Add(lan.HostConfig{Name: "nix-" + nix.Version, System: nix.System, Binds: map[string]string{"opt": programs.dir}})
		w.must(err)
		const conf = "cores = 3\nsubstituters = https://cache.example.org\nexperimental-features = nix-command flakes"
		w.must(h.WriteFile("/etc/nix/nix.conf", conf))
		w.shell(h, "chmod 600 /etc/nix/nix.conf")
		out := w.shell(h, narbor+" config nix --add 'extra-substituters = "+lan.Substituter+"'")
		text, err := h.ReadFile("/etc/nix/nix.conf")
		w.must(err)
		if want := conf + "\nextra-substituters = " + lan.Substituter + " # narbor\n"; text != want {
			t.Errorf("Nix %s: nix.conf is %q, want %q\n%s", nix.Version, text, want, out)
		}
		shown := w.shell(h, "nix config show 2>/dev/null || nix show-config; stat -c mode=%a /etc/nix/nix.conf")
		for _, want := range []string{"cores = 3\n", "flakes", "https://cache.example.org", lan.Substituter, "mode=600"} {
			if !strings.Contains(shown, want) {
				t.Errorf("Nix %s lacks %q after the edit:\n%s", nix.Version, want, shown)
			}
		}
		w.must(h.WriteFile("/etc/nix/nix.conf", conf+"\nsubstituters = https://a\n!include later\n"))
		w.must(h.WriteFile("/etc/nix/later", "max-jobs = 2\n"))
		w.shell(h, narbor+" config nix --add 'extra-substituters = "+lan.Substituter+"'")
		if text, err = h.ReadFile("/etc/nix/nix.conf"); err != nil ||
			!strings.HasSuffix(text, "!include later\nextra-substituters = "+lan.Substituter+" # narbor\n") {
			t.Errorf("Nix %s: nix.conf is %q, %v", nix.Version, text, err)
		}
	}
}
