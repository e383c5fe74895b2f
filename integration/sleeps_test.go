package integration_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSleepsHaveAReason allows a time.Sleep in the tests of a package in two places: in a bubble of testing/synctest,
// where it takes no time, and in a loop that begins by setting a deadline with atMost, which follows NARBOR_SLOW. The
// tests in this folder are exempt: they run narbor on other machines, and cut its cable or stop it for a while. So is
// integration/hostile, which runs the cases of its tables in bubbles.
func TestSleepsHaveAReason(t *testing.T) {
	packages := make(map[string]*testCode)
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		dir := filepath.Dir(path)
		if err != nil || strings.HasPrefix(dir, "../integration") || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		if packages[dir] == nil {
			packages[dir] = &testCode{files: token.NewFileSet(), mentions: make(map[string][]mention)}
		}
		return packages[dir].read(path)
	})
	if err != nil || len(packages) == 0 {
		t.Fatal("no tests were read", err)
	}
	for _, c := range packages {
		for _, s := range c.sleeps {
			if !c.inBubble(s.by, make(map[*declaration]bool)) {
				t.Errorf("%s: time.Sleep is neither in a bubble of synctest nor in a loop with a deadline by atMost",
					c.files.Position(s.at))
			}
		}
	}
}

// testCode is the part of a package's tests that says what runs in a bubble. It goes by names: a name that is used
// for two things in a package is taken for one thing.
type testCode struct {
	files    *token.FileSet
	sleeps   []mention // those that need a bubble
	mentions map[string][]mention
}

// declaration is a function, a variable or a type; names is the type of a method.
type declaration struct{ names []string }

// mention is the place of a name; bubble is true in an argument of synctest.Test.
type mention struct {
	at     token.Pos
	by     *declaration
	bubble bool
}

// inBubble says whether a declaration is used in bubbles alone. Seen has the declarations on the way: a cycle is
// taken to be outside.
func (c *testCode) inBubble(d *declaration, seen map[*declaration]bool) bool {
	seen[d] = true
	defer delete(seen, d)
	return slices.ContainsFunc(d.names, func(name string) bool {
		used := false
		for _, m := range c.mentions[name] {
			if m.by == d {
				continue
			}
			used = true
			if !m.bubble && (seen[m.by] || !c.inBubble(m.by, seen)) {
				return false
			}
		}
		return used
	})
}

func (c *testCode) read(path string) error {
	file, err := parser.ParseFile(c.files, path, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, decl := range file.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			d := &declaration{names: []string{decl.Name.Name}}
			if decl.Recv != nil { // other types have methods of that name, too
				d.names = nil
				ast.Inspect(decl.Recv.List[0].Type, func(n ast.Node) bool {
					if id, ok := n.(*ast.Ident); ok {
						d.names = append(d.names, id.Name)
					}
					return true
				})
			}
			c.walk(decl.Type, mention{by: d}, false)
			if decl.Body != nil {
				c.walk(decl.Body, mention{by: d}, false)
			}
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				switch spec := spec.(type) {
				case *ast.ValueSpec:
					d := new(declaration)
					for _, id := range spec.Names {
						d.names = append(d.names, id.Name)
					}
					for _, v := range spec.Values {
						c.walk(v, mention{by: d}, false)
					}
				case *ast.TypeSpec:
					c.walk(spec.Type, mention{by: &declaration{names: []string{spec.Name.Name}}}, false)
				}
			}
		}
	}
	return nil
}

// walk notes the sleeps and the names in a part of a declaration; timed is true in a loop with a deadline.
func (c *testCode) walk(root ast.Node, in mention, timed bool) {
	ast.Inspect(root, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Ident:
			in.at = n.Pos()
			c.mentions[n.Name] = append(c.mentions[n.Name], in)
		case *ast.ForStmt:
			if n != root && n.Init != nil && calls(n.Init, "atMost") {
				c.walk(n, in, true)
				return false
			}
		case *ast.CallExpr:
			switch {
			case is(n.Fun, "time", "Sleep") && !in.bubble && !timed:
				in.at = n.Pos()
				c.sleeps = append(c.sleeps, in)
			case is(n.Fun, "synctest", "Test"):
				in := in
				in.bubble = true
				for _, arg := range n.Args {
					c.walk(arg, in, timed)
				}
				return false
			}
		}
		return true
	})
}

// is says whether an expression is pkg.name.
func is(e ast.Expr, pkg, name string) bool {
	s, ok := e.(*ast.SelectorExpr)
	if !ok || s.Sel.Name != name {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == pkg
}

// calls says whether a statement has a call of a function of this name, in upper or lower case.
func calls(n ast.Node, name string) (found bool) {
	ast.Inspect(n, func(n ast.Node) bool {
		id, ok := n.(*ast.Ident)
		found = found || ok && strings.EqualFold(id.Name, name)
		return true
	})
	return found
}
