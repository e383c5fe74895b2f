package main

import (
	"os"
	"path/filepath"
	"strings"
)

// kernelPeers returns the peers on the kernel's command line, narbor.peers=ADDRESS,ADDRESS…: it configures guests and
// machines that boot from the network. Under systemd the command line is a credential, because the service sees only
// the processes in /proc.
func kernelPeers() []string {
	files := []string{"/proc/cmdline"}
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		files = append([]string{filepath.Join(dir, "kernel-cmdline")}, files...)
	}
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil {
			return peersOnCommandLine(string(text))
		}
	}
	return nil // there is no command line, so there are no peers
}

// peersOnCommandLine splits at spaces outside of double quotes, as the kernel does.
func peersOnCommandLine(line string) (peers []string) {
	quoted := false
	for _, word := range strings.FieldsFunc(line, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && (r == ' ' || r == '\t' || r == '\n')
	}) {
		list, ok := strings.CutPrefix(strings.ReplaceAll(word, `"`, ""), "narbor.peers=")
		if !ok {
			continue
		}
		for _, peer := range strings.Split(list, ",") {
			if peer = strings.TrimSpace(peer); peer != "" {
				peers = append(peers, peer)
			}
		}
	}
	return peers
}
