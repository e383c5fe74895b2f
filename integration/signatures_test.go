package integration_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// maxParams and maxResults bound those of declared functions: with more, a type is missing. maxFunctionLines bounds
// their length.
const (
	maxParams        = 4
	maxResults       = 3
	maxFunctionLines = 60
)

func TestFunctionsAreSmall(t *testing.T) {
	looked := 0
	eachFile(t, func(file goFile) {
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			looked++
			if params, results := f.Type.Params.NumFields(), f.Type.Results.NumFields(); params > maxParams || results > maxResults {
				t.Errorf("%s: %s has %d parameters and %d results; at most %d and %d", file.set.Position(f.Pos()), f.Name.Name, params,
					results, maxParams, maxResults)
			}
			if n := file.set.Position(f.End()).Line - file.set.Position(f.Pos()).Line + 1; n > maxFunctionLines {
				t.Errorf("%s: %s has %d lines; at most %d", file.set.Position(f.Pos()), f.Name.Name, n, maxFunctionLines)
			}
		}
	})
	if looked < 1000 {
		t.Errorf("looked at %d functions", looked)
	}
}

// A goFile is a parsed file of the program, which is neither a test nor below integration.
type goFile struct {
	*ast.File
	set  *token.FileSet
	room string // its folder
}

func eachFile(t *testing.T, look func(goFile)) {
	t.Helper()
	set := token.NewFileSet()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == "testdata" || path == "../integration") {
			return filepath.SkipDir
		}
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err == nil {
			look(goFile{file, set, strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), "../")})
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
