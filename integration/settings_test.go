package integration_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"narbor/integration/lan"
)

// otherKey is trusted besides the corpus's.
const otherKey = "own-1:9oASiCpLX9mxsJCRLt1n3xhXNYgzDVrU7J+3LgA1QyI="

// settled waits until doctor's check settings finds something of that severity, with that text: narbor reads what has
// changed a moment later.
func (w world) settled(h *lan.Host, severity, text string) finding {
	w.Helper()
	var f finding
	w.eventually(func() bool {
		f = w.doctor(h, "settings")
		return f.Severity == severity && strings.Contains(f.Text, text)
	})
	return f
}

// The doctor compares, as root, what Nix has with what narbor has, which runs as another user.
func TestDoctorComparesNixWithNarbor(t *testing.T) {
	nixes := nixes(t)
	w := newWorld(t)
	for _, nix := range nixes {
		t.Run(nix.Version, func(t *testing.T) {
			w := world{t, w.lan, w.ctx}
			h := w.host(lan.HostConfig{Name: "desk-" + nix.Version, System: nix.System},
				"substituters = http://localhost:6272/?priority=10")
			w.shell(h, "touch -d '1 minute ago' /etc/nix/nix.conf")
			w.start(h)
			w.well(h, "nix")
			w.well(h, "settings")

			w.must(h.WriteFile("/etc/nix/more.conf", "extra-trusted-public-keys = "+otherKey+"\n"))
			w.shell(h, "chmod 600 /etc/nix/more.conf; echo '!include more.conf' >> /etc/nix/nix.conf; touch -d '1 minute ago' /etc/nix/*")
			w.settled(h, "warning", "Nix has trusted keys that narbor, which runs as nobody, does not have: own-1")
			if out, _ := h.Run(w.ctx, narbor, "doctor", "settings"); !strings.Contains(strings.Join(strings.Fields(out), " "),
				"could not read /etc/nix/more.conf (permission denied)") {
				w.Errorf("doctor does not name the file that narbor may not read:\n%s", out)
			}
			w.shell(h, "chmod 644 /etc/nix/more.conf")
			w.well(h, "settings")
			w.shell(h, "chmod 600 /etc/nix/nix.conf")
			w.settled(h, "warning", "Nix has trusted keys that narbor, which runs as nobody, does not have: ")
			w.shell(h, "chmod 644 /etc/nix/nix.conf")
			w.well(h, "settings")

			w.well(h, "nix")
			w.shell(h, "touch -d '10 seconds' /etc/nix/more.conf")
			w.wrong(h, "warning", "nix", "/etc/nix/more.conf was changed last, and has not read it since")
			w.shell(h, "touch -d '1 minute ago' /etc/nix/more.conf")
			w.brokenKeys(h)
			w.ownConf(h)
			w.forgedRealisations(h)
		})
	}
}

// brokenKeys wants the doctor to say of broken keys what Nix says, and where they are.
func (w world) brokenKeys(h *lan.Host) {
	w.Helper()
	w.shell(h, ": > /etc/nix/empty-key")
	for file, value := range map[string]string{"key-is-a-path.conf": "/etc/nix/signing-key.pub",
		"empty-secret-key.conf": "/etc/nix/empty-key"} {
		text, err := os.ReadFile("testdata/" + file)
		w.must(err)
		w.must(h.WriteFile("/etc/nix/broken.conf", "# a comment\n"+string(text)))
		w.shell(h, "cp /etc/nix/nix.conf /tmp/well.conf; echo '!include broken.conf' >> /etc/nix/nix.conf")
		f := w.settled(h, "error", "/etc/nix/broken.conf:2: ")
		if says := w.shell(h, "date +%N > /tmp/new; NIX_REMOTE= nix --extra-experimental-features nix-command store add-file /tmp/new "+
			"2>&1 || true"); !strings.Contains(says, "key is corrupt") ||
			!strings.Contains(f.Text, `Nix says "key is corrupt"`) || !strings.Contains(f.Text, value) {
			w.Errorf("%s: of %s Nix says %q, and doctor %+v", h.Name, file, says, f)
		}
		w.shell(h, "cp /tmp/well.conf /etc/nix/nix.conf; rm /etc/nix/broken.conf; touch -d '1 minute ago' /etc/nix/*")
		w.well(h, "settings")
	}
}

