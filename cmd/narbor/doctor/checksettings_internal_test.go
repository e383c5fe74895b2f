package doctor

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"narbor/trust"
)

const goodKey = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="

// The words are those of Nix 2.26.3 and 2.34.8. Nix 2.8.0 has "secret key is corrupt" in place of "key is corrupt".
func TestBrokenKeysAreSaidInTheWordsOfNix(t *testing.T) {
	for key, want := range map[string]string{
		goodKey:                    "",
		"/etc/nix/signing-key.pub": "key is corrupt",
		"key-1:":                   "key is corrupt",
		":AAAA":                    "key is corrupt",
		"key-1:AAAA":               "public key is not valid",
		"key-1:@@@@":               "invalid character in Base64 string: '@'",
	} {
		if got := keyProblem(key); got != want {
			t.Errorf("keyProblem(%q) = %q, want %q", key, got, want)
		}
	}
}

// Each key that narbor reports makes the Nix of this machine fail, in these words.
func TestNixFailsWithBrokenKeys(t *testing.T) {
	if _, err := exec.LookPath("nix"); err != nil {
		t.Skip("no nix")
	}
	for _, key := range []string{goodKey, "/etc/nix/signing-key.pub", "key-1:", ":AAAA", "key-1:AAAA", "key-1:@@@@"} {
		want := keyProblem(key)
		if got := nixSays(t, "trusted-public-keys = "+key); !saysOf(got, want) {
			t.Errorf("with the trusted key %q Nix says %q, and narbor %q", key, got, want)
		}
	}
	p := patient{root: true}
	for name, text := range map[string]string{"good": "", "empty": "", "word": "nonsense", "short": "k-1:AAAA", "letters": "k-1:@@@@"} {
		file := filepath.Join(t.TempDir(), name)
		if name == "good" {
			out, err := exec.CommandContext(t.Context(), "nix", "--extra-experimental-features", "nix-command", "key", "generate-secret",
				"--key-name", "k-1").Output()
			if err != nil {
				t.Fatal(err)
			}
			text = string(out)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		want := p.secretKeyProblem(t.Context(), file)
		if got := nixSays(t, "secret-key-files = "+file); !saysOf(got, want) || (name == "good") != (want == "") {
			t.Errorf("with the secret key %s Nix says %q, and narbor %q", name, got, want)
		}
	}
}

// saysOf reports whether the output of Nix has the wanted text. Nix colours the letter that it rejects.
func saysOf(says, want string) bool {
	if want == "" {
		return !strings.Contains(says, "error")
	}
	want, _, _ = strings.Cut(want, "'")
	return strings.Contains(says, want)
}

// nixSays adds a file to a store of its own with one line of configuration.
func nixSays(t *testing.T, line string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"nix.conf": line + "\n", "file": "text"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "nix", "--extra-experimental-features", "nix-command", "--store", dir+"/s", "store", "add-file",
		dir+"/file")
	cmd.Env = append(os.Environ(), "NIX_CONF_DIR="+dir, "NIX_USER_CONF_FILES=/dev/null")
	out, _ := cmd.CombinedOutput()
	return string(out)
}

