package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestPeersOnKernelCommandLine(t *testing.T) {
	for line, want := range map[string][]string{
		"":                              nil,
		"root=/dev/vda1 quiet\n":        nil,
		"narbor.peers=":                 nil,
		"xnarbor.peers=10.0.0.1":        nil,
		"quiet narbor.peers=10.0.0.1\n": {"10.0.0.1"},
		"narbor.peers=nas,[fd00::1]:80,,/ip4/10.0.0.1": {"nas", "[fd00::1]:80", "/ip4/10.0.0.1"},
		`"narbor.peers=a, b" x="narbor.peers=c d"`:     {"a", "b"},
		`narbor.peers="a,b" narbor.peers=c`:            {"a", "b", "c"},
		`narbor.peers="a`:                              {"a"},
	} {
		if got := peersOnCommandLine(line); !slices.Equal(got, want) {
			t.Errorf("peersOnCommandLine(%q) = %q, want %q", line, got, want)
		}
	}
}

func TestKernelPeersAreACredential(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", t.TempDir())
	name := filepath.Join(os.Getenv("CREDENTIALS_DIRECTORY"), "kernel-cmdline")
	if err := os.WriteFile(name, []byte("narbor.peers=nas\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := kernelPeers(); !slices.Equal(got, []string{"nas"}) {
		t.Errorf("kernelPeers() = %q, want that of the credential", got)
	}
}
