package nixconf_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"narbor/store/nixconf"
	"narbor/store/storetest"
)

const (
	keyNixos = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
	keyOther = "other-1:CHgFWXy4+9HvTmLp5ZQhmsqwRP9Q0ZlZ2mHVhCPYoPQ="
)

// confDir makes a configuration directory of the files, and the only one that counts.
func confDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		storetest.Must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		storetest.Must(t, os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(text, "$DIR", dir)), 0o644))
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

// confCases are configurations, and what Nix 2.8 makes of them; err means that it refuses them.
var confCases = map[string]struct {
	files map[string]string
	env   map[string]string
	err   bool
}{
	"nothing": {},
	"lists": {files: map[string]string{"nix.conf": "substituters = https://a https://b\ntrusted-public-keys = " +
		keyOther + "\t" + keyNixos + "\n"}},
	"empty list, no final line feed": {files: map[string]string{"nix.conf": "trusted-public-keys =\nsubstituters ="}},
	"extra": {files: map[string]string{"nix.conf": "extra-trusted-public-keys = " + keyOther +
		"\nextra-substituters = https://a\nextra-substituters = https://a\n"}},
	"extra, then overwritten": {files: map[string]string{"nix.conf": "extra-substituters = https://a\nsubstituters = https://b\n"}},
	"overwritten, then extra": {files: map[string]string{"nix.conf": "substituters = https://b\nextra-substituters = https://a\n"}},
	"old names": {files: map[string]string{"nix.conf": "binary-caches = https://b\nextra-binary-caches = " +
		"https://c\nbinary-cache-public-keys = " + keyOther + "\n"}},
	"old and new names": {files: map[string]string{"nix.conf": "binary-caches = https://b\nsubstituters = " +
		"https://c\nextra-binary-cache-public-keys = x:AAAA\n"}},
	"comments": {files: map[string]string{"nix.conf": "# substituters = x\n  substituters = https://a#b https://c " +
		"# d\n\n \t\n#\nrequire-sigs = false#\n"}},
	"carriage returns": {files: map[string]string{"nix.conf": "substituters = https://a\r\nrequire-sigs = false\r\n"}},
	"vertical tab":     {files: map[string]string{"nix.conf": "substituters = https://a\vb\f\u00a0c\n"}},
	"unknown settings": {files: map[string]string{"nix.conf": "no-such = 1\nextra-require-sigs = false\nextra-no-such = " +
		"2\nextra-extra-substituters = x\n"}},
	"no spaces":      {files: map[string]string{"nix.conf": "substituters=https://a\n"}, err: true},
	"no equals sign": {files: map[string]string{"nix.conf": "substituters https://a\n"}, err: true},
	"one word":       {files: map[string]string{"nix.conf": "require-sigs = false\nsubstituters\n"}, err: true},
	"stalled 5":      {files: map[string]string{"nix.conf": "stalled-download-timeout = 5\n"}},
	"stalled never":  {files: map[string]string{"nix.conf": "stalled-download-timeout = 0\n"}},
	"stalled at last": {files: map[string]string{"nix.conf": "stalled-download-timeout = 5\n!include a\n",
		"a": "stalled-download-timeout = 9\n"}},
	"stalled long":       {files: map[string]string{"nix.conf": "stalled-download-timeout = 10000000000\n"}},
	"stalled two":        {files: map[string]string{"nix.conf": "stalled-download-timeout = 5 6\n"}, err: true},
	"stalled word":       {files: map[string]string{"nix.conf": "stalled-download-timeout = soon\n"}, err: true},
	"stalled negative":   {files: map[string]string{"nix.conf": "stalled-download-timeout = -1\n"}, err: true},
	"stalled empty":      {files: map[string]string{"nix.conf": "stalled-download-timeout =\n"}, err: true},
	"stalled extra":      {files: map[string]string{"nix.conf": "extra-stalled-download-timeout = 5\n"}},
	"require-sigs no":    {files: map[string]string{"nix.conf": "require-sigs = no\n"}},
	"require-sigs 1":     {files: map[string]string{"nix.conf": "require-sigs = 0\nrequire-sigs = 1\n"}},
	"require-sigs maybe": {files: map[string]string{"nix.conf": "require-sigs = maybe\n"}, err: true},
	"require-sigs empty": {files: map[string]string{"nix.conf": "require-sigs =\n"}, err: true},
	"require-sigs True":  {files: map[string]string{"nix.conf": "require-sigs = True\n"}, err: true},
	"secret keys":        {files: map[string]string{"nix.conf": "secret-key-files = /a /b\nextra-secret-key-files = /c\n"}},
	"include": {files: map[string]string{
		"nix.conf":   "include sub/a.conf\n!include $DIR/absent.conf\nextra-substituters = https://after\n",
		"sub/a.conf": "substituters = https://a\ninclude b.conf\n!include ../c.conf\n",
		"sub/b.conf": "extra-substituters = https://b\n",
		"c.conf":     "require-sigs = false\n"}},
	"include twice": {files: map[string]string{"nix.conf": "include a\ninclude a\n",
		"a": "extra-substituters = https://a\n"}},
	"include, then overwritten": {files: map[string]string{"nix.conf": "include a\nsubstituters = https://b\n",
		"a": "substituters = https://a\n"}},
	"include of nothing":       {files: map[string]string{"nix.conf": "require-sigs = false\ninclude absent.conf\n"}, err: true},
	"include of a directory":   {files: map[string]string{"nix.conf": "include sub\nrequire-sigs = false\n", "sub/a": ""}},
	"include with a comment":   {files: map[string]string{"nix.conf": "include a # b\n", "a": "require-sigs = no\n"}},
	"include of two":           {files: map[string]string{"nix.conf": "include a b\n", "a": "", "b": ""}, err: true},
	"include of a broken file": {files: map[string]string{"nix.conf": "!include a\n", "a": "broken\n"}, err: true},
	"NIX_CONFIG": {files: map[string]string{"nix.conf": "require-sigs = false\n"},
		env: map[string]string{"NIX_CONFIG": "extra-substituters = https://a\n# x\nrequire-sigs = true"}},
	"NIX_CONFIG with an include": {files: map[string]string{"a": "require-sigs = false\n"},
		env: map[string]string{"NIX_CONFIG": "include $DIR/a"}},
	"NIX_CONFIG broken": {env: map[string]string{"NIX_CONFIG": "broken"}, err: true},
	"home": {files: map[string]string{"nix.conf": "substituters = https://a\n",
		"home/.config/nix/nix.conf": "extra-substituters = https://b\n"}},
	"XDG_CONFIG_HOME": {files: map[string]string{"home/.config/nix/nix.conf": "require-sigs = false",
		"x/nix/nix.conf": "extra-substituters = https://b\n"}, env: map[string]string{"XDG_CONFIG_HOME": "$DIR/x"}},
	"XDG_CONFIG_DIRS": {files: map[string]string{"home/.config/nix/nix.conf": "extra-substituters = https://home\n",
		"x/nix/nix.conf": "substituters = https://x\n", "y/nix/nix.conf": "substituters = https://y"},
		env: map[string]string{"XDG_CONFIG_DIRS": "$DIR/x:$DIR/y"}},
	"NIX_USER_CONF_FILES": {files: map[string]string{"a": "substituters = https://a\n", "b": "substituters = https://b\n",
		"home/.config/nix/nix.conf": "require-sigs = false"}, env: map[string]string{"NIX_USER_CONF_FILES": "$DIR/a:$DIR/absent:$DIR/b"}},
	"NIX_USER_CONF_FILES, broken": {files: map[string]string{"a": "broken"}, env: map[string]string{"NIX_USER_CONF_FILES": "$DIR/a"},
		err: true},
}

