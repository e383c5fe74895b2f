package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// A part is a piece of a file, from one offset up to another.
type part struct {
	file, text string
	from, to   int
}

// A tree is the source code, in which declarations are found by name. Its methods may be called concurrently.
type tree struct {
	mu       sync.Mutex                   // guards packages
	packages map[string]map[string][]part // by folder, then by name
}

// find returns the parts that a place names: "store Draft.Commit", of which there are several if the files of several
// systems declare it, or a whole file that is not Go.
func (t *tree) find(place string) ([]part, error) {
	folder, name, ok := strings.Cut(place, " ")
	if !ok {
		text, err := os.ReadFile(place)
		return []part{{place, string(text), 0, len(text)}}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.packages == nil {
		t.packages = map[string]map[string][]part{}
	}
	if t.packages[folder] == nil {
		decls, err := declarations(folder)
		if err != nil {
			return nil, err
		}
		t.packages[folder] = decls
	}
	parts := t.packages[folder][name]
	if len(parts) == 0 {
		return nil, fmt.Errorf("%s declares no %s: update guards.txt", folder, name)
	}
	return parts, nil
}

// declarations returns the parts of a package's files, without its tests, by the name that each declares.
func declarations(folder string) (map[string][]part, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		return nil, err
	}
	out := map[string][]part{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, text, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		add := func(name string, n ast.Node) {
			out[name] = append(out[name], part{file, string(text), set.Position(n.Pos()).Offset, set.Position(n.End()).Offset})
		}
		for _, d := range parsed.Decls {
			declared(d, add)
		}
	}
	return out, nil
}

// declared calls add for each name that a declaration declares: that of a method with its type, as in Draft.Commit.
func declared(d ast.Decl, add func(name string, n ast.Node)) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		add(receiver(d)+d.Name.Name, d)
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				add(spec.Name.Name, spec)
			case *ast.ValueSpec:
				for _, name := range spec.Names {
					add(name.Name, spec)
				}
			}
		}
	}
}

// receiver returns the type of a method and a dot, or "" for a function.
func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return ""
	}
	t := d.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	switch generic := t.(type) {
	case *ast.IndexExpr:
		t = generic.X
	case *ast.IndexListExpr:
		t = generic.X
	}
	if id, ok := t.(*ast.Ident); ok {
		return id.Name + "."
	}
	return ""
}
