package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/exit"
)

func writeConfig(t testing.TB, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "narbor.json")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestConfigCheck(t *testing.T) {
	for _, good := range []string{`{}`, ` { } `, `{"peer": ["nas", "10.0.0.5:6273"], "no-mdns": true, "port": 7000, "upload-rate": "10MB"}`,
		`{"port": "7000"}`,
		`{"spool-size": "25%", "min-free": 0, "listen": ["127.0.0.1:1", "builder.lan:6272"], "share": "none", "log-level": "debug"}`,
		`{"peer": [], "upstream": ["https://cache.nixos.org"]}`,
		`{"interface": ["en*"], "state-dir": "/x", "socket": "/y", "cache-dir": ["/srv/a b"], "group-secret-file": "/nowhere", ` +
			`"allow-host": ["nas"]}`} {
		if out, _, err := narbor(t.Context(), "config", "check", writeConfig(t, good)); err != nil || !strings.Contains(out, "all well") {
			t.Errorf("config check of %s = %q, %v", good, out, err)
		}
	}
	for text, says := range map[string]string{
		``: "not a JSON object", `[]`: "not a JSON object", `null`: "not a JSON object", `{"port": 1`: "EOF", `{} {}`: "something after",
		`{"port": 1,}`: "invalid",
		`{"prot": 1}`:  `no setting "prot"; see`, `{"Port": 1}`: `no setting "Port", but "port"`, `{"peers": []}`: `but "peer"`,
		`{"noMdns": true}`: `but "no-mdns"`,
		`{"config": "x"}`:  `no setting "config"`, `{"help": true}`: `no setting "help"`, `{"": 1}`: `no setting ""`,
		`{"port": 1, "port": 2}`: `"port" is there twice`,
		`{"port": null}`:         `"port" must be a string or a whole number`, `{"port": 1.5}`: "whole number",
		`{"port": 1e3}`:  "whole number",
		`{"port": -1}`:   "whole number",
		`{"port": true}`: "whole number", `{"port": [1]}`: "whole number", `{"port": {}}`: "whole number", `{"port": "x"}`: `"port"`,
		`{"port": 70000}`:     "not a TCP port",
		`{"no-mdns": "true"}`: `"no-mdns" must be true or false`, `{"no-mdns": 1}`: "true or false",
		`{"peer": "nas"}`: `"peer" must be a list`, `{"peer": [1]}`: "list of strings",
		`{"peer": ["a,b"]}`: "without commas", `{"peer": [""]}`: "list of strings", `{"peer": ["a b"]}`: `"a b"`,
		`{"peer": ["0.0.0.0"]}`:  "0.0.0.0",
		`{"spool-size": "much"}`: "--spool-size", `{"spool-size": 0}`: "--spool-size", `{"spool-size": "101%"}`: "101%",
		`{"spool-size": "0%"}`: "--spool-size",
		`{"min-free": "-1%"}`:  "--min-free", `{"upload-rate": "1kB"}`: "--upload-rate", `{"download-rate": "1kB"}`: "--download-rate",
		`{"share": "all"}`:      "--share",
		`{"log-level": "loud"}`: "--log-level",
		`{"log-format": "xml"}`: "--log-format", `{"trusted-key": ["x"]}`: "--trusted-key", `{"interface": ["eth["]}`: "eth[",
		`{"no-interface": ["["]}`:   "[",
		`{"upstream": ["ftp://x"]}`: "--upstream", `{"upstream": ["cache.nixos.org"]}`: "--upstream",
		`{"listen": ["127.0.0.1"]}`: "--listen", `{"listen": ["127.0.0.1:x"]}`: "--listen", `{"listen": ["127.0.0.1:70000"]}`: "--listen",
	} {
		file := writeConfig(t, text)
		_, _, err := narbor(t.Context(), "config", "check", file)
		if err == nil || !strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), file+":1: ") {
			t.Errorf("config check of %s = %v, want an error that names the file and says %q", text, err, says)
		}
		wantCode(t, exit.Usage, "config", "check", file)
	}
	// The service refuses the same, and does not begin.
	for _, bad := range []string{`{"prot": 1}`, `{"port": 70000}`, `{"peer": ["a b"]}`, `{"min-free": "x"}`} {
		wantCode(t, exit.Usage, "run", "--state-dir", t.TempDir(), "--listen", "127.0.0.1:0", "--config", writeConfig(t, bad))
	}
	wantCode(t, exit.Usage, "config", "check")
	wantCode(t, exit.Usage, "config", "check", "a", "b")
	wantCode(t, exit.Failure, "config", "check", filepath.Join(t.TempDir(), "none"))
	wantCode(t, exit.Usage, "config", "check", writeConfig(t, `{"peer": ["`+strings.Repeat("a", maxConfigLen)+`"]}`))
}

