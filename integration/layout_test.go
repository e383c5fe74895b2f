package integration_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport is the import table of the design: what of ours each package may import. A package that is not named here
// belongs to the nearest folder above it that is. Tests may also import what testsMayImport says.
var mayImport = map[string][]string{
	"store":              nil,
	"store/bincache":     {"store", "store/nar"},
	"store/damage":       {"store", "store/lru", "store/statefile"},
	"store/flight":       nil,
	"store/gitstore":     {"store", "store/nar", "store/statefile"},
	"store/lru":          nil,
	"store/nar":          {"store"},
	"store/nixconf":      {"store", "store/statefile"},
	"store/narinfocache": nil,
	"store/nixstore":     {"store", "store/flight", "store/nar"},
	"store/offered":      {"store", "store/statefile"},
	"store/rebase":       {"store", "store/lru"},
	"store/spool":        {"store", "store/flight", "store/nar"},
	"store/statefile":    nil,
	"store/storetest":    {"store"},
	"store/upstream":     {"store", "store/lru", "store/nar"},
	"trust":              {"store", "store/lru"},
	"trust/trusttest":    {"store", "store/storetest", "trust"},
	"p2p": {"store", "store/flight", "store/rebase", "store/spool", "trust",
		"p2p/ask", "p2p/discovery", "p2p/fetch", "p2p/greet", "p2p/meet", "p2p/netmon", "p2p/peers", "p2p/ping", "p2p/proxy",
		"p2p/receive", "p2p/secrets", "p2p/serve", "p2p/transport"},
	"p2p/ask":       {"store", "store/lru", "trust", "p2p/discovery", "p2p/fetch", "p2p/peers", "p2p/secrets", "p2p/wire"},
	"p2p/discovery": {"store/statefile", "p2p/mdns", "p2p/netmon", "p2p/transport"},
	"p2p/fetch":     {"store", "store/rebase", "store/spool", "store/upstream", "trust", "p2p/peers", "p2p/wire"},
	"p2p/greet":     {"store/flight", "p2p/ask", "p2p/discovery", "p2p/meet", "p2p/peers", "p2p/wire"},
	"p2p/ping":      {"store", "trust", "p2p/ask", "p2p/discovery", "p2p/fetch", "p2p/peers", "p2p/wire"},
	"p2p/serve":     {"store", "store/lru", "store/spool", "trust", "p2p/netmon", "p2p/peers", "p2p/wire"},
	"p2p/peers":     {"store", "store/lru", "store/statefile", "trust", "p2p/netmon", "p2p/wire"},
	"p2p/mdns":      {"store/lru", "p2p/netmon"},
	"p2p/proxy": {"store", "store/flight", "store/lru", "store/spool", "store/upstream", "trust", "p2p/ask", "p2p/fetch", "p2p/netmon",
		"p2p/peers", "p2p/receive", "p2p/serve", "p2p/wire"},
	"p2p/receive":    {"store", "store/lru", "store/spool", "trust", "p2p/ask", "p2p/fetch", "p2p/serve"},
	"p2p/secrets":    {"store", "store/upstream", "trust", "p2p/peers"},
	"p2p/meet":       {"store/lru", "p2p/discovery", "p2p/netmon", "p2p/peers", "p2p/transport", "p2p/wire"},
	"p2p/netmon":     nil,
	"p2p/transport":  {"store/statefile", "p2p/netmon"},
	"p2p/p2ptest":    {"store", "store/storetest", "p2p/netmon"},
	"p2p/wire":       {"store", "trust"},
	"narserve":       {"store", "store/flight", "store/lru", "store/spool", "trust", "narserve/stats"},
	"narserve/stats": {"store", "store/lru", "store/statefile", "trust"},
	"cmd": {"store", "store/bincache", "store/damage", "store/gitstore", "store/narinfocache",
		"store/nixconf", "store/nixstore", "store/offered", "store/spool",
		"store/rebase", "store/statefile",
		"store/upstream", "trust", "p2p", "p2p/ask", "p2p/discovery", "p2p/meet", "p2p/netmon",
		"p2p/peers", "p2p/ping", "p2p/transport", "narserve", "narserve/stats", "cmd/narbor/circle",
		"cmd/narbor/control", "cmd/narbor/dashboard", "cmd/narbor/demo", "cmd/narbor/doctor", "cmd/narbor/exit", "cmd/narbor/watch"},
	"cmd/narbor/circle": {"trust"},
	"cmd/narbor/demo":   {"store", "store/bincache", "store/nar", "trust", "cmd/narbor/control", "cmd/narbor/dashboard"},
	"cmd/narbor/doctor": {"store/nixconf", "store/rebase", "trust", "p2p/mdns", "p2p/meet", "p2p/netmon",
		"narserve", "cmd/narbor/control", "cmd/narbor/dashboard", "cmd/narbor/exit"},
	"cmd/narbor/exit": nil,
	"cmd/narbor/control": {"store/damage", "p2p", "p2p/ask", "p2p/discovery", "p2p/greet", "p2p/meet", "p2p/peers", "p2p/ping",
		"p2p/proxy", "narserve", "narserve/stats", "cmd/narbor/exit"},
	"cmd/narbor/dashboard": {"store", "p2p", "p2p/netmon", "narserve", "narserve/stats", "cmd/narbor/control"},
	"cmd/narbor/watch":     {"store", "p2p", "narserve/stats", "cmd/narbor/control", "cmd/narbor/dashboard"},
	"integration": {"store", "store/bincache", "store/nixstore", "store/spool", "trust",
		"p2p", "p2p/discovery", "p2p/transport"},
}

