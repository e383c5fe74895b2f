package nixconf

import (
	"cmp"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Settings is the part of this machine's Nix configuration that narbor uses.
type Settings struct {
	TrustedPublicKeys []string // "<name>:<base64>"
	Substituters      []string // URLs
	RequireSigs       bool
	GitHashing        bool // the experimental feature git-hashing is on
	// StalledTimeout is Nix's stalled-download-timeout: it hangs up after this time without a byte of a body; 0 is
	// never.
	StalledTimeout time.Duration
	Netrc          Netrc
	Origin         string   // where this was learned, for the user to read
	Unread         []Unread // files that may hold more settings
}

// Asks reports whether a substituter leads to one of the URLs of narbor.
func (s Settings) Asks(urls []string) bool {
	return slices.ContainsFunc(s.Substituters, func(sub string) bool { return LeadsTo(urls, sub) })
}

// An Unread is a configuration file that exists and could not be read.
type Unread struct {
	File string `json:"file"`
	Why  string `json:"why"` // such as "permission denied"
	At   string `json:"at"`  // "file:line" of the line that includes it; "" if none does
}

func (u Unread) String() string {
	if u.At == "" {
		return u.File + " (" + u.Why + ")"
	}
	return u.File + " (" + u.Why + "), which " + u.At + " includes"
}

// defaultStalled is Nix's default of stalled-download-timeout. Longer ones than mostStalled are cut to it.
const defaultStalled, mostStalled = 300 * time.Second, 100 * 365 * 24 * time.Hour

// stalledTimeout converts a stalled-download-timeout, in seconds.
func stalledTimeout(seconds uint64) time.Duration {
	return time.Duration(min(seconds, uint64(mostStalled/time.Second))) * time.Second
}

// defaultNixSettings are built into Nix.
func defaultNixSettings() Settings {
	return Settings{
		TrustedPublicKeys: []string{"cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="},
		Substituters:      []string{"https://cache.nixos.org/"},
		RequireSigs:       true,
		StalledTimeout:    defaultStalled,
		Netrc:             Netrc{File: filepath.Join(nixConfDir(), "netrc")},
		Origin:            "Nix's defaults",
	}
}

// A Netrc says for which hosts Nix has a user and a password. Neither is kept.
type Netrc struct {
	File  string   // "" is none
	Hosts []string // in lower case, sorted; "*" stands for every host
	Err   string   // why the file, which is there, cannot be read; "" if it was
}

// For says whether there may be credentials for a host.
func (n Netrc) For(host string) bool {
	return n.Err != "" || slices.Contains(n.Hosts, "*") || slices.Contains(n.Hosts, strings.ToLower(host))
}

// allSettings is a whole configuration of Nix: the elements of each list, and of every other setting its one value.
type allSettings map[string][]string

func (c allSettings) apply(name string, words []string) {
	name, extra := strings.CutPrefix(name, "extra-")
	name = newName(name)
	if !extra {
		c[name] = nil
	}
	c[name] = append(slices.Clone(c[name]), words...)
}

func nixConfDir() string { return cmp.Or(os.Getenv("NIX_CONF_DIR"), "/etc/nix") }

// maxConfSize bounds one configuration file, in bytes.
const maxConfSize = 1 << 20

// readConfText reads what parse may get and one byte more. It does not wait for a writer should path be a pipe.
func readConfText(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfSize+1))
	return string(text), err
}

// newName returns what Nix calls a setting today.
func newName(name string) string {
	switch name {
	case "binary-caches":
		return "substituters"
	case "binary-cache-public-keys":
		return "trusted-public-keys"
	}
	return name
}
