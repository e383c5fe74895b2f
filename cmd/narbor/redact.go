package main

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
)

// A redactor takes out of a text what says who and where somebody is, and keeps what tells two of them apart.
type redactor struct {
	words *strings.Replacer // host and user names, home directories, names of peers
	peers map[string]string // what stands for each peer ID
}

// newRedactor knows this machine's names; more are names that the user gave.
func newRedactor(more ...string) redactor {
	var pairs []string
	add := func(word, instead string) {
		if len(word) > 2 && word != "localhost" && word != "root" {
			pairs = append(pairs, word, instead)
		}
	}
	if home, err := os.UserHomeDir(); err == nil && home != "/" {
		add(home, "~")
	}
	host, _ := os.Hostname()
	add(host, "HOST")
	short, _, _ := strings.Cut(host, ".")
	add(short, "HOST")
	add(os.Getenv("USER"), "USER")
	add(os.Getenv("SUDO_USER"), "USER")
	for i, name := range more {
		if _, err := netip.ParseAddr(name); err != nil {
			add(name, fmt.Sprintf("NAME%d", i+1))
		}
	}
	return redactor{strings.NewReplacer(pairs...), map[string]string{}}
}

var (
	homePattern  = regexp.MustCompile(`(/home|/Users|/var/home)/[^/\s"']+`)
	peerPattern  = regexp.MustCompile(`\b(12D3KooW|Qm)[1-9A-HJ-NP-Za-km-z]{30,}`)
	pathPattern  = regexp.MustCompile(`\b([0-9a-df-np-sv-z]{6})[0-9a-df-np-sv-z]{26}-[A-Za-z0-9+._?=-]+`)
	hashPattern  = regexp.MustCompile(`\b([0-9a-df-np-sv-z]{6})[0-9a-df-np-sv-z]{26}\b`)
	ipv4Pattern  = regexp.MustCompile(`\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b`)
	ipv6Pattern  = regexp.MustCompile(`[0-9a-fA-F]*:[0-9a-fA-F:]*:[0-9a-fA-F:.]*`)
	loginPattern = regexp.MustCompile(`//[^/\s"]+@`) // up to the last @, for a password may have one
	macPattern   = regexp.MustCompile(`\b([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}\b`)
)

// text redacts a text.
func (r redactor) text(s string) string {
	s = loginPattern.ReplaceAllString(s, "//…@")
	s = r.words.Replace(s)
	s = homePattern.ReplaceAllString(s, "~")
	s = peerPattern.ReplaceAllStringFunc(s, func(id string) string {
		if r.peers[id] == "" {
			r.peers[id] = fmt.Sprintf("peer-%d", len(r.peers)+1)
		}
		return r.peers[id]
	})
	s = pathPattern.ReplaceAllString(s, "$1…-…")
	s = hashPattern.ReplaceAllString(s, "$1…")
	s = macPattern.ReplaceAllString(s, "MAC")
	s = ipv6Pattern.ReplaceAllStringFunc(s, prefixOnly)
	return ipv4Pattern.ReplaceAllStringFunc(s, prefixOnly)
}

// prefixOnly keeps of an address the network: a /24 or a /48. What is the same on every machine stays.
func prefixOnly(text string) string {
	rest := ""
	a, err := netip.ParseAddr(text)
	if err != nil { // a colon or a dot may follow the address
		trimmed := strings.TrimRight(text, ".:")
		if a, err = netip.ParseAddr(trimmed); err != nil {
			return text
		}
		rest = text[len(trimmed):]
	}
	if a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() {
		return text
	}
	if a.Is4() || a.Is4In6() {
		b := a.Unmap().As4()
		return fmt.Sprintf("%d.%d.%d.x", b[0], b[1], b[2]) + rest
	}
	p, err := a.WithZone("").Prefix(48)
	if err != nil {
		return "x" + rest
	}
	return strings.TrimSuffix(p.Masked().Addr().String(), ":") + ":x" + rest
}
