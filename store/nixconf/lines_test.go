package nixconf_test

import (
	"os/exec"
	"reflect"
	"testing"

	"narbor/store/nixconf"
	"narbor/store/storetest"
)

func TestConfLinesSayWhereAValueComesFrom(t *testing.T) {
	dir := confDir(t, map[string]string{
		"nix.conf": "# first\nextra-substituters = http://lost\nbinary-caches = https://b\ninclude a\nrequire-sigs = false\n",
		"a":        "\nextra-binary-caches = https://c\nbinary-cache-public-keys = x:AAAA\n"})
	for setting, want := range map[string][]nixconf.Line{
		"substituters": {
			{"substituters", "http://lost", dir + "/nix.conf:2", dir + "/nix.conf:3"},
			{"substituters", "https://b", dir + "/nix.conf:3", ""}, {"substituters", "https://c", dir + "/a:2", ""}},
		"trusted-public-keys": {{"trusted-public-keys", "x:AAAA", dir + "/a:3", ""}},
		"require-sigs":        {{"require-sigs", "false", dir + "/nix.conf:5", ""}},
		"secret-key-files":    nil,
	} {
		if got := nixconf.Lines(setting); !reflect.DeepEqual(got, want) {
			t.Errorf("Lines(%s) = %v, want %v", setting, got, want)
		}
	}
}

func TestConfResetNamesTheFileThatIsReadLast(t *testing.T) {
	dir := confDir(t, map[string]string{
		"nix.conf":                      "substituters = https://a\nextra-substituters = https://b\nrequire-sigs = true\n",
		"home/.config/nix/nix.conf":     "!include more\nextra-trusted-public-keys = x:AAAA\n",
		"home/.config/nix/more":         "\nbinary-caches =\n",
		"home/.config/nix/not-included": "require-sigs = false\n"})
	for setting, want := range map[string]nixconf.Reset{
		"substituters":        {dir + "/home/.config/nix/more:2", dir + "/home/.config/nix/nix.conf"},
		"require-sigs":        {dir + "/nix.conf:3", dir + "/nix.conf"},
		"trusted-public-keys": {},
	} {
		if got := nixconf.ResetBy(setting); got != want {
			t.Errorf("ResetBy(%s) = %v, want %v", setting, got, want)
		}
	}
	t.Setenv("NIX_CONFIG", "substituters = https://c")
	if got, want := nixconf.ResetBy("substituters"), (nixconf.Reset{At: "NIX_CONFIG:1", File: "NIX_CONFIG"}); got != want {
		t.Errorf("with NIX_CONFIG, ResetBy(substituters) = %v, want %v", got, want)
	}
}

// Nix and the files agree about settings that only the files give.
func TestWholeConfigurationIsRead(t *testing.T) {
	confDir(t, map[string]string{"nix.conf": "experimental-features = flakes\nextra-experimental-features = nix-command\nbinary-caches " +
		"= https://a\nextra-substituters = https://b\ncores = 3"})
	want := nixconf.AllSettings{"experimental-features": {"flakes", "nix-command"}, "substituters": {"https://a", "https://b"},
		"cores": {"3"}}
	got, err := nixconf.ReadFiles()
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ReadFiles = %v, %v, want %v", got, err, want)
	}
	if _, err := exec.LookPath("nix"); err != nil {
		t.Skip("no nix to compare with")
	}
	shown, command, err := nixconf.ShowAll(t.Context(), nil)
	storetest.Must(t, err)
	if again, _, err := nixconf.ShowAll(t.Context(), command); err != nil || !reflect.DeepEqual(again, shown) {
		t.Errorf("the same command says %v, %v, want %v", again, err, shown)
	}
	for _, name := range []string{"substituters", "cores"} {
		if values := want[name]; !reflect.DeepEqual(shown[name], values) {
			t.Errorf("nix says %s = %q, want %q", name, shown[name], values)
		}
	}
}

func TestSystemConfFilesHaveIncludesAndNoUsersFile(t *testing.T) {
	dir := confDir(t, map[string]string{"nix.conf": "!include a\n!include absent\n", "a": "include sub/b\n", "sub/b": "",
		"home/.config/nix/nix.conf": "!include own\n", "home/.config/nix/own": ""})
	want := []string{dir + "/nix.conf", dir + "/a", dir + "/sub/b", dir + "/absent"}
	if got := nixconf.SystemFiles(); !reflect.DeepEqual(got, want) {
		t.Errorf("SystemFiles = %q, want %q", got, want)
	}
}
