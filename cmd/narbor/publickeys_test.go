package main

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"

	"narbor/cmd/narbor/control"
	"narbor/store/nixconf"
	"narbor/trust"
)

func TestClassesOfKeys(t *testing.T) {
	const url = "https://cache.example.org"
	unread := []nixconf.Unread{{File: "/etc/nix/secret.conf", Why: "permission denied", At: "/etc/nix/nix.conf:3"}}
	for name, c := range map[string]struct {
		key      string
		caches   []string
		netrc    nixconf.Netrc
		unread   []nixconf.Unread
		named    []string
		upstream []string
		public   bool
	}{
		"cache.nixos.org": {key: "cache.nixos.org-1", public: true},
		"cache.nixos.org, with a password": {key: "cache.nixos.org-1", netrc: nixconf.Netrc{Hosts: []string{"*"}}, unread: unread,
			public: true},
		"cache.nixos.org's next key": {key: "cache.nixos.org-2", caches: []string{"https://cache.nixos.org/"}, public: true},
		"an own key":                 {key: "desk-1", caches: []string{url}},
		"an https cache": {key: "cache.example.org-1", caches: []string{"https://other.example.org", url + "/"},
			public: true},
		"an https cache, no number": {key: "cache.example.org", caches: []string{url}, public: true},
		"capitals":                  {key: "Cache.Example.org-1", caches: []string{"https://CACHE.example.ORG"}, public: true},
		"a path, a port, a final dot": {key: "cache.example.org-1", caches: []string{"https://cache.example.org.:8443/nix/"},
			public: true},
		"harmless parameters": {key: "cache.example.org-1", caches: []string{url + "?priority=10&want-mass-query=1"},
			public: true},
		"an upstream of narbor's": {key: "cache.example.org-1", upstream: []string{url}, public: true},
		"a longer host":           {key: "cache.example.org.evil.net-1", caches: []string{url}},
		"a longer label":          {key: "cache.example.organ-1", caches: []string{url}},
		"a shorter host":          {key: "cache.example-1", caches: []string{url}},
		"a host in the middle":    {key: "x-cache.example.org-1", caches: []string{url}},
		"a host as a user":        {key: "cache.example.org-1", caches: []string{"https://cache.example.org@evil.net"}},
		"a host as a path":        {key: "cache.example.org-1", caches: []string{"https://evil.net/cache.example.org"}},
		"no configured cache":     {key: "cache.example.org-1"},
		"http":                    {key: "cache.example.org-1", caches: []string{"http://cache.example.org"}},
		"s3":                      {key: "bucket-1", caches: []string{"s3://bucket?endpoint=x"}},
		"ssh":                     {key: "cache.example.org-1", caches: []string{"ssh-ng://cache.example.org"}},
		"no URL":                  {key: "cache.example.org-1", caches: []string{"https://cache.example.org\x7f", "%", ""}},
		"a password in the URL":   {key: "cache.example.org-1", caches: []string{"https://me:secret@cache.example.org"}},
		"a user in the URL":       {key: "cache.example.org-1", caches: []string{"https://me@cache.example.org"}},
		"a password in another URL": {key: "cache.example.org-1",
			caches: []string{url, "https://me:secret@cache.example.org/private"}},
		"a password in the upstream's URL": {key: "cache.example.org-1", caches: []string{url},
			upstream: []string{"https://me:secret@cache.example.org"}},
		"a client certificate": {key: "cache.example.org-1",
			caches: []string{url + "?tls-certificate=/c&tls-private-key=/k"}},
		"an unknown parameter":            {key: "cache.example.org-1", caches: []string{url + "?token=x"}},
		"a parameter that cannot be read": {key: "cache.example.org-1", caches: []string{url + "?%zz"}},
		"netrc": {key: "cache.example.org-1", caches: []string{url},
			netrc: nixconf.Netrc{Hosts: []string{"cache.example.org"}}},
		"netrc of another host": {key: "cache.example.org-1", caches: []string{url},
			netrc: nixconf.Netrc{Hosts: []string{"example.org"}}, public: true},
		"netrc for all hosts": {key: "cache.example.org-1", caches: []string{url}, netrc: nixconf.Netrc{Hosts: []string{"*"}}},
		"netrc that cannot be read": {key: "cache.example.org-1", caches: []string{url},
			netrc: nixconf.Netrc{Err: "permission denied"}},
		"configuration that cannot be read": {key: "cache.example.org-1", caches: []string{url}, unread: unread},
		"--share-key":                       {key: "desk-1", named: []string{"desk-1"}, unread: unread, public: true},
		"--share-key of another":            {key: "desk-1", named: []string{"desk"}},
		"--share-key, in spite of passwords": {key: "cache.example.org-1", caches: []string{"https://me:secret@cache.example.org"},
			named: []string{"cache.example.org-1"}, public: true},
		"a name without a dot":             {key: "nas-1", caches: []string{"https://nas"}},
		"a private address":                {key: "10.0.0.5-1", caches: []string{"https://10.0.0.5"}},
		"a private IPv6 address":           {key: "fd00::1-1", caches: []string{"https://[fd00::1]"}},
		"a domain that the internet lacks": {key: "nas.home.arpa-1", caches: []string{"https://nas.home.arpa"}},
		"another such domain":              {key: "cache.corp.internal-1", caches: []string{"https://cache.corp.internal"}},
	} {
		p := newKeyPolicy(nixconf.Settings{Substituters: c.caches, Netrc: c.netrc, Unread: c.unread}, c.named, c.upstream)
		if got := p.class(c.key); got.public != c.public || got.why == "" {
			t.Errorf("%s: the key %s is public: %t (%s), want %t", name, c.key, got.public, got.why, c.public)
		}
	}
}

