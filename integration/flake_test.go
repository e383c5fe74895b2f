package integration_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var systems = []string{"aarch64-darwin", "aarch64-linux", "x86_64-darwin", "x86_64-linux"}

func TestFlakeShowsEverythingForEverySystem(t *testing.T) {
	var shown map[string]map[string]json.RawMessage
	f := newFlake(t)
	f.json(t, &shown, "flake", "show", "--json")
	for _, output := range []string{"packages", "apps", "devShells"} {
		for _, system := range systems {
			if got := string(shown[output][system]); !strings.Contains(got, `"default"`) {
				t.Errorf("%s.%s = %s, want a default", output, system, got)
			}
		}
		if len(shown[output]) != len(systems) {
			t.Errorf("%s has %d systems, want %d", output, len(shown[output]), len(systems))
		}
	}
	for _, name := range []string{"default", "installer", "guest", "vm-host"} {
		if got := string(shown["nixosModules"][name]); got != `{"type":"nixos-module"}` {
			t.Errorf("nixosModules.%s = %s", name, got)
		}
	}
	for _, system := range []string{"x86_64-linux", "aarch64-linux"} {
		if got := string(shown["checks"][system]); !strings.Contains(got, `"machines":{"name":"vm-test"`) {
			t.Errorf("checks.%s = %s, want the machines", system, got)
		}
	}
	for _, modules := range []string{"darwinModules", "homeModules", "systemManagerModules"} {
		if len(shown[modules]) == 0 {
			t.Errorf("%s: nothing is shown", modules)
		}
	}
	if got := string(shown["overlays"]["default"]); got != `{"type":"nixpkgs-overlay"}` {
		t.Errorf("overlays.default = %s", got)
	}
	f.run(t, "flake", "check", "--no-build")
}

func TestFlakeHasOneInput(t *testing.T) {
	var meta struct {
		Locks struct {
			Nodes map[string]struct{ Inputs map[string]any }
		}
	}
	newFlake(t).json(t, &meta, "flake", "metadata", "--json")
	if inputs := meta.Locks.Nodes["root"].Inputs; len(inputs) != 1 || inputs["nixpkgs"] == nil {
		t.Errorf("inputs = %v, want nixpkgs alone", inputs)
	}
}

// A stray folder in src changes nothing but the build's time; a missing one breaks the build, and changes vendorHash.
func TestFlakePackagesAllFoldersOfTheProgram(t *testing.T) {
	f := newFlake(t)
	for _, c := range f.evaluate(t, `{ }`) {
		want := []string{"cmd", "go.mod", "go.sum", "narserve", "p2p", "store", "trust"}
		if got := c.strings(t, "package.src"); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
			t.Errorf("src = %v, want %v", got, want)
		}
		c.want(t, "package.args.subPackages", `["cmd/narbor"]`)
		c.want(t, "package.args.env", `{"CGO_ENABLED":0}`)
		c.want(t, "package.args.meta.mainProgram", `"narbor"`)
		c.want(t, "package.args.meta.license.spdxId", `"MIT"`)
		if got := c.strings(t, "package.args.ldflags"); !slices.ContainsFunc(got, func(s string) bool {
			return strings.HasPrefix(s, "-X main.version=0.")
		}) {
			t.Errorf("ldflags = %q: no version", got)
		}
	}
}

// A flake is a copy of what Nix reads of the project, and a store of its own to read it with: nothing outside the
// test's directory is written, and no network is used.
type flake struct {
	dir    string
	env    []string
	module string // the output that is evaluated
	pick   string // what of it, in the Nix language; "module" is all
}

func newFlake(t *testing.T) flake {
	flakeNeeds(t, "nix")
	top := t.TempDir()
	t.Cleanup(func() { makeWritable(top) })
	dir := filepath.Join(top, "src")
	for _, sub := range []string{"nixos", "flake-stub"} {
		if err := os.CopyFS(filepath.Join(dir, "integration", sub), os.DirFS(sub)); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile("../flake.nix")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "flake.nix"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	env := []string{"PATH=" + os.Getenv("PATH"), "NIX_REMOTE=local",
		"NIX_CONFIG=experimental-features = nix-command flakes\nbuild-users-group =\nsandbox = false"}
	for variable, sub := range map[string]string{"NIX_STORE_DIR": "store", "NIX_STATE_DIR": "var", "NIX_LOG_DIR": "log",
		"NIX_CONF_DIR": "etc", "HOME": "home", "XDG_CACHE_HOME": "cache"} {
		path := filepath.Join(top, sub)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		env = append(env, variable+"="+path)
	}
	return flake{dir, env, "nixosModules.default", "module"}
}

// makeWritable lets the test's directory be removed by an ordinary user too: store paths are read-only.
func makeWritable(top string) {
	_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(path, 0o755) // what stays behind is reported by TempDir
		}
		return nil
	})
}

// run gives nix the command of one or two words that args begin with, for the flake.
func (f flake) run(t *testing.T, args ...string) []byte {
	t.Helper()
	words := 1
	if args[0] == "flake" {
		words = 2
	}
	installable := "path:" + f.dir
	if args[0] == "eval" {
		installable += "#" + f.module
	}
	full := append(slices.Clone(args[:words]), installable)
	full = append(full, args[words:]...)
	full = append(full, "--offline", "--no-write-lock-file",
		"--override-input", "nixpkgs", "path:"+f.dir+"/integration/flake-stub")
	cmd := exec.CommandContext(t.Context(), "nix", full...)
	cmd.Env = f.env
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("nix %s: %v\n%s", strings.Join(full, " "), err, stderr.String())
	}
	return out
}

func (f flake) json(t *testing.T, into any, args ...string) {
	t.Helper()
	out := f.run(t, args...)
	if err := json.Unmarshal(out, into); err != nil {
		t.Fatalf("nix %s: %v in %.500s", strings.Join(args, " "), err, out)
	}
}

// evaluate gives what the module makes of each configuration, which is a NixOS module in the Nix language.
func (f flake) evaluate(t *testing.T, configs ...string) []evaluated {
	t.Helper()
	var out []evaluated
	kind, _, _ := strings.Cut(f.module, ".")
	apply := fmt.Sprintf("module: import %s/integration/flake-stub/eval.nix %q (%s) [ (%s) ]", f.dir, kind, f.pick,
		strings.Join(configs, ") ("))
	f.json(t, &out, "eval", "--impure", "--json", "--apply", apply)
	if len(out) != len(configs) {
		t.Fatalf("%d results for %d configurations", len(out), len(configs))
	}
	return out
}

// evaluated is what the module made of one configuration, if that was accepted.
type evaluated struct {
	Success bool
	Value   any // false if not accepted
}

// at returns the value at a dotted path, nil if there is none.
func (e evaluated) at(path string) any {
	v := e.Value
	for name := range strings.SplitSeq(path, ".") {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

// want compares the value at a dotted path with JSON text.
func (e evaluated) want(t *testing.T, path, want string) {
	t.Helper()
	got, err := json.Marshal(e.at(path))
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s = %s, want %s", path, got, want)
	}
}

func (e evaluated) strings(t *testing.T, path string) []string {
	t.Helper()
	list, ok := e.at(path).([]any)
	if !ok {
		t.Fatalf("%s = %v, want a list", path, e.at(path))
	}
	var out []string
	for _, v := range list {
		s, _ := v.(string)
		out = append(out, s)
	}
	return out
}

// flakeNeeds skips the test where a tool is missing, but not where everything must run.
func flakeNeeds(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			unable(t, err.Error())
		}
	}
}
