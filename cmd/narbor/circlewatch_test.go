package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.uber.org/zap"

	"narbor/cmd/narbor/circle"
	"narbor/cmd/narbor/control"
)

// statusAt returns the status of the narbor with the control socket; ok is false while none answers.
func statusAt(t *testing.T, socket string) (st control.Status, ok bool) {
	t.Helper()
	text, _, err := narbor(t.Context(), "status", "--json", "--socket", socket)
	if exit(err) != 0 && exit(err) != control.ExitDegraded {
		return st, false
	}
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		t.Fatal(err)
	}
	return st, true
}

// A running narbor follows the commands: the port for Nix stays, the same process goes on.
func TestRunFollowsTheCircle(t *testing.T) {
	h := newCircleHost(t)
	socket := filepath.Join(t.TempDir(), "s.sock")
	before := startedAt(t, socket, "--state-dir", h.state)
	if before.Group {
		t.Fatal("it is in a group from the start")
	}
	becomes := func(what string, ok func(control.Status) bool) {
		t.Helper()
		eventually(t, what, func() bool { st, here := statusAt(t, socket); return here && ok(st) })
		if st, _ := statusAt(t, socket); !slices.Equal(st.HTTP, before.HTTP) {
			t.Errorf("%s: Nix is served at %q, want %q", what, st.HTTP, before.HTTP)
		}
	}
	circleCommands(t, []string{"init", "home", "--write", "--file", filepath.Join(t.TempDir(), "f")})
	becomes("a member", func(st control.Status) bool { return st.Group && slices.Equal(st.CircleKeys, []string{"home-1"}) })
	circleCommands(t, []string{"rotate", "--write", "--file", filepath.Join(t.TempDir(), "f")})
	becomes("a member with the next key", func(st control.Status) bool { return slices.Equal(st.CircleKeys, []string{"home-2"}) })
	circleCommands(t, []string{"leave", "--write"})
	becomes("a machine of no group", func(st control.Status) bool { return !st.Group })
}

// watched returns a circle's file in a state directory with a key, and what watches it.
func watched(t *testing.T) (circleWatch, circle.Circle) {
	t.Helper()
	c, err := circle.New("home")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.MakeKey(filepath.Join(t.TempDir(), "k")); err != nil {
		t.Fatal(err)
	}
	w := circleWatch{dir: t.TempDir(), now: &c, log: zap.NewNop()}
	if err := c.Save(w.dir, false); err != nil {
		t.Fatal(err)
	}
	writeText(t, w.identityFile(), "a key")
	if w.identity, err = os.Stat(w.identityFile()); err != nil {
		t.Fatal(err)
	}
	return w, c
}

func TestCircleChangesByItsSecretAndKeys(t *testing.T) {
	for name, c := range map[string]struct {
		change func(c *circle.Circle)
		want   bool
	}{
		"nothing":         {func(*circle.Circle) {}, false},
		"the signing key": {func(c *circle.Circle) { c.SigningKey = "" }, false}, // which only the commands use
		"the secret":      {func(c *circle.Circle) { other, _ := circle.New("home"); c.Secret = other.Secret }, true},
		"a second key": {func(c *circle.Circle) {
			c.Keys = append(slices.Clone(c.Keys), "home-2:CHgFWXy4+9HvTmLp5ZQhmsqwRP9Q0ZlZ2mHVhCPYoPQ=")
		}, true},
	} {
		w, next := watched(t)
		c.change(&next)
		copied := *w.now
		w.now = &copied
		if name != "nothing" {
			fresh := next
			if err := fresh.Save(w.dir, true); err != nil {
				t.Fatal(err)
			}
		}
		if got := w.changed(); got != c.want {
			t.Errorf("%s: changed is %t, want %t", name, got, c.want)
		}
	}
}

// A file that cannot be read ends no membership, and nor does the loss of the whole state directory: the file comes back.
func TestCircleOutlastsAnEmptiedStateDirectory(t *testing.T) {
	w, _ := watched(t)
	want := readText(t, circle.File(w.dir))
	if err := os.Chmod(circle.File(w.dir), 0o644); err != nil {
		t.Fatal(err)
	}
	if w.changed() {
		t.Error("a file that others may read has ended the membership")
	}
	if err := os.RemoveAll(w.dir); err != nil {
		t.Fatal(err)
	}
	if w.changed() {
		t.Error("the loss of the state directory has ended the membership")
	}
	if got := readText(t, circle.File(w.dir)); got != want {
		t.Errorf("the file is\n%s\nwant\n%s", got, want)
	}
	writeText(t, w.identityFile(), "a key") // made anew: the directory was emptied all the same
	if err := circle.Remove(w.dir); err != nil {
		t.Fatal(err)
	}
	if w.changed() {
		t.Error("the loss of the state directory, made anew meanwhile, has ended the membership")
	}

	w, _ = watched(t)
	if err := circle.Remove(w.dir); err != nil {
		t.Fatal(err)
	}
	if !w.changed() {
		t.Error("the membership outlasts `narbor circle leave`")
	}
	w.now = nil
	if w.changed() {
		t.Error("no circle is another one than none")
	}
}