// TestConfigCheckReportsAllErrors has two files: errors of values are found once every setting can be read.
func TestConfigCheckReportsAllErrors(t *testing.T) {
	for text, want := range map[string][]string{
		"{\n  \"prot\": 1,\n  \"port\": true,\n\n  \"share\": \"none\", \"share\": \"signed\",\n  \"peer\": [\"a\" \"b\"]\n}": {
			`2: there is no setting "prot"`, `3: "port" must be`, `5: "share" is there twice`, `6: "peer": invalid`},
		"{\n  \"port\": 70000,\n  \"listen\": [\n    \"127.0.0.1\"],\n  \"spool-size\": \"much\",\n  \"log\": [\"debug\"], " +
			"\"no-interface\": [\"[\"],\n  \"peer\": [\"a b\"]\n}": {
			"2: --port 70000", "3: --listen", `6: --log "debug"`, "5: --spool-size", `7: `, "6: "},
		"{\n\"port\": 1\n": {"3: the JSON object has no end"},
	} {
		file := writeConfig(t, text)
		_, _, err := narbor(t.Context(), "config", "check", file)
		lines := strings.Split(fmt.Sprint(err), "\n")
		if len(lines) != len(want) {
			t.Errorf("%d errors, want %d: %v", len(lines), len(want), err)
			continue
		}
		for i, line := range lines {
			if !strings.HasPrefix(line, file+":"+want[i]) {
				t.Errorf("error %d of %s is %q, want %q", i, text, line, want[i])
			}
		}
	}
}

// A flag has precedence over the environment, the environment over the file, and the file over the default.
func TestPrecedenceOfSettings(t *testing.T) {
	file := writeConfig(t, `{"peer": ["file-a", "file-b"], "share": "none", "port": 1, "no-mdns": true, "min-free": "3GiB", "listen": `+
		`["127.0.0.1:9"]}`)
	t.Setenv("NARBOR_SHARE", "signed")
	t.Setenv("NARBOR_PORT", "2")
	var got string
	app := &cli.App{Commands: []*cli.Command{{Name: "run", Flags: runFlags(), Action: func(c *cli.Context) error {
		_, err := applyConfig(c)
		got = fmt.Sprintln(c.StringSlice("peer"), c.String("share"), c.Uint("port"), c.Bool("no-mdns"), c.String("min-free"),
			c.StringSlice("listen"), c.String("spool-size"))
		return err
	}}}}
	for _, tt := range []struct{ args, want string }{
		{"", "[file-a file-b] signed 2 true 3GiB [127.0.0.1:9] 4GiB"},
		{"--port 3 --peer flag", "[flag] signed 3 true 3GiB [127.0.0.1:9] 4GiB"},
		{"--no-mdns=false --min-free 1GiB --listen [::1]:8", "[file-a file-b] signed 2 false 1GiB [[::1]:8] 4GiB"},
	} {
		if err := app.Run(append([]string{"narbor", "run", "--config", file}, strings.Fields(tt.args)...)); err != nil ||
			got != tt.want+"\n" {
			t.Errorf("run %s: %s, %v, want %s", tt.args, got, err, tt.want)
		}
	}
}

// The file that is checked is for a service elsewhere.
func TestConfigCheckIgnoresItsOwnEnvironment(t *testing.T) {
	t.Setenv("NARBOR_SHARE", "none")
	t.Setenv("NARBOR_LOG_LEVEL", "loud")
	wantCode(t, exit.Usage, "config", "check", writeConfig(t, `{"share": "all"}`))
	wantCode(t, 0, "config", "check", writeConfig(t, `{"share": "signed"}`))
}

func TestRunReadsItsConfig(t *testing.T) {
	st := started(t, "--config", writeConfig(t, `{"spool-size": "1%", "share": "none"}`))
	if st.Sharing != "none" || st.Spool.MaxBytes <= 0 || st.Spool.MaxBytes == 4<<30 {
		t.Errorf("sharing %q, a spool of %d bytes", st.Sharing, st.Spool.MaxBytes)
	}
}

// Every flag of the service can be in the file, so each must be of a kind that the file knows.
func TestEveryFlagIsASetting(t *testing.T) {
	var b bytes.Buffer
	for _, f := range runFlags() {
		switch f.(type) {
		case *cli.StringFlag, *cli.StringSliceFlag, *cli.BoolFlag, *cli.UintFlag:
		default:
			fmt.Fprintf(&b, "%s is a %T\n", f.Names()[0], f)
		}
	}
	if b.Len() > 0 {
		t.Errorf("a configuration file and `config check` know nothing of flags of these kinds:\n%s", &b)
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, seed := range []string{`{"peer": ["nas"], "port": 1}`, `{"no-mdns": true}`, `{"port": 1.5}`, `{"a": {"b": []}}`,
		`{"port": 1, "port": 2}`} {
		f.Add([]byte(seed))
	}
	flags := runFlags()
	f.Fuzz(func(t *testing.T, text []byte) {
		p := configParser{file: "f", text: text, dec: json.NewDecoder(bytes.NewReader(text))}
		p.parse(flags)
		settings := p.settings
		set := flag.NewFlagSet("run", flag.ContinueOnError)
		for _, fl := range runFlags() {
			if err := fl.Apply(set); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := range settings {
			if set.Lookup(s.name) == nil || slices.Contains(s.values, "") && s.name == "peer" {
				t.Errorf("parseConfig(%q) = %v", text, settings)
			}
		}
	})
}
