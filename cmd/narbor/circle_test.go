package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"narbor/cmd/narbor/circle"
	"narbor/cmd/narbor/control"
	"narbor/store/storetest"
)

// A circleHost is a machine's state directory and nix.conf.
type circleHost struct{ state, conf string }

// newCircleHost makes it the test's machine.
func newCircleHost(t *testing.T) circleHost {
	t.Helper()
	h := circleHost{t.TempDir(), t.TempDir()}
	storetest.WriteText(t, h.conf+"/nix.conf", "# mine\n")
	h.use(t)
	return h
}

// use makes a machine the one that commands run on.
func (h circleHost) use(t *testing.T) {
	for name, value := range map[string]string{"NIX_CONF_DIR": h.conf, "NIX_USER_CONF_FILES": "", "NIX_CONFIG": "",
		"STATE_DIRECTORY": h.state, "SUDO_UID": ""} {
		t.Setenv(name, value)
	}
}

// circleCommands runs commands, and ends the test if one fails.
func circleCommands(t *testing.T, lines ...[]string) (out string) {
	t.Helper()
	for _, args := range lines {
		text, _, err := narbor(t.Context(), append([]string{"circle"}, args...)...)
		if err != nil {
			t.Fatalf("narbor circle %s: %v\n%s", strings.Join(args, " "), err, text)
		}
		out += text
	}
	return out
}

func refuses(t *testing.T, says string, args ...string) {
	t.Helper()
	if out, _, err := narbor(t.Context(), append([]string{"circle"}, args...)...); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("narbor circle %s = %v, want %q\n%s", strings.Join(args, " "), err, says, out)
	}
}

// keyOf returns the public key of the machine's circle.
func keyOf(t *testing.T, h circleHost) string {
	t.Helper()
	now, err := circle.Load(h.state)
	if err != nil || now == nil {
		t.Fatal(now, err)
	}
	return now.Keys[0]
}

func TestCircleFromInitToLeave(t *testing.T) {
	builder := newCircleHost(t)
	file := filepath.Join(t.TempDir(), "home.circle")
	out := circleCommands(t, []string{"init", "home", "--write", "--file", file})
	first := keyOf(t, builder)
	conf := storetest.ReadText(t, builder.conf+"/nix.conf")
	want := "# mine\nextra-secret-key-files = " + builder.conf + "/home-1.sec\nextra-trusted-public-keys = " + first + "\n"
	if conf != want {
		t.Errorf("nix.conf is\n%s\nwant\n%s", conf, want)
	}
	secret := storetest.ReadText(t, builder.conf+"/home-1.sec")
	refuses(t, "in the circle home already", "init", "other")
	refuses(t, "in the circle home already", "join", file)
	out += circleCommands(t, []string{"show"}, []string{"show", "--json"})

	member := newCircleHost(t)
	out += circleCommands(t, []string{"join", file, "--write"}, []string{"show"})
	if got, want := storetest.ReadText(t, member.conf+"/nix.conf"), "# mine\nextra-trusted-public-keys = "+first+"\n"; got != want {
		t.Errorf("a member's nix.conf is\n%s\nwant\n%s", got, want)
	}
	refuses(t, "does not sign for the circle", "rotate")

	builder.use(t)
	next := filepath.Join(t.TempDir(), "next.circle")
	out += circleCommands(t, []string{"rotate", "--write", "--file", next})
	second := keyOf(t, builder)
	if conf := storetest.ReadText(t, builder.conf+"/nix.conf"); keyName(second) != "home-2" || strings.Contains(conf, first) ||
		strings.Contains(conf, "home-1.sec") || !strings.Contains(conf, second) || !strings.Contains(conf, "home-2.sec") {
		t.Errorf("after the rotation to %s nix.conf is\n%s", second, conf)
	}
	if storetest.ReadText(t, builder.conf+"/home-1.sec") != secret {
		t.Error("the rotation has changed the old key")
	}

	member.use(t)
	refuses(t, "--replace", "join", next)
	out += circleCommands(t, []string{"join", "--replace", "--write", next})
	if got, want := storetest.ReadText(t, member.conf+"/nix.conf"), "# mine\nextra-trusted-public-keys = "+second+"\n"; got != want {
		t.Errorf("after the rotation a member's nix.conf is\n%s\nwant\n%s", got, want)
	}
	out += circleCommands(t, []string{"leave", "--write"})
	if got := storetest.ReadText(t, member.conf+"/nix.conf"); got != "# mine\n" {
		t.Errorf("after it has left, a member's nix.conf is\n%s", got)
	}
	refuses(t, "in no circle", "leave")
	refuses(t, "in no circle", "show")
	var invited circle.Circle
	if err := json.Unmarshal([]byte(storetest.ReadText(t, file)), &invited); err != nil {
		t.Fatal(err)
	}
	if _, base64, _ := strings.Cut(secret, ":"); strings.Contains(out, base64) || strings.Contains(out, invited.Secret) {
		t.Errorf("a secret was printed:\n%s", out)
	}
}