// TestConfParserAgreesWithNix compares what we read from the files with what nix says of them.
func TestConfParserAgreesWithNix(t *testing.T) {
	storetest.NeedNix(t, "nix")
	for name, c := range confCases {
		t.Run(name, func(t *testing.T) {
			dir := confDir(t, c.files)
			for k, v := range c.env {
				t.Setenv(k, strings.ReplaceAll(v, "$DIR", dir))
			}
			want, wantErr := nixconf.AskNix(t.Context())
			if (wantErr != nil) != c.err {
				t.Fatalf("nix show-config = %+v, %v; the test expects otherwise", want, wantErr)
			}
			t.Setenv("PATH", dir)
			got, err := nixconf.Read(t.Context())
			if (err != nil) != c.err {
				t.Errorf("Read = %+v, %v, nix says %v", got, err, wantErr)
			}
			got.Origin, want.Origin = "", ""
			got.Unread, got.Netrc.Hosts = nil, nil // nix does not say them
			if err == nil && !equalSettings(got, want) {
				t.Errorf("Read = %+v, nix says %+v", got, want)
			}
		})
	}
}

func equalSettings(a, b nixconf.Settings) bool {
	for _, s := range []*nixconf.Settings{&a, &b} {
		s.TrustedPublicKeys = append([]string{}, s.TrustedPublicKeys...)
		s.Substituters = append([]string{}, s.Substituters...)
	}
	return reflect.DeepEqual(a, b)
}