// ownConf gives a user that nix-daemon does not trust a configuration file, and checks doctor's findings about it.
func (w world) ownConf(h *lan.Host) {
	w.Helper()
	w.shell(h, "echo 'ann:x:1000:1000::/home/ann:/bin/sh' >> /etc/passwd; mkdir -p /home/ann/.config/nix; chown -R 1000:1000 /home/ann; "+
		"chmod 755 /home /home/ann")
	const own = "/home/ann/.config/nix/nix.conf"
	doctor := func() string {
		out, _ := h.Run(w.ctx, "env", "SUDO_UID=1000", narbor, "doctor", "settings") // it fails if it finds something
		return strings.Join(strings.Fields(out), " ")
	}
	w.must(h.WriteFile(own, "extra-substituters = https://b.example.org\n"))
	if out := doctor(); !strings.Contains(out, "everything is well") {
		w.Errorf("%s: with an own configuration that takes nothing away:\n%s", h.Name, out)
	}
	text, err := os.ReadFile("testdata/user-nix.conf-that-undoes")
	w.must(err)
	w.must(h.WriteFile(own, string(text)+"extra-trusted-public-keys = third-1:9oASiCpLX9mxsJCRLt1n3xhXNYgzDVrU7J+3LgA1QyI=\n"))
	if out := doctor(); !strings.Contains(out, "Nix does not ask narbor for ann") ||
		!strings.Contains(out, "because it does not trust ann: third-1") {
		w.Errorf("%s: with an own configuration that takes narbor out:\n%s", h.Name, out)
	}
	w.must(h.WriteFile(own, "extra-substituters = http://127.0.0.1:6272\n"))
	w.shell(h, "cp /etc/nix/nix.conf /tmp/well.conf; echo 'substituters = https://a.example.org' >> /etc/nix/nix.conf")
	if out := doctor(); !strings.Contains(out, "names narbor, but nix-daemon ignores it, because it does not trust ann") {
		w.Errorf("%s: with an own configuration that is ignored:\n%s", h.Name, out)
	}
	w.shell(h, "cp /tmp/well.conf /etc/nix/nix.conf; rm "+own)
}

// forgedRealisations wants a warning where Nix asks others than this machine about content-addressed derivations.
func (w world) forgedRealisations(h *lan.Host) {
	w.Helper()
	says := func() string {
		out, _ := h.Run(w.ctx, narbor, "doctor", "version")
		return strings.Join(strings.Fields(out), " ")
	}
	w.shell(h, "cp /etc/nix/nix.conf /tmp/well.conf; echo 'extra-experimental-features = ca-derivations' >> /etc/nix/nix.conf")
	if out := says(); strings.Contains(out, "ca-derivations") || !strings.Contains(out, "nix-daemon (Nix ") {
		w.Errorf("%s: ca-derivations, and narbor alone is asked: doctor says\n%s", h.Name, out)
	}
	w.shell(h, "echo 'extra-substituters = https://cache.example.org' >> /etc/nix/nix.conf")
	if out := says(); !strings.Contains(out, "ca-derivations is on") || !strings.Contains(out, "https://cache.example.org.") {
		w.Errorf("%s: ca-derivations, and another substituter: doctor says\n%s", h.Name, out)
	}
	w.shell(h, "cp /tmp/well.conf /etc/nix/nix.conf")
}

// Nix believes what a substituter says of the outputs of content-addressed derivations. narbor says nothing of them.
func TestNixLearnsNoRealisationFromNarbor(t *testing.T) {
	nixes := nixes(t)
	w := newWorld(t)
	for _, nix := range nixes {
		h := w.host(lan.HostConfig{Name: "desk-" + nix.Version, System: nix.System}, "substituters = "+lan.Substituter, "sandbox = false",
			"extra-experimental-features = ca-derivations", "build-users-group =")
		w.start(h)
		for _, path := range []string{"realisations/sha256:" + strings.Repeat("0", 64) + "!out.doi",
			"build-trace-v2/" + strings.Repeat("0", 32) + "-x.drv/out.doi"} {
			if code := w.shell(h, "curl -s -o /dev/null -w '%{http_code}' '"+lan.Substituter+"/"+path+"'"); code != "404" {
				t.Errorf("%s: GET /%s = %s, want 404", h.Name, path, code)
			}
		}
		out := w.shell(h, fmt.Sprintf(`nix-build -vvvv --no-out-link --expr 'derivation { name = "ca"; `+
			`system = builtins.currentSystem; builder = "/bin/sh";
			args = [ "-c" "echo %s > $out" ]; __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; }' 2>&1`,
			nix.Version))
		if !regexp.MustCompile(`6272/(realisations|build-trace-v2)/`).MatchString(out) || !strings.Contains(out, "building '") {
			t.Errorf("%s: Nix did not ask narbor for a realisation, or did not build:\n%s", h.Name, out)
		}
	}
}
