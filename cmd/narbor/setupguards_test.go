package main

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"narbor/cmd/narbor/doctor"
	"narbor/cmd/narbor/exit"
	"narbor/store/nixconf"
	"narbor/store/storetest"
)

// setupHere is a setup that changes nothing but Nix's configuration below dir.
func setupHere(t *testing.T, files map[string]string) (s setup, dir string, out *bytes.Buffer) {
	t.Helper()
	if c, err := net.Dial("tcp", strings.TrimPrefix(doctor.NixURL, "http://")); err == nil {
		c.Close()
		t.Skip("a program listens at " + doctor.NixURL)
	}
	dir = nixConfDir(t, files)
	storetest.WriteText(t, filepath.Join(dir, "bin/nix"), "#!/bin/sh\nexit 1\n")
	if err := os.Chmod(filepath.Join(dir, "bin/nix"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Join(dir, "bin"))
	out = new(bytes.Buffer)
	return setup{screen: screen{Writer: out, width: 200}, nix: true, only: true}, dir, out
}

func TestNixIsToldOnlyOnceNarborAnswers(t *testing.T) {
	s, dir, out := setupHere(t, map[string]string{"nix.conf": "cores = 2\n"})
	if err := s.install(t.Context()); exit.Code(err) != exit.Degraded || !strings.Contains(out.String(), "does not answer yet") {
		t.Errorf("setup while narbor does not run = %v\n%s", err, out)
	}
	if got := storetest.ReadText(t, filepath.Join(dir, "nix.conf")); got != "cores = 2\n" {
		t.Errorf("nix.conf is %q, want it as it was", got)
	}
}

func TestSetupRefusesFileOfAnotherTool(t *testing.T) {
	s, _, out := setupHere(t, map[string]string{"nix.conf": "# Ansible managed\n"})
	var foreign *nixconf.ForeignFile
	if err := s.install(t.Context()); !errors.As(err, &foreign) || out.Len() > 0 {
		t.Errorf("setup = %v, want that the file is another tool's\n%s", err, out)
	}
	s, _, _ = setupHere(t, map[string]string{"nix.conf": "# Ansible managed\nextra-substituters = " + doctor.NixURL + "\n"})
	if err := s.mayTellNix(t.Context()); err != nil {
		t.Errorf("with narbor's line in the file of another tool: %v", err)
	}
}

func TestNarborGoesOnWhileAnotherLineNamesIt(t *testing.T) {
	s, dir, out := setupHere(t, map[string]string{"nix.conf": "extra-substituters = " + doctor.NixURL +
		" # narbor\nextra-substituters = https://other " + doctor.NixURL + "/\n"})
	if err := s.remove(t.Context()); err == nil || !strings.Contains(err.Error(), dir+"/nix.conf:1 still names") {
		t.Errorf("unsetup = %v\n%s", err, out)
	}
}

// nixConfDir makes the configuration of Nix of files, and the only one that counts.
func nixConfDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		storetest.WriteText(t, filepath.Join(dir, name), text)
	}
	t.Setenv("HOME", dir+"/home")
	t.Setenv("NIX_CONF_DIR", dir)
	t.Setenv("XDG_CONFIG_DIRS", "")
	for _, name := range []string{"XDG_CONFIG_HOME", "NIX_USER_CONF_FILES", "NIX_CONFIG"} {
		t.Setenv(name, "") // so that it is put back afterwards
		os.Unsetenv(name)
	}
	return dir
}
