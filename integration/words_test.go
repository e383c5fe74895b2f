package integration_test

import (
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// indirect finds the words of sentences that are about a person where a thing is meant.
var indirect = regexp.MustCompile(`(?i)\b(who|whoever|whom|whose|somebody|someone|nobody|anybody|anyone|everybody|everyone|what is)\b`)

// maxIndirect is the share of comment lines that may have one of these words.
const maxIndirect = 0.001

// maxColumns is the length of the longest line of code, with tabs of four columns.
const maxColumns = 140

func TestLinesAreShort(t *testing.T) {
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for i, line := range strings.Split(string(text), "\n") {
			if n := utf8.RuneCountInString(strings.ReplaceAll(line, "\t", "    ")); n > maxColumns {
				t.Errorf("%s:%d has %d columns, want at most %d", path, i+1, n, maxColumns)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestCommentsArePlain counts the lines of comments that have one of the words above.
func TestCommentsArePlain(t *testing.T) {
	var lines, found int
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, line := range commentLines(path, text) {
			lines++
			if indirect.MatchString(line) {
				found++
				t.Logf("%s: %s", path, line)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	share := float64(found) / float64(max(lines, 1))
	t.Logf("%d of %d lines of comments, %.1f %%", found, lines, 100*share)
	if lines == 0 || share > maxIndirect {
		t.Errorf("%.1f %% of the lines of comments say who, whose, somebody and the like, want at most %.1f %%", 100*share, 100*maxIndirect)
	}
}

// commentLines returns the text of a Go file's comments, line by line.
func commentLines(path string, text []byte) []string {
	var out []string
	var s scanner.Scanner
	files := token.NewFileSet()
	s.Init(files.AddFile(path, -1, len(text)), text, nil, scanner.ScanComments)
	for {
		_, tok, literal := s.Scan()
		if tok == token.EOF {
			return out
		}
		if tok == token.COMMENT {
			out = append(out, strings.Split(literal, "\n")...)
		}
	}
}
