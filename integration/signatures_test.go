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

// maxParams and maxResults bound those of declared functions: with more, a type is missing.
const (
	maxParams  = 4
	maxResults = 3
)

func TestFunctionsHaveFewParameters(t *testing.T) {
	looked := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == "testdata" || path == "../integration") {
			return filepath.SkipDir
		}
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			looked++
			if params, results := f.Type.Params.NumFields(), f.Type.Results.NumFields(); params > maxParams || results > maxResults {
				t.Errorf("%s: %s has %d parameters and %d results; at most %d and %d", files.Position(f.Pos()), f.Name.Name, params,
					results, maxParams, maxResults)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if looked < 1000 {
		t.Errorf("looked at %d functions", looked)
	}
}