// testsMayImport is what the tests of a room import besides.
var testsMayImport = map[string][]string{
	"cmd":                  {"p2p/greet", "p2p/proxy"},
	"cmd/narbor/dashboard": {"p2p/peers", "store/spool"},
	"cmd/narbor/watch":     {"cmd/narbor/exit"},
	"integration":          {"cmd/narbor/control", "cmd/narbor/dashboard", "narserve", "narserve/stats", "p2p/netmon", "p2p/peers"},
	"p2p":                  {"p2p/wire", "store/damage", "store/offered", "store/upstream"},
	"p2p/proxy":            {"p2p/secrets"},
	"p2p/serve":            {"store/offered"},
}

// forTests are rooms that tests alone may import, whatever their own room.
var forTests = []string{"store/storetest", "trust/trusttest", "p2p/p2ptest"}

// room returns the key of mayImport for a package, such as cmd for cmd/narbor, or "".
func room(folder string) string {
	for ; folder != "."; folder = path.Dir(folder) {
		if _, ok := mayImport[folder]; ok {
			return folder
		}
	}
	return ""
}

var topLevelFiles = []string{"ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md", "flake.lock",
	"flake.nix", "go.mod", "go.sum"}

func TestImportsFollowTheTable(t *testing.T) {
	files, seen := 0, arrows{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != ".." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(path, ".go") {
			files++
			seen.addFile(t, path)
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Fatalf("walked over %d Go files: %v", files, err)
	}
	seen.use(t, mayImport, false)
	seen.use(t, testsMayImport, true)
}

// arrows are the imports of one room by another, in code or in tests.
type arrows map[arrow]bool

type arrow struct {
	from, to string
	tests    bool
}

// addFile adds the imports of a file, and reports those that the tables do not allow.
func (as arrows) addFile(t *testing.T, name string) {
	folder := path.Dir(strings.TrimPrefix(filepath.ToSlash(name), "../"))
	from := room(folder)
	if from == "" {
		t.Errorf("%s: no Go code belongs into %s", name, folder)
		return
	}
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
	if err != nil {
		t.Error(err)
		return
	}
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Error(err)
			continue
		}
		ours, ok := strings.CutPrefix(imported, "narbor/")
		to, tests := room(ours), strings.HasSuffix(name, "_test.go")
		if !ok || to == from || tests && slices.Contains(forTests, to) {
			continue
		}
		allowed := slices.Contains(mayImport[from], to)
		as[arrow{from, to, tests}] = true
		if !allowed && (!tests || !slices.Contains(testsMayImport[from], to)) {
			t.Errorf("%s imports %s: %s may import %v only, its tests %v too", name, imported, from, mayImport[from], testsMayImport[from])
		}
	}
}

// use reports what a table allows and no file does.
func (as arrows) use(t *testing.T, table map[string][]string, tests bool) {
	for from, all := range table {
		for _, to := range all {
			if !as[arrow{from, to, tests}] {
				t.Errorf("the table lets %s import %s (in tests: %t), and no file does", from, to, tests)
			}
		}
	}
}

func TestTopLevelHoldsNothingElse(t *testing.T) {
	for _, name := range topLevel(t) {
		_, folder := mayImport[name]
		if !folder && !strings.HasPrefix(name, ".") && !slices.Contains(topLevelFiles, name) {
			t.Errorf("%s does not belong at the top level", name)
		}
	}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && slices.Contains([]string{"internal", "pkg", "util", "utils"}, d.Name()) {
			t.Errorf("%s: a folder is named for what is in it", path)
		}
		if err == nil && d.IsDir() && d.Name() == ".git" {
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// go.mod names the modules that anything here imports, tests and tools included.
func TestUnusedTransportsAreNotLinked(t *testing.T) {
	text, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range []string{"github.com/pion/", "github.com/quic-go/", "go.uber.org/fx"} {
		if strings.Contains(string(text), module) {
			t.Errorf("go.mod names %s…: is libp2p.New imported? p2p/transport/host.go and integration/barehost make hosts without it",
				module)
		}
	}
}

// topLevel lists the first components of all files that git tracks or would track; where there is no git, of all
// that is there.
func topLevel(t *testing.T) []string {
	git := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard")
	git.Dir = ".."
	var names []string
	if out, err := git.Output(); err == nil {
		for line := range strings.Lines(string(out)) {
			name, _, _ := strings.Cut(strings.TrimSpace(line), "/")
			names = append(names, name)
		}
	} else {
		entries, err := os.ReadDir("..")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// SECURITY.md proves its promises by tests: those that it names must exist.
func TestSecurityNamesTestsThatExist(t *testing.T) {
	text, err := os.ReadFile("../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	here := testNames(t)
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)`").FindAllStringSubmatch(string(text), -1)
	if len(named) < 27 {
		t.Errorf("SECURITY.md names %d tests, want one for each threat at least", len(named))
	}
	for _, m := range named {
		if !here[m[1]] {
			t.Errorf("SECURITY.md names %s, which is no test", m[1])
		}
	}
	for n := 1; n <= 27; n++ {
		row := regexp.MustCompile(fmt.Sprintf(`(?m)^\| %d \|.*$`, n)).FindString(string(text))
		if !strings.Contains(row, "`Test") {
			t.Errorf("threat %d: the row %q names no test", n, row)
		}
	}
}

// testNames returns the names of all tests.
func testNames(t *testing.T) map[string]bool {
	names := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(file, -1) {
			names[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
