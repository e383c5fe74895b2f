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

// No files of a package refer to each other, in pairs or larger circles. Fields and methods count as declarations. Only
// the files that this system builds are looked at, without tests, and none of integration.
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
	looked, found := 0, 0
	for _, p := range packages {
		if p.DepOnly || strings.HasPrefix(p.ImportPath, "narbor/integration") {
			continue
		}
		looked++
		refs := fileReferences(t, p, fset, config)
		found += refs.count()
		for _, cycle := range cyclesOf(refs) {
			t.Errorf("%s: %s refer to each other:%s", p.ImportPath, strings.Join(cycle, ", "), refs.within(cycle))
		}
	}
	if looked < 20 || found < 2000 {
		t.Errorf("looked at %d packages, and found %d references between files", looked, found)
	}
}

func TestCyclesOfFiles(t *testing.T) {
	for _, c := range []struct {
		refs string // pairs of files, of which the first refers to the second
		want [][]string
	}{
		{"", nil}, {"ab bc ac", nil}, {"ab ac db dc", nil},
		{"ab ba", [][]string{{"a", "b"}}},
		{"ab bc ca", [][]string{{"a", "b", "c"}}},
		{"ab bc ca cd xa", [][]string{{"a", "b", "c"}}},        // files that are only reached, or only reach, are no part of it
		{"ab ba bc cb", [][]string{{"a", "b", "c"}}},           // two pairs with a file in common
		{"ab ba bc cd dc", [][]string{{"a", "b"}, {"c", "d"}}}, // one leads to the other
		{"ab bc ca xy yz zx", [][]string{{"a", "b", "c"}, {"x", "y", "z"}}},
	} {
		refs := fileRefs{}
		for _, pair := range strings.Fields(c.refs) {
			refs.add(pair[:1], pair[1:], "Name")
		}
		if got := cyclesOf(refs); !slices.EqualFunc(got, c.want, slices.Equal[[]string]) {
			t.Errorf("the cycles of %s are %q, want %q", c.refs, got, c.want)
		}
	}
}

// fileRefs is for each file of a package, which names it uses that are declared in which other file.
type fileRefs map[string]map[string]map[string]bool

func (r fileRefs) add(from, to, name string) {
	if r[from] == nil {
		r[from] = map[string]map[string]bool{}
	}
	if r[from][to] == nil {
		r[from][to] = map[string]bool{}
	}
	r[from][to][name] = true
}

func (r fileRefs) count() (n int) {
	for _, uses := range r {
		for _, names := range uses {
			n += len(names)
		}
	}
	return n
}

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
		if from != to {
			refs.add(from, to, object.Name())
		}
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
