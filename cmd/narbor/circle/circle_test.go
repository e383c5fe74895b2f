package circle_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"narbor/cmd/narbor/circle"
)

// made returns a circle with a key, and its invitation as a file.
func made(t *testing.T) (c circle.Circle, key, file string) {
	t.Helper()
	c, err := circle.New("home")
	if err != nil {
		t.Fatal(err)
	}
	key, file = filepath.Join(t.TempDir(), "home-1.sec"), filepath.Join(t.TempDir(), "home.circle")
	if err := errors.Join(c.MakeKey(key), c.WriteInvitation(file)); err != nil {
		t.Fatal(err)
	}
	return c, key, file
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestInvitationHasNoSecretKey(t *testing.T) {
	c, key, file := made(t)
	secret, text := read(t, key), read(t, file)
	if _, base64, _ := strings.Cut(secret, ":"); strings.Contains(text, base64) || strings.Contains(text, key) {
		t.Errorf("the file for others is\n%s\nand has the secret key or its place", text)
	}
	for _, name := range []string{key, file} {
		if st, err := os.Stat(name); err != nil || st.Mode() != 0o600 {
			t.Errorf("%s: mode %v, %v, want 0600", name, st.Mode(), err)
		}
	}
	got, err := circle.ReadInvitation(file)
	if err != nil || got.Secret != c.Secret || len(got.Keys) != 1 || got.Keys[0] != c.Keys[0] || got.SigningKey != "" {
		t.Errorf("ReadInvitation = %+v, %v, want %+v without SigningKey", got, err, c)
	}
}

func TestInvitationFormIsStrict(t *testing.T) {
	c, key, file := made(t)
	good, secret := read(t, file), read(t, key)
	public := c.Keys[0]
	for name, bad := range map[string]struct{ text, says string }{
		"empty":                 {"", "as narbor writes it"},
		"a secret key":          {secret, "secret signing key"},
		"a secret key as a key": {strings.Replace(good, public, secret, 1), "secret signing key"},
		"a secret key beside":   {strings.Replace(good, `"schema"`, `"x": "`+secret+`", "schema"`, 1), "secret signing key"},
		"something behind":      {good + "{}", "as narbor writes it"},
		"an unknown field":      {strings.Replace(good, `"schema"`, `"x": 1, "schema"`, 1), "as narbor writes it"},
		"a field twice": {strings.Replace(good, `"circle": "home"`, `"circle": "away",`+"\n"+`  "circle": "home"`, 1),
			"as narbor writes it"},
		"another schema":    {strings.Replace(good, `"schema": 1`, `"schema": 2`, 1), "schema 2"},
		"a name with a dot": {strings.ReplaceAll(good, "home", "cache.nixos.org"), "no name for a circle"},
		"a key of another name": {strings.Replace(good, public, "cache.nixos.org-1"+strings.TrimPrefix(public, "home-1"), 1),
			`called "cache.nixos.org-1"`},
		"a key without a number": {strings.Replace(good, public, "home"+strings.TrimPrefix(public, "home-1"), 1), `a key called "home"`},
		"a short key":            {strings.Replace(good, public, public[:40], 1), "not a public key"},
		"no key":                 {strings.Replace(good, "[\n    \""+public+"\"\n  ]", "[]", 1), "0 keys"},
		"nine keys": {strings.Replace(good, `"`+public+`"`, strings.Repeat(`"`+public+"\",\n    ", 8)+`"`+public+`"`, 1),
			"9 keys"},
		"a short secret":  {strings.Replace(good, c.Secret, c.Secret[:8], 1), "base64 of 32 bytes"},
		"an empty secret": {strings.Replace(good, c.Secret, "", 1), "base64 of 32 bytes"},
		"a long file":     {good + strings.Repeat(" ", 4<<10), "longer than"},
		"state of the signer": {strings.Replace(good, "]\n}", "],\n  \"signingKey\": \"/etc/nix/home-1.sec\"\n}", 1),
			"machine that signs"},
		"a relative signing key": {strings.Replace(good, "]\n}", "],\n  \"signingKey\": \"home-1.sec\"\n}", 1), "nix.conf could name"},
		"a signing key of two words": {strings.Replace(good, "]\n}", "],\n  \"signingKey\": \"/etc/a b\"\n}", 1),
			"nix.conf could name"},
	} {
		if bad.text == good {
			t.Fatalf("%s: the text is the good one", name)
		}
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, []byte(bad.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := circle.ReadInvitation(file)
		if err == nil || !strings.Contains(err.Error(), bad.says) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: ReadInvitation = %v, want an error with the file and %q", name, err, bad.says)
		}
		if err != nil && (strings.Contains(err.Error(), c.Secret) || strings.Contains(err.Error(), secret[20:])) {
			t.Errorf("%s: the error shows a secret: %v", name, err)
		}
	}
}

func TestInvitationIsARegularFileOfItsReader(t *testing.T) {
	_, _, file := made(t)
	dir := t.TempDir()
	link, fifo, open, foreign := dir+"/link", dir+"/fifo", dir+"/open", dir+"/foreign"
	err := errors.Join(os.Symlink(file, link), syscall.Mkfifo(fifo, 0o600), os.WriteFile(open, []byte(read(t, file)), 0o600),
		os.Chmod(open, 0o640), os.WriteFile(foreign, []byte(read(t, file)), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{link: "symbolic link", fifo: "not a regular file", dir: "not a regular file", open: "chmod 600",
		dir + "/absent": "no such file"}
	if os.Geteuid() == 0 {
		if err := os.Chown(foreign, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		bad[foreign] = "another user"
	}
	for name, says := range bad {
		if _, err := circle.ReadInvitation(name); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("ReadInvitation(%s) = %v, want %q", name, err, says)
		}
	}
	if os.Geteuid() == 0 {
		t.Setenv("SUDO_UID", "65534")
		if _, err := circle.ReadInvitation(foreign); err != nil {
			t.Errorf("the file of the caller of sudo: %v", err)
		}
	}
}

// The user that has called sudo takes the file to the other machines, and the signing key stays with root.
func TestInvitationBelongsToTheCallerOfSudo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: only root may give files away")
	}
	for caller, want := range map[string]uint32{"65534": 65534, "0": 0, "": 0, "-5": 0, "me": 0} {
		t.Setenv("SUDO_UID", caller)
		_, key, file := made(t)
		for name, want := range map[string]uint32{file: want, key: 0} {
			st, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			if got := st.Sys().(*syscall.Stat_t).Uid; got != want || st.Mode().Perm() != 0o600 {
				t.Errorf("SUDO_UID=%s: %s belongs to %d, mode %o, want %d and 600", caller, name, got, st.Mode().Perm(), want)
			}
		}
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	c, key, file := made(t)
	before := read(t, key) + read(t, file)
	other, err := circle.New("other")
	if err != nil {
		t.Fatal(err)
	}
	if err := other.MakeKey(key); err == nil || !strings.Contains(err.Error(), "is not replaced") {
		t.Errorf("MakeKey over a key: %v", err)
	}
	if err := c.WriteInvitation(file); err == nil || !strings.Contains(err.Error(), "is not replaced") {
		t.Errorf("WriteInvitation over a file: %v", err)
	}
	if got := read(t, key) + read(t, file); got != before {
		t.Error("a file has changed")
	}
	dir := t.TempDir()
	if err := c.Save(dir, false); err != nil {
		t.Fatal(err)
	}
	other.Keys = c.Keys
	if err := other.Save(dir, false); err == nil || !strings.Contains(err.Error(), "in a circle already") {
		t.Errorf("Save over a circle: %v", err)
	}
	if now, err := circle.Load(dir); err != nil || now.Name != "home" || now.SigningKey != key {
		t.Errorf("Load = %+v, %v, want the first circle", now, err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("the directory has %v, %v, want the circle's file alone", names, err)
	}
}

// The service's user owns the state directory. A link that it has put there leads root nowhere, and the circle's file
// is the service's to read.
func TestRootWritesInsideTheStateDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	c, _, _ := made(t)
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	if err := errors.Join(os.WriteFile(outside, []byte("as it was"), 0o644), os.Symlink(outside, circle.File(dir)),
		os.Chown(dir, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	if _, err := circle.Load(dir); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("Load through a link: %v", err)
	}
	if err := c.Save(dir, true); err != nil {
		t.Fatal(err)
	}
	if got := read(t, outside); got != "as it was" {
		t.Errorf("the link's target is %q", got)
	}
	st, err := os.Lstat(circle.File(dir))
	if err != nil || st.Mode() != 0o600 || st.Sys().(*syscall.Stat_t).Uid != 65534 {
		t.Errorf("the file is %+v, %v, want mode 0600 of the directory's owner", st, err)
	}
}

func TestNewKeysHaveNewNames(t *testing.T) {
	c, _, _ := made(t)
	if got := c.NextKeyName(); got != "home-2" {
		t.Errorf("after home-1 comes %s", got)
	}
	if err := c.MakeKey(filepath.Join(t.TempDir(), "sec")); err != nil {
		t.Fatal(err)
	}
	if len(c.Keys) != 1 || !strings.HasPrefix(c.Keys[0], "home-2:") {
		t.Errorf("the keys are %q, want home-2 alone", c.Keys)
	}
}