func TestUserWhomNixDoesNotTrust(t *testing.T) {
	const url = "http://127.0.0.1:6272"
	lists := func(subs, keys string) map[string][]string {
		return map[string][]string{"substituters": strings.Fields(subs), "trusted-public-keys": strings.Fields(keys)}
	}
	for _, c := range []struct {
		name        string
		trusted     bool
		own, daemon map[string][]string
		want        string
	}{
		{"the same", false, lists(url, goodKey), lists(url, goodKey), ""},
		{"names narbor in vain", false, lists("https://a "+url+"/", goodKey), lists("https://a", goodKey),
			"error: the configuration of ann names narbor, but nix-daemon ignores it"},
		{"names narbor, and is trusted", true, lists("https://a "+url, goodKey), lists("https://a", goodKey), ""},
		{"names narbor, which others may", false, lists(url, goodKey),
			map[string][]string{"substituters": nil, "trusted-substituters": {url}, "trusted-public-keys": {goodKey}}, ""},
		{"takes narbor out", false, lists("https://a", goodKey), lists("https://a "+url, goodKey),
			"warning: Nix does not ask narbor for ann"},
		{"a key in vain", false, lists(url, goodKey+" own-1:AAAA"), lists(url, goodKey),
			"warning: nix-daemon ignores trusted keys in the configuration of ann, because it does not trust ann: own-1"},
		{"a key, and is trusted", true, lists(url, goodKey+" own-1:AAAA"), lists(url, goodKey), ""},
	} {
		got := ""
		for _, f := range (userSettings{"ann", c.trusted, c.own}).compare(c.daemon, []string{url}) {
			got += f.Severity + ": " + f.Text + "\n"
		}
		if !strings.HasPrefix(got, c.want) || (c.want == "") != (got == "") {
			t.Errorf("%s: doctor says %q, want %q", c.name, got, c.want)
		}
	}
}

func TestTrustedUsers(t *testing.T) {
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	u.Uid = "1000" // root is trusted anyway
	group, err := user.LookupGroupId(u.Gid)
	if err != nil {
		t.Fatal(err)
	}
	for list, want := range map[string]bool{"": false, "*": true, u.Username: true, "@" + group.Name: true,
		group.Name + "x @nobody-x": false} {
		if got := isTrusted(strings.Fields(list), u); got != want {
			t.Errorf("trusted-users = %s trusts %s: %v, want %v", list, u.Username, got, want)
		}
	}
}

