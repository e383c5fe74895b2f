package integration_test

import (
	"go/ast"
	"slices"
	"testing"
)

// Over these limits a package, a type, a struct or a file must be split.
const (
	maxNames   = 40 // exported
	maxMethods = 30
	maxFields  = 12
	maxLines   = 400
)

// longStructs are those of over maxFields fields: settings, and what --json prints.
var longStructs = []string{"cmd/narbor.ShareStatus", "cmd/narbor/control.Status", "cmd/narbor/control.Why", "narserve.Config", "p2p.Config",
	"p2p.NeighbourStatus", "p2p.Status"}

func TestLimitsOfTheLayout(t *testing.T) {
	seen, long := map[string]bool{}, []string{} // a name may be declared again for another system
	names, methods := map[string]int{}, map[string]int{}
	count := func(of map[string]int, owner, name string) {
		if !seen[owner+"."+name] {
			seen[owner+"."+name] = true
			of[owner]++
		}
	}
	eachFile(t, func(f goFile) {
		if end := f.set.Position(f.FileEnd); end.Line > maxLines+1 {
			t.Errorf("%s has %d lines; at most %d", end.Filename, end.Line-1, maxLines)
		}
		for _, decl := range f.Decls {
			for _, name := range declared(decl) {
				if name.IsExported() {
					count(names, f.room, name.Name)
				}
			}
			if m, ok := decl.(*ast.FuncDecl); ok && m.Recv != nil {
				count(methods, f.room+"."+receiver(m), m.Name.Name)
			}
		}
		ast.Inspect(f.File, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if s, ok := spec.Type.(*ast.StructType); ok && s.Fields.NumFields() > maxFields {
					long = append(long, f.room+"."+spec.Name.Name)
				}
			}
			return true
		})
	})
	for room, n := range names {
		if n > maxNames {
			t.Errorf("%s exports %d names; at most %d", room, n, maxNames)
		}
	}
	for of, n := range methods {
		if n > maxMethods {
			t.Errorf("%s has %d methods; at most %d", of, n, maxMethods)
		}
	}
	if slices.Sort(long); !slices.Equal(long, longStructs) {
		t.Errorf("structs of over %d fields are %q, want %q", maxFields, long, longStructs)
	}
	if len(names) < 35 || len(methods) < 300 {
		t.Errorf("looked at %d packages and the methods of %d types", len(names), len(methods))
	}
}

// declared returns the names that a declaration adds to its package.
func declared(decl ast.Decl) (names []*ast.Ident) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			names = append(names, d.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				names = append(names, s.Name)
			case *ast.ValueSpec:
				names = append(names, s.Names...)
			}
		}
	}
	return names
}

// receiver returns the name of the type that f is a method of.
func receiver(f *ast.FuncDecl) (name string) {
	ast.Inspect(f.Recv.List[0].Type, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && name == "" {
			name = id.Name
		}
		return true
	})
	return name
}
