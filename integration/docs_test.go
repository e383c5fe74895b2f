package integration_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// whereabouts matches "`Node.Fetch` in `p2p/fetch.go`".
var whereabouts = regexp.MustCompile("`([A-Za-z.]+)` in `([A-Za-z0-9_/]+\\.go)`")

// TestArchitectureNamesWhatIsThere fails when a function that ARCHITECTURE.md speaks of has another name or place now.
func TestArchitectureNamesWhatIsThere(t *testing.T) {
	text, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	all := whereabouts.FindAllSubmatch(text, -1)
	if len(all) < 30 {
		t.Fatalf("%d functions are named, want 30 or more", len(all))
	}
	for _, m := range all {
		name, file := string(m[1]), string(m[2])
		if names, err := functionsIn(filepath.Join("..", file)); err != nil || !names[name] {
			t.Errorf("%s is not in %s: %v", name, file, err)
		}
	}
}

// functionsIn returns the functions that a file declares, methods as Type.method.
func functionsIn(file string) (map[string]bool, error) {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, d := range parsed.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		name := f.Name.Name
		if f.Recv != nil {
			t := f.Recv.List[0].Type
			if star, ok := t.(*ast.StarExpr); ok {
				t = star.X
			}
			if generic, ok := t.(*ast.IndexListExpr); ok {
				t = generic.X
			}
			if id, ok := t.(*ast.Ident); ok {
				name = id.Name + "." + name
			}
		}
		names[name] = true
	}
	return names, nil
}