func TestSettingsOfNixInPlainText(t *testing.T) {
	got := wordsOf("cores = 0\nexperimental-features = ca-derivations nix-command\nsubstituters =\nsandbox-paths = /bin/sh=/x\n\n")
	want := map[string][]string{"cores": {"0"}, "experimental-features": {"ca-derivations", "nix-command"}, "substituters": {},
		"sandbox-paths": {"/bin/sh=/x"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("wordsOf = %q, want %q", got, want)
	}
}

// A process that calls itself nix-daemon is asked only if it is root's, and its program is root's file here.
func TestForgedDaemonIsNotRun(t *testing.T) {
	proc, program := t.TempDir(), filepath.Join(t.TempDir(), "nix")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	process := func(pid, uid, exe string) {
		dir := filepath.Join(proc, pid)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"comm": "nix-daemon\n",
			"status":  "Name:\tnix-daemon\nUid:\t" + uid + "\t0\t0\t0\nGid:\t0\n",
			"cmdline": "nix-daemon\x00--option\x00cores\x003\x00", "environ": "HOME=/root\x00LD_PRELOAD=/tmp/evil.so\x00NIX_CONFIG=x\x00"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		_ = os.Remove(filepath.Join(dir, "exe"))
		if err := os.Symlink(exe, filepath.Join(dir, "exe")); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("only root has files that are root's")
	}
	process("7", "0", program)
	n, err := systemNix(proc)
	if err != nil || n.file != program || !n.daemon || !reflect.DeepEqual(n.options, []string{"--option", "cores", "3"}) {
		t.Fatalf("systemNix = %+v, %v, want the daemon's", n, err)
	}
	if env := strings.Join(n.env, " "); strings.Contains(env, "LD_PRELOAD") || !strings.Contains(env, "NIX_CONFIG=x") {
		t.Errorf("the environment is %q", env)
	}
	other := filepath.Join(filepath.Dir(program), "sh")
	if err := os.WriteFile(other, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	process("7", "0", other)
	if n, _ := systemNix(proc); n.daemon {
		t.Errorf("a program that is not Nix is run as %+v", n)
	}
	process("7", "1000", program)
	if n, _ := systemNix(proc); n.daemon {
		t.Errorf("another user's daemon is run as %+v", n)
	}
	process("7", "0", program)
	if err := os.Chown(program, 1000, 0); err != nil {
		t.Fatal(err)
	}
	if n, _ := systemNix(proc); n.daemon {
		t.Errorf("another user's program is run as %+v", n)
	}
	if err := os.Chown(program, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(program, 0o777); err != nil {
		t.Fatal(err)
	}
	if n, _ := systemNix(proc); n.daemon {
		t.Errorf("a program that everybody may change is run as %+v", n)
	}
}

func TestForgedRealisationsAreWarnedOf(t *testing.T) {
	const on = "nix-command ca-derivations"
	for _, c := range []struct{ version, features, substituters, want string }{
		{"nix (Nix) 2.8.0", on, "http://127.0.0.1:6272 https://cache.nixos.org/", "https://cache.nixos.org/"},
		{"nix (Nix) 2.34.8", on, "ssh-ng://user:word@builder", "ssh-ng://…@builder"},
		{"nix (Nix) 2.35.2", on, "https://a https://b", "https://a, https://b"},
		{"nix (Nix) 2.36.0", on, "https://a", ""},
		{"nix (Lix, like Nix) 2.95.2", on, "https://a", "https://a"},
		{"nix (Nix) 2.8.0", "nix-command", "https://a", ""},
		{"nix (Nix) 2.8.0", on, "http://localhost:6272 http://[::1]:6272 http://127.0.0.2:80 file:///srv /srv daemon unix:///x", ""},
		{"nix (Nix) 2.8.0", on, "http://localhost.example.org s3://bucket", "http://localhost.example.org, s3://bucket"},
	} {
		got := forgedRealisations(c.version,
			map[string][]string{"experimental-features": strings.Fields(c.features), "substituters": strings.Fields(c.substituters)})
		if len(got) > 0 != (c.want != "") || len(got) > 0 && !strings.Contains(got[0].Text, "machine: "+c.want+". ") {
			t.Errorf("%+v: doctor says %+v", c, got)
		}
	}
}

func TestFileThatNixDaemonHasNotReadSince(t *testing.T) {
	dir, began := t.TempDir(), time.Now().Add(-time.Hour)
	files := []string{dir + "/nix.conf", dir + "/absent", dir + "/included"}
	set := func(file string, when time.Time) {
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, when, when); err != nil {
			t.Fatal(err)
		}
	}
	set(files[0], began.Add(-time.Minute))
	set(files[2], began.Add(-time.Minute))
	if got := changedSince(began, files); got != "" {
		t.Errorf("%s counts as changed", got)
	}
	set(files[2], began.Add(time.Minute))
	if got := changedSince(began, files); got != files[2] {
		t.Errorf("%q counts as changed, want the included file", got)
	}
	if got := changedSince(time.Time{}, files); got != "" {
		t.Errorf("%s counts as changed since an unknown time", got)
	}
	set(files[2], began.Add(-time.Minute))
	if err := os.Symlink(files[2], files[1]); err != nil { // a new link to an old file
		t.Fatal(err)
	}
	if got := changedSince(began, files); got != files[1] {
		t.Errorf("%q counts as changed, want the link", got)
	}
}

// A secret key among the public ones is reported, and not shown.
func TestSecretKeyInPlaceOfAPublicOneIsNotShown(t *testing.T) {
	secret := strings.Repeat("A", 86) + "=="
	p := patient{conf: map[string][]string{"trusted-public-keys": {"own-1:" + secret}}}
	found := p.brokenKeys(t.Context())
	if len(found) != 1 || strings.Contains(found[0].Text, secret[:20]) || !strings.Contains(found[0].Text, "own-1:…") {
		t.Errorf("brokenKeys of a secret key = %+v, want its name alone", found)
	}
	if _, err := trust.ParseKeys([]string{"own-1:" + secret}); err == nil || strings.Contains(err.Error(), secret[:20]) {
		t.Errorf("ParseKeys of a secret key = %v, want an error with its name alone", err)
	}
}