func TestCircleWithoutWriteLeavesNixConfAlone(t *testing.T) {
	h := newCircleHost(t)
	out := circleCommands(t, []string{"init", "home", "--file", filepath.Join(t.TempDir(), "f"), "--key", h.conf + "/k"})
	key := keyOf(t, h)
	for _, line := range []string{"\n  extra-secret-key-files = " + h.conf + "/k\n", "\n  extra-trusted-public-keys = " + key + "\n"} {
		if !strings.Contains(out, line) {
			t.Errorf("init says\n%s\nwant the line%s", out, line)
		}
	}
	out = circleCommands(t, []string{"show"})
	if !strings.Contains(out, circle.Fingerprint(key)) || !strings.Contains(out, "not trusted") ||
		!strings.Contains(out, "does not name yet") {
		t.Errorf("show says\n%s\nwant the fingerprint, and that nix.conf lacks both lines", out)
	}
	circleCommands(t, []string{"leave"})
	if got := storetest.ReadText(t, h.conf+"/nix.conf"); got != "# mine\n" {
		t.Errorf("nix.conf is\n%s", got)
	}
}

// A step that fails leaves nothing of those before it.
func TestCircleInitIsAllOrNothing(t *testing.T) {
	h := newCircleHost(t)
	file := filepath.Join(t.TempDir(), "home.circle")
	storetest.WriteText(t, file, "mine")
	refuses(t, "is not replaced", "init", "home", "--file", file)
	storetest.WriteText(t, h.conf+"/taken", "mine")
	refuses(t, "is not replaced", "init", "home", "--key", h.conf+"/taken", "--file", file+"2")
	refuses(t, "a space", "init", "home", "--key", h.conf+"/a b", "--file", file+"2")
	refuses(t, "no name for a circle", "init", "cache.nixos.org", "--file", file+"2")
	refuses(t, "Say a name", "init")
	storetest.WriteText(t, h.conf+"/nix.conf",
		"# WARNING: this file is generated from the nix.* options in\n# your NixOS configuration, typically\n")
	refuses(t, "configuration.nix", "init", "home", "--write", "--file", file+"2")
	if got := storetest.ReadText(t, file) + storetest.ReadText(t, h.conf+"/taken"); got != "minemine" {
		t.Errorf("files of others are %q", got)
	}
	state, _ := os.ReadDir(h.state)
	conf, _ := os.ReadDir(h.conf)
	if _, err := os.Stat(file + "2"); err == nil || len(state) != 0 || len(conf) != 2 {
		t.Errorf("left: %v in the state directory, %v beside nix.conf, %v", state, conf, err)
	}
}

func TestCircleKeyMustNotHideBehindAnotherOfItsName(t *testing.T) {
	newCircleHost(t)
	file := filepath.Join(t.TempDir(), "home.circle")
	circleCommands(t, []string{"init", "home", "--file", file})
	member := newCircleHost(t)
	storetest.WriteText(t, member.conf+"/nix.conf", "extra-trusted-public-keys = home-1:CHgFWXy4+9HvTmLp5ZQhmsqwRP9Q0ZlZ2mHVhCPYoPQ=\n")
	refuses(t, "another key called home-1", "join", file)
	if now, err := circle.Load(member.state); now != nil || err != nil {
		t.Errorf("it has joined: %+v, %v", now, err)
	}
}

// A running narbor takes the group and the key from the state directory, and believes the key only by nix.conf.
func TestRunTakesTheCircleOfItsStateDirectory(t *testing.T) {
	h := newCircleHost(t)
	circleCommands(t, []string{"init", "home", "--file", filepath.Join(t.TempDir(), "f")})
	start := func(args ...string) control.Status { // each has a state directory of its own
		dir := t.TempDir()
		storetest.WriteText(t, circle.File(dir), storetest.ReadText(t, circle.File(h.state)))
		if err := os.Chmod(circle.File(dir), 0o600); err != nil {
			t.Fatal(err)
		}
		return started(t, append(args, "--state-dir", dir)...)
	}
	st := start()
	if !st.Group || len(st.CircleKeys) != 0 || slices.Contains(st.Keys, "home-1") {
		t.Errorf("with no line in nix.conf: group %t, circle %q, trusted %q, want a group that shares no own builds", st.Group,
			st.CircleKeys, st.Keys)
	}
	storetest.WriteText(t, h.conf+"/nix.conf", "extra-trusted-public-keys = "+keyOf(t, h)+"\n")
	if st := start(); !st.Group || !slices.Equal(st.CircleKeys, []string{"home-1"}) {
		t.Errorf("group %t, circle %q, want the circle's", st.Group, st.CircleKeys)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	storetest.WriteText(t, secret, strings.Repeat("another secret ", 3))
	if err := os.Chmod(secret, 0o600); err != nil {
		t.Fatal(err)
	}
	if st := start("--group-secret-file", secret); !st.Group || len(st.CircleKeys) != 0 {
		t.Errorf("--group-secret-file: group %t, circle %q, want the flag's group alone", st.Group, st.CircleKeys)
	}
	if err := os.Chmod(circle.File(h.state), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), atMost(5*time.Second)) // it would run on
	defer cancel()
	if _, _, err := narbor(ctx, "run", "--state-dir", h.state, "--listen", "127.0.0.1:0", "--port", "0", "--no-mdns"); err == nil ||
		!strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("run with a circle that cannot be read = %v, want no start as a machine of no group", err)
	}
}
