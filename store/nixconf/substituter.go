package nixconf

import (
	"cmp"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// LeadsTo reports whether a substituter leads to one of the URLs; it may have parameters and a slash. If narbor listens
// on loopback, localhost leads there too; if it listens on all addresses, so does every loopback address.
func LeadsTo(urls []string, substituter string) bool {
	return slices.ContainsFunc(urls, func(u string) bool { return sameServer(u, substituter) })
}

// sameServer reports whether a substituter's URL leads to the server at url.
func sameServer(listens, substituter string) bool {
	l, err := url.Parse(listens)
	if err != nil {
		return false
	}
	s, err := url.Parse(substituter)
	if err != nil || s.Scheme != l.Scheme || cmp.Or(s.Port(), "80") != cmp.Or(l.Port(), "80") || strings.Trim(s.Path, "/") != "" {
		return false
	}
	at, err := netip.ParseAddr(l.Hostname())
	if err != nil {
		return strings.EqualFold(s.Hostname(), l.Hostname())
	}
	if strings.EqualFold(s.Hostname(), "localhost") {
		return at.IsLoopback() || at.IsUnspecified()
	}
	to, err := netip.ParseAddr(s.Hostname())
	if err != nil {
		return false
	}
	return to == at || at.IsUnspecified() && to.IsLoopback() && (to.Is4() == at.Is4() || at.Is6())
}

// Installed reports whether this machine has Nix, or its database.
func Installed() bool {
	_, err := exec.LookPath("nix")
	_, err2 := os.Stat("/nix/var/nix/db")
	return err == nil || err2 == nil
}
