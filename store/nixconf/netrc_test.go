package nixconf_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"narbor/store/nixconf"
	"narbor/store/storetest"
)

func TestNetrcNamesHostsWithCredentials(t *testing.T) {
	for text, want := range map[string][]string{
		"": nil,
		"machine cache.example.org login me password secret\n":                            {"cache.example.org"},
		"machine Cache.Example.ORG.\n\tlogin me\n\tpassword secret\nmachine b password x": {"b", "cache.example.org"},
		"machine \"a.example\" password \"x\"\n":                                          {"a.example"},
		"default login me password x\n":                                                   {"*"},
		"machine a login default password machine account default\n":                      {"a"},
		"# machine a password x\n  # default\nmachine\nb\n":                               {"b"},
		"macdef init\nmachine c\n\nmachine d password x\n":                                {"c", "d"}, // rather one too many
		"machine": nil,
	} {
		dir := confDir(t, map[string]string{"netrc": text})
		t.Setenv("PATH", dir)
		s, err := nixconf.Read(t.Context())
		if err != nil || s.Netrc.File != dir+"/netrc" || s.Netrc.Err != "" || !slices.Equal(s.Netrc.Hosts, want) {
			t.Errorf("netrc %q: %+v, %v, want hosts %q", text, s.Netrc, err, want)
		}
		for _, host := range want {
			if !s.Netrc.For(strings.ToUpper(host)) {
				t.Errorf("netrc %q: no credentials for %s", text, host)
			}
		}
	}
	t.Setenv("PATH", confDir(t, map[string]string{"nix.conf": "netrc-file = $DIR/own\n", "own": "machine a", "netrc": "machine b"}))
	if s, err := nixconf.Read(t.Context()); err != nil || !s.Netrc.For("a") || s.Netrc.For("b") {
		t.Errorf("netrc-file: %+v, %v, want the hosts of that file", s.Netrc, err)
	}
	dir := confDir(t, map[string]string{"netrc/a": ""}) // a directory cannot be read, not even by root
	t.Setenv("PATH", dir)
	if s, err := nixconf.Read(t.Context()); err != nil || s.Netrc.Err != "is a directory" || !s.Netrc.For("a") {
		t.Errorf("a netrc that cannot be read: %+v, %v, want that any host may have credentials", s.Netrc, err)
	}
}

// A file that cannot be read is named with the reason and the line that includes it, and the rest of the settings
// counts.
func TestUnreadableConfigurationIsNamed(t *testing.T) {
	for _, include := range []string{"include", "!include"} {
		dir := confDir(t, map[string]string{"secrets/a": "",
			"nix.conf": "# a comment\n" + include + " secrets\nextra-trusted-public-keys = " + keyOther + "\n"})
		t.Setenv("PATH", dir)
		s, err := nixconf.Read(t.Context())
		want := nixconf.Unread{File: dir + "/secrets", Why: "is a directory", At: dir + "/nix.conf:2"}
		if err != nil || !slices.Equal(s.Unread, []nixconf.Unread{want}) || !slices.Contains(s.TrustedPublicKeys, keyOther) {
			t.Errorf("%s: Read = %+v, %v, want the key, and unread %+v", include, s, err, want)
		}
		storetest.Must(t, os.RemoveAll(dir+"/secrets"))
		s, err = nixconf.Read(t.Context())
		if (err != nil) != (include == "include") || len(s.Unread) != 0 {
			t.Errorf("%s of a file that is not there: Read = %+v, %v", include, s, err)
		}
	}
}
