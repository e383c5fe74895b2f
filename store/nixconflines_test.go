package store_test

import (
	"reflect"
	"testing"

	"narbor/store"
)

func TestConfLinesSayWhereAValueComesFrom(t *testing.T) {
	dir := confDir(t, map[string]string{
		"nix.conf": "# first\nextra-substituters = http://lost\nbinary-caches = https://b\ninclude a\nrequire-sigs = false\n",
		"a":        "\nextra-binary-caches = https://c\nbinary-cache-public-keys = x:AAAA\n"})
	for setting, want := range map[string][]store.ConfLine{
		"substituters": {
			{"substituters", "http://lost", dir + "/nix.conf:2", dir + "/nix.conf:3"},
			{"substituters", "https://b", dir + "/nix.conf:3", ""}, {"substituters", "https://c", dir + "/a:2", ""}},
		"trusted-public-keys": {{"trusted-public-keys", "x:AAAA", dir + "/a:3", ""}},
		"require-sigs":        {{"require-sigs", "false", dir + "/nix.conf:5", ""}},
		"secret-key-files":    nil,
	} {
		if got := store.NixConfLines(setting); !reflect.DeepEqual(got, want) {
			t.Errorf("NixConfLines(%s) = %v, want %v", setting, got, want)
		}
	}
}
