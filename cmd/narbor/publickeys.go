package main

import (
	"cmp"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"narbor/store/nixconf"
)

// Trusted keys are public or private. A path with the signature of a public key can be downloaded from the internet, so
// every neighbour may have it. A path with signatures of private keys alone is for members of the group: it may come
// from a cache that asks for a password, from a colleague's machine, or from this one. Public keys are:
//
//   - cache.nixos.org-1
//   - keys with a name that begins with the host of a configured https cache without configured credentials
//   - keys that the user names by --share-key
//
// No secret key is read to find this machine's own key: Nix's database records which paths were built here.

const nixosKey = "cache.nixos.org-1"

type keyClass struct {
	public bool
	why    string
}

type keyPolicy struct {
	named  []string // --share-key
	caches []cache
	netrc  nixconf.Netrc
	unread []nixconf.Unread // more caches, or another netrc-file, may stand in these
}

type cache struct {
	url    string // without a user and a password
	host   string // in lower case
	https  bool
	secret string // where its URL has credentials, or something that may be some; "" if nowhere
}

// newKeyPolicy reads the URLs of caches. A URL without a host has no influence on any key.
func newKeyPolicy(settings nixconf.Settings, shareKeys, upstreams []string) keyPolicy {
	p := keyPolicy{named: shareKeys, netrc: settings.Netrc, unread: settings.Unread}
	for _, text := range slices.Concat(settings.Substituters, upstreams) {
		if c, ok := parseCache(text); ok {
			p.caches = append(p.caches, c)
		}
	}
	return p
}

// harmless are the parameters of a store's URL that hold neither credentials nor where to find them; see the chapter on
// HTTP binary caches of the Nix manual.
var harmless = []string{"priority", "want-mass-query", "trusted", "compression", "compression-level", "parallel-compression",
	"path-info-cache-size", "local-nar-cache", "index-debug-info", "write-nar-listing", "store", "system-features",
	"narinfo-compression", "ls-compression", "log-compression", "retry-attempts", "retry-delay"}

func parseCache(text string) (cache, bool) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		return cache{}, false
	}
	c := cache{host: strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), https: u.Scheme == "https"}
	c.url = u.Scheme + "://" + u.Host
	query, err := url.ParseQuery(u.RawQuery)
	if u.User != nil {
		c.secret = "the URL of " + c.url + " has a user or a password"
	} else if err != nil {
		c.secret = "the parameters of " + c.url + " cannot be read"
	}
	for name := range query {
		if c.secret == "" && !slices.Contains(harmless, name) {
			c.secret = "the URL of " + c.url + " has the parameter " + name
		}
	}
	return c, true
}

func (p keyPolicy) class(name string) keyClass {
	switch {
	case slices.Contains(p.named, name):
		return keyClass{true, "--share-key names it"}
	case name == nixosKey:
		return keyClass{true, "it is the key of cache.nixos.org"}
	}
	private := keyClass{why: "it is not called after the host of a configured https cache"}
	for _, c := range p.caches {
		if !c.https || !calledAfter(name, c.host) {
			continue
		}
		if why := p.secretOf(c); why != "" {
			return keyClass{why: why} // also if another cache of that host needs none
		}
		private = keyClass{true, c.url + " asks for no credentials"}
	}
	return private
}

// calledAfter reports whether a key's name is a host's, or that and a number or the like, as in cache.example.org-1. A
// longer host that begins alike is another host.
func calledAfter(name, host string) bool {
	rest, ok := strings.CutPrefix(strings.ToLower(name), host)
	return ok && (rest == "" || rest[0] == '-')
}

// secretOf returns the reason why the paths of a cache may be private; "" if they are public.
func (p keyPolicy) secretOf(c cache) string {
	for _, other := range p.caches {
		if other.host == c.host && other.secret != "" {
			return other.secret
		}
	}
	switch {
	case isInternal(c.host):
		return c.host + " is no host of the internet"
	case p.netrc.Err != "":
		return "whether " + c.host + " asks for a password cannot be told: " + p.netrc.File + " cannot be read (" + p.netrc.Err + ")"
	case p.netrc.For(c.host):
		return p.netrc.File + " has a password for " + c.host
	case len(p.unread) > 0:
		return "whether " + c.host + " asks for a password cannot be told: " + p.unread[0].String() + " cannot be read"
	}
	return ""
}

// isInternal reports whether a host is one that only a private network can know: an address that is not routed, a name
// without a dot, or one below a domain that the internet does not have.
func isInternal(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsUnspecified()
	}
	top := host[strings.LastIndexByte(host, '.')+1:]
	return top == host || strings.HasSuffix(host, ".home.arpa") ||
		slices.Contains([]string{"localhost", "local", "internal", "lan", "home", "corp", "intranet", "private"}, top)
}

func (p keyPolicy) split(names []string) (public, private []string) {
	public, private = []string{}, []string{}
	for _, name := range names {
		if p.class(name).public {
			public = append(public, name)
		} else {
			private = append(private, name)
		}
	}
	return public, private
}

// of returns those of keys, in the form "name:base64", that are public.
func (p keyPolicy) of(keys []string) []string {
	return slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
		return !p.class(keyName(key)).public
	})
}

func keyName(key string) string {
	name, _, _ := strings.Cut(key, ":")
	return cmp.Or(name, key)
}
