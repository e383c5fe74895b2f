package integration_test

import (
	"os"
	"strings"
	"testing"

	"narbor/integration/corpus"
	"narbor/integration/lan"
)

// A file that narbor may not read keeps it from nothing but believing that it has read everything: it says which and
// why, and shares what public keys have signed. No secret key is opened.
func TestUnreadableConfigurationIsSaidAndSharesOn(t *testing.T) {
	text, err := os.ReadFile("testdata/own-key-below-secret-include.conf")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	for name, include := range map[string]string{"alice": "!include", "bob": "include"} {
		h := w.host(lan.HostConfig{Name: name, Nix: c.Nix})
		w.shell(h, `mkdir -m 700 /etc/nix/secrets; echo "access-tokens = github.com=x" > /etc/nix/secrets/tokens.conf
			(umask 077; echo secret > /etc/nix/own.sec)`)
		w.must(h.Configure(strings.Replace(string(text), "!include", include, 1)))
		p := w.start(h)
		w.probe(h, map[string]string{c.Infos[0].Path.String(): "signed by a public key"}, nil)
		status, _ := h.Narbor(w.ctx, narbor, "status", "--json") // it fails, for Nix does not ask narbor
		doctor, _ := h.Narbor(w.ctx, narbor, "doctor", "health")
		keys, err := h.Narbor(w.ctx, narbor, "keys")
		w.must(err)
		log, err := p.Log()
		w.must(err)
		for where, said := range map[string]string{"run": log, "status": status, "doctor": strings.Join(strings.Fields(doctor), " ")} {
			if !strings.Contains(said, "/etc/nix/secrets/tokens.conf") || !strings.Contains(said, "permission denied") {
				t.Errorf("%s: %s does not name the file that cannot be read, and why:\n%s", include, where, said)
			}
		}
		if !strings.Contains(keys, "own-1") || strings.Contains(log, "own.sec") {
			t.Errorf("%s: keys are\n%s\nand the log is\n%s", include, keys, log)
		}
	}
}
