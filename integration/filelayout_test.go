package integration_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// listed is a package as go list describes it.
type listed struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
	DepOnly                 bool
}

// maxCycle is how many files of a package may all refer to each other.
const maxCycle = 2

// TestLayoutOfFiles holds the files of each package to an order: a file refers to declarations of those below it only.
// Fields and methods count as declarations. Only the files that this system builds are looked at, without tests.
func TestLayoutOfFiles(t *testing.T) {
	packages := listPackages(t)
	exports := map[string]string{}
	for _, p := range packages {
		exports[p.ImportPath] = p.Export
	}
	fset := token.NewFileSet()
	config := types.Config{Importer: importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})}
	looked := 0
	for _, p := range packages {
		if p.DepOnly || strings.HasPrefix(p.ImportPath, "narbor/integration") {
			continue
		}
		looked++
		refs := fileReferences(t, p, fset, config)
		for _, cycle := range cyclesOf(refs) {
			if len(cycle) > maxCycle {
				t.Errorf("%s: %s refer to each other:%s", p.ImportPath, strings.Join(cycle, ", "), refs.within(cycle))
			}
		}
	}
	if looked < 20 {
		t.Errorf("looked at %d packages", looked)
	}
}

// fileRefs is for each file of a package, which names it uses that are declared in which other file.
type fileRefs map[string]map[string]map[string]bool

// within lists the references between some files.
func (r fileRefs) within(files []string) string {
	var list strings.Builder
	for _, from := range files {
		for _, to := range files {
			if names := r[from][to]; len(names) > 0 {
				fmt.Fprintf(&list, "\n\t%s uses %s of %s", from, strings.Join(slices.Sorted(maps.Keys(names)), ", "), to)
			}
		}
	}
	return list.String()
}

func listPackages(t *testing.T) []listed {
	list := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles,DepOnly", "./...")
	list.Dir, list.Stderr = "..", os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	var packages []listed
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// fileReferences returns the references between the files of a package.
func fileReferences(t *testing.T, p listed, fset *token.FileSet, config types.Config) fileRefs {
	var files []*ast.File
	for _, name := range p.GoFiles {
		file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	pkg, err := config.Check(p.ImportPath, fset, files, info)
	if err != nil {
		t.Fatal(err)
	}
	refs := fileRefs{}
	for ident, object := range info.Uses {
		if object.Pkg() != pkg || !object.Pos().IsValid() {
			continue
		}
		from, to := filepath.Base(fset.File(ident.Pos()).Name()), filepath.Base(fset.File(object.Pos()).Name())
		if from == to {
			continue
		}
		if refs[from] == nil {
			refs[from] = map[string]map[string]bool{}
		}
		if refs[from][to] == nil {
			refs[from][to] = map[string]bool{}
		}
		refs[from][to][object.Name()] = true
	}
	return refs
}

// cyclesOf returns the groups of files that all reach each other.
func cyclesOf(refs fileRefs) (cycles [][]string) {
	reach := map[string]map[string]bool{}
	for from := range refs {
		reach[from] = map[string]bool{}
		for next := []string{from}; len(next) > 0; next = next[1:] {
			for to := range refs[next[0]] {
				if !reach[from][to] {
					reach[from][to] = true
					next = append(next, to)
				}
			}
		}
	}
	done := map[string]bool{}
	for _, from := range slices.Sorted(maps.Keys(reach)) {
		if done[from] || !reach[from][from] {
			continue
		}
		cycle := slices.DeleteFunc(slices.Sorted(maps.Keys(reach[from])), func(to string) bool { return !reach[to][from] })
		for _, name := range cycle {
			done[name] = true
		}
		cycles = append(cycles, cycle)
	}
	return cycles
}
