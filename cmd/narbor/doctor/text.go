package doctor

import (
	"strings"
	"time"
)

const (
	// NixConfFile is the configuration of Nix for the whole system.
	NixConfFile = "/etc/nix/nix.conf"
	// NixURL is the default substituter URL of narbor.
	NixURL = "http://127.0.0.1:6272"
	// ProbeLimit bounds the answer about an unknown path. It takes up to 300 ms, or longer on a busy machine.
	ProbeLimit = 2 * time.Second
)

// shellQuote quotes a text so that a shell takes it as one word.
func shellQuote(text string) string {
	if strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-") == "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}