func TestDefaultsWithoutNix(t *testing.T) {
	t.Setenv("PATH", confDir(t, nil))
	s, err := nixconf.Read(t.Context())
	if err != nil || len(s.TrustedPublicKeys) != 1 || s.TrustedPublicKeys[0] != keyNixos || !s.RequireSigs ||
		len(s.Substituters) != 1 || s.Substituters[0] != "https://cache.nixos.org/" || s.Origin != "Nix's defaults" {
		t.Errorf("Read without Nix = %+v, %v, want Nix's defaults", s, err)
	}
}

func TestConfOrigin(t *testing.T) {
	dir := confDir(t, map[string]string{"nix.conf": "!include a\n", "a": ""})
	t.Setenv("PATH", dir)
	if s, err := nixconf.Read(t.Context()); err != nil || s.Origin != dir+"/nix.conf, "+dir+"/a" {
		t.Errorf("Read = %+v, %v, want both files as the origin", s, err)
	}
}

func TestConfCirclesEnd(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"itself":       {"nix.conf": "include nix.conf\n"},
		"each other":   {"nix.conf": "include a\n", "a": "include nix.conf\n"},
		"a whole tree": {"nix.conf": strings.Repeat("include nix.conf\n", 1000)},
		"many files":   {"nix.conf": strings.Repeat("include a\n", 1000), "a": ""},
		"a large file": {"nix.conf": strings.Repeat("#", 2<<20)},
	} {
		t.Setenv("PATH", confDir(t, files))
		if s, err := nixconf.Read(t.Context()); err == nil {
			t.Errorf("%s: Read = %+v, want an error", name, s)
		}
	}
}

// TestAskNix runs stand-ins for versions of Nix that are not installed here.
func TestAskNix(t *testing.T) {
	const body = `{"trusted-public-keys":{"value":["a:b"],"defaultValue":[]},"substituters":{"value":["https://a"]},` +
		`"secret-key-files":{"value":[]},"require-sigs":{"value":false},"cores":{"value":0}}`
	for name, c := range map[string]struct{ script, origin string }{
		"2.20":       {`[ "$1" = config ] && echo '` + body + `'`, "nix config show"},
		"2.4":        {`[ "$1 $3" = "show-config --extra-experimental-features" ] && echo '` + body + `'`, "nix show-config"},
		"2.3":        {`[ "$1" = show-config ] && [ $# = 2 ] && echo '` + body + `'`, "nix show-config"},
		"broken":     {`exit 1`, "Nix's defaults"},
		"not JSON":   {`echo '{'`, "Nix's defaults"},
		"incomplete": {`echo '{"substituters":{"value":[]}}'`, "Nix's defaults"},
		"other type": {`echo '` + strings.Replace(body, "false", `"no"`, 1) + `'`, "Nix's defaults"},
		"endless": {`while echo '{"a": {"value": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},'; do :; done`,
			"Nix's defaults"},
	} {
		dir := confDir(t, nil)
		storetest.Must(t, os.WriteFile(dir+"/nix", []byte("#!/bin/sh\n"+c.script+"\n"), 0o755))
		t.Setenv("PATH", dir)
		s, err := nixconf.Read(t.Context())
		if err != nil || s.Origin != c.origin || (s.Origin == "Nix's defaults") != (s.TrustedPublicKeys[0] == keyNixos) {
			t.Errorf("%s: Read = %+v, %v, want origin %s", name, s, err, c.origin)
		}
	}
}
