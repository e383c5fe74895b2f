package integration_test

import (
	"go/ast"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// waited has the functions with a go statement outside tests, and what waits for the goroutine, or bounds it if nothing does.
var waited = map[string]string{
	"cmd/narbor from":                 "unwaited: a read of a NAS cannot be ended; one at a time",
	"cmd/narbor lostFile":             "state.keep, by the channel",
	"cmd/narbor/demo fetch":           "itself, by the channel",
	"cmd/narbor/demo start":           "machine.stop, by the channel",
	"cmd/narbor/demo startWithParent": "unwaited: it keeps a thread for the parent-death signal; one for each of four processes",
	"cmd/narbor/doctor enter":         "itself, by the channel",
	"cmd/narbor/doctor listen":        "itself, by the channel; for a knock it ends with the socket",
	"cmd/narbor/doctor newNetNS":      "itself, by the channel",
	"narserve Run":                    "itself, for stopLimit",
	"narserve ask":                    "Server.Run, for stopLimit",
	"p2p/ask askForFile":              "unwaited: the end of its context resets the stream that it reads",
	"p2p/discovery begin":             "namedPeers.run",
	"p2p/fetch start":                 "crew.wait",
	"p2p/mdns goodbye":                "itself, for goodbyeLimit: zeroconf takes no context",
	"p2p/p2ptest Run":                 "itself, by the function that it returns",
	"p2p/proxy fetchFor":              "Life.End",
	"p2p/secrets ask":                 "unwaited: a source may ignore its deadline; a source has a fixed number of places",
	"store/nixstore close":            "itself, for closeLimit",
	"store/nixconf watchFiles":        "awaitConf, by the channel",
	"store/rebase Go":                 "unwaited: a read of a disk cannot be ended; 32 at most",
	"store/flight Go":                 "Life.End",
	"store/flight Join":               "unwaited: the Life of its callers waits for what it runs, and its own wait is 10 s at most",
	"store/spool hashBeside":          "the writer, by the function that it returns",
	"store/upstream Ready":            "Cache.Close",
}

// A goroutine that nothing waits for outlasts the part that it belongs to, so each go statement is listed.
func TestGoroutinesAreWaitedFor(t *testing.T) {
	seen := map[string]bool{}
	eachFile(t, func(file goFile) {
		if file.room == "store/storetest" {
			return
		}
		for _, decl := range file.Decls {
			ast.Inspect(decl, func(n ast.Node) bool {
				if _, ok := n.(*ast.GoStmt); ok {
					name := file.room
					if f, ok := decl.(*ast.FuncDecl); ok {
						name += " " + f.Name.Name
					}
					seen[name] = true
				}
				return true
			})
		}
	})
	for name := range seen {
		if waited[name] == "" {
			t.Errorf("%s has a go statement: use a WaitGroup of the part that it belongs to, or say in waited what waits for it", name)
		}
	}
	for name := range waited {
		if !seen[name] {
			t.Errorf("%s has no go statement any more", name)
		}
	}
}

// pure has the files with the types that decide without a lock, a goroutine, a clock or a file.
var pure = []string{
	"narserve/plan.go",
	"p2p/discovery/candidate.go", "p2p/discovery/candidates.go",
	"p2p/fetch/blame.go", "p2p/fetch/picker.go", "p2p/fetch/sources.go",
	"p2p/peers/deny.go", "p2p/peers/mismatch.go", "p2p/peers/record.go", "p2p/peers/setback.go",
}

// clocks has the functions of package time that read the clock or wait for it.
var clocks = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTicker", "NewTimer"}

// impureImports are what those files do not import, or the beginning of it.
var impureImports = []string{"context", "io/fs", "narbor/store/statefile", "os", "sync"}

func TestDecidersArePure(t *testing.T) {
	seen := 0
	eachFile(t, func(file goFile) {
		if !slices.Contains(pure, file.room+"/"+filepath.Base(file.set.Position(file.Package).Filename)) {
			return
		}
		seen++
		ast.Inspect(file.File, func(n ast.Node) bool {
			impure := ""
			switch n := n.(type) {
			case *ast.GoStmt:
				impure = "a goroutine"
			case *ast.ImportSpec:
				if slices.ContainsFunc(impureImports, func(p string) bool { return strings.HasPrefix(n.Path.Value, `"`+p) }) {
					impure = n.Path.Value
				}
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clocks, n.Sel.Name) {
					impure = "a clock of its own"
				}
			}
			if impure != "" {
				t.Errorf("%s: it has %s: leave that to the type around it", file.set.Position(n.Pos()), impure)
			}
			return true
		})
	})
	if seen != len(pure) {
		t.Errorf("looked at %d files, want the %d of pure", seen, len(pure))
	}
}
