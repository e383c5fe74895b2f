package integration_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport is the import table of the design: what of ours each top-level folder may import, besides itself.
// Tests are held to it too.
var mayImport = map[string][]string{
	"store":       nil,
	"trust":       {"store"},
	"p2p":         {"store", "trust"},
	"narserve":    {"store", "trust"},
	"cmd":         {"store", "trust", "p2p", "narserve"},
	"integration": {"store", "trust", "p2p", "narserve", "cmd"},
}

var topLevelFiles = []string{"CHANGELOG.md", "LICENSE", "README.md", "flake.lock", "flake.nix", "go.mod", "go.sum"}

func TestImportsFollowTheTable(t *testing.T) {
	files := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != ".." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(path, ".go") {
			files++
			checkImports(t, path)
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Fatalf("walked over %d Go files: %v", files, err)
	}
}

func checkImports(t *testing.T, path string) {
	folder := strings.Split(filepath.ToSlash(path), "/")[1]
	allowed, known := mayImport[folder]
	if !known {
		t.Errorf("%s: no Go code belongs into %s", path, folder)
		return
	}
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
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
		to, _, _ := strings.Cut(ours, "/")
		if ok && to != folder && !slices.Contains(allowed, to) {
			t.Errorf("%s imports %s: %s may import %v only", path, imported, folder, allowed)
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