// The settings decide which keys are public: two machines with the same keys share by the class of each key.
func TestPrivateKeysAreForTheGroupAlone(t *testing.T) {
	const (
		nixos = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
		own   = "own-1:9oASiCpLX9mxsJCRLt1n3xhXNYgzDVrU7J+3LgA1QyI="
	)
	settings := nixconf.Settings{TrustedPublicKeys: []string{own, nixos},
		Unread: []nixconf.Unread{{File: "/etc/nix/secrets/tokens.conf", Why: "permission denied", At: "/etc/nix/nix.conf:3"}}}
	for _, c := range []struct {
		name           string
		keys           *keyState
		public, shared []string
	}{
		{"no group", &keyState{}, []string{"cache.nixos.org-1"}, []string{"cache.nixos.org-1"}},
		{"a group", &keyState{keyFlags: keyFlags{group: group{secret: []byte("x")}}}, []string{"cache.nixos.org-1"},
			[]string{"cache.nixos.org-1", "own-1"}},
		{"--share-key", &keyState{keyFlags: keyFlags{named: []string{"own-1"}}}, []string{"cache.nixos.org-1", "own-1"},
			[]string{"cache.nixos.org-1", "own-1"}},
	} {
		k := c.keys
		k.log, k.trusted, k.public, k.shared = zap.NewNop(), new(trust.Keys), new(trust.Keys), new(trust.Keys)
		if err := k.believe(settings); err != nil {
			t.Fatal(err)
		}
		if got := k.shared.Names(); !slices.Equal(got, c.shared) {
			t.Errorf("%s: neighbours get what %q have signed, want %q", c.name, got, c.shared)
		}
		if got := k.public.Names(); !slices.Equal(got, c.public) {
			t.Errorf("%s: guests get what %q have signed, want %q", c.name, got, c.public)
		}
		if got := k.trusted.Names(); len(got) != 2 {
			t.Errorf("%s: only %q are believed", c.name, got)
		}
	}
}

// A list that cannot be read changes nothing, and is reported until it can be.
func TestSettingsThatNixRefusesChangeNoKeys(t *testing.T) {
	k := &keyState{log: zap.NewNop(), trusted: new(trust.Keys), public: new(trust.Keys), shared: new(trust.Keys)}
	good := nixconf.Settings{TrustedPublicKeys: []string{"cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="}}
	k.changed(good, nil)
	k.changed(nixconf.Settings{}, errBroken)
	if got := k.problems(); !slices.Equal(k.trusted.Names(), []string{"cache.nixos.org-1"}) ||
		!slices.Equal(got, []string{errBroken.Error()}) {
		t.Errorf("after settings that cannot be read: keys %q, problems %q", k.trusted.Names(), got)
	}
	k.changed(good, nil)
	if got := k.problems(); len(got) != 0 {
		t.Errorf("after settings that can be read again: problems %q", got)
	}
}

var errBroken = errors.New("/etc/nix/nix.conf: illegal line")

// Own builds are for what a key of --circle-key has signed, as long as Nix trusts that key.
func TestCircleFollowsNixConfiguration(t *testing.T) {
	const (
		own   = "own-1:9oASiCpLX9mxsJCRLt1n3xhXNYgzDVrU7J+3LgA1QyI="
		other = "other-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
	)
	k := &keyState{log: zap.NewNop(), trusted: new(trust.Keys), public: new(trust.Keys), shared: new(trust.Keys), circle: new(trust.Keys),
		keyFlags: keyFlags{group: group{secret: []byte("x"), keys: []string{"own-1", "absent-1"}}}}
	for _, c := range []struct{ trusted, want []string }{
		{[]string{own, other}, []string{"own-1"}}, {[]string{other}, nil}, {[]string{own}, []string{"own-1"}},
	} {
		if err := k.believe(nixconf.Settings{TrustedPublicKeys: c.trusted}); err != nil {
			t.Fatal(err)
		}
		if got := k.circleNames(); !slices.Equal(got, c.want) {
			t.Errorf("with the trusted keys %q, own builds need one of %q, want %q", c.trusted, got, c.want)
		}
	}
}

// An own build that the circle's key has signed is shared with members; Nix does not get it from narbor.
func TestWhySaysThatTheCircleSharesAnOwnBuild(t *testing.T) {
	dir := t.TempDir()
	info, key := makeClosure(t, dir)
	info.Ultimate = true
	k := &keyState{log: zap.NewNop(), trusted: new(trust.Keys), public: new(trust.Keys), shared: new(trust.Keys), circle: new(trust.Keys),
		keyFlags: keyFlags{group: group{secret: []byte("x"), keys: []string{"test-1"}}}}
	if err := k.believe(nixconf.Settings{TrustedPublicKeys: []string{key}}); err != nil {
		t.Fatal(err)
	}
	if shared, why := k.sharedBy(true, info); !shared || !strings.Contains(why, "test-1, a key of the circle, has signed it") {
		t.Errorf("shared: %t, %s; want that the circle shares it", shared, why)
	}
	w := control.Why{Local: &control.WhyLocal{Where: "/nix/store", Shared: true}}
	if judge(&w, 1); w.Status != http.StatusNotFound {
		t.Errorf("Nix gets %d: %s; want 404, for narbor serves no own build to Nix", w.Status, w.Reason)
	}
	k.circle = nil
	if shared, why := k.sharedBy(true, info); shared || why != reasonBuiltHere {
		t.Errorf("without a circle, shared: %t, %s", shared, why)
	}
}
