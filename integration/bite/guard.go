package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

//go:embed guards.txt
var guardList string

// testTimeout is how long the tests of one guard may take. Without a guard they may well hang, which is a bite, too.
const testTimeout = 2 * time.Minute

// A guard is some lines of a file, and what is left when the guard is taken out.
type guard struct {
	threat, title string
	worst         bool
	file          string
	old, new      string // indentation does not count
	pkg, tests    string // the tests that miss it: a folder, and a pattern as for go test -run
}

// parseGuards reads the list. A guard is a paragraph:
//
//	# 1 · what it sees to          the threat's number; with ! after it, one of the worst to lose
//	store/draft.go
//	- the line that is the guard, or a part of it, or several lines
//	+ what comes in its place; nothing, if there is no such line
//	store TestThatMissesIt
func parseGuards(text string) ([]guard, error) {
	var list []guard
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		g, err := parseGuard(paragraph)
		if err != nil {
			return nil, fmt.Errorf("guards.txt: %w in\n%s", err, paragraph)
		}
		list = append(list, g)
	}
	return list, nil
}

func parseGuard(paragraph string) (g guard, err error) {
	var from, to []string
	for line := range strings.SplitSeq(paragraph, "\n") {
		rest := strings.TrimSpace(line[min(1, len(line)):])
		switch {
		case strings.HasPrefix(line, "#"):
			g.threat, g.title, _ = strings.Cut(rest, " · ")
			g.threat, g.worst = strings.CutSuffix(g.threat, "!")
		case strings.HasPrefix(line, "-"):
			from = append(from, rest)
		case strings.HasPrefix(line, "+"):
			to = append(to, rest)
		case g.file == "":
			g.file = line
		default:
			g.pkg, g.tests, _ = strings.Cut(line, " ")
		}
	}
	g.old, g.new = strings.Join(from, "\n"), strings.Join(to, "\n")
	if g.title == "" || g.file == "" || g.old == "" || g.tests == "" {
		err = errors.New("something is missing")
	}
	return g, err
}

// mutate returns the file's text without the guard.
func (g guard) mutate() (string, error) {
	text, err := os.ReadFile(g.file)
	if err != nil {
		return "", err
	}
	lines := strings.Split(g.old, "\n")
	for i := range lines {
		lines[i] = regexp.QuoteMeta(lines[i])
	}
	found := regexp.MustCompile(strings.Join(lines, `\n[ \t]*`)).FindAllIndex(text, -1)
	if len(found) != 1 {
		return "", fmt.Errorf("its lines are there %d times: the guard has moved, update guards.txt", len(found))
	}
	return string(text[:found[0][0]]) + g.new + string(text[found[0][1]:]), nil
}

// bite runs the guard's tests without it, in files that begin with work, and returns the test that failed.
func (g guard) bite(ctx context.Context, work string) (by string, err error) {
	text, err := g.mutate()
	if err != nil {
		return "", err
	}
	real, err := filepath.Abs(g.file)
	if err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{real: work + ".go"}})
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.WriteFile(work+".go", []byte(text), 0o600), os.WriteFile(work+".json", overlay, 0o600)); err != nil {
		return "", err
	}
	if err := build(ctx, g.pkg, work+".test", work+".json"); err != nil {
		return "", err
	}
	defer os.Remove(work + ".test")
	by, _, err = runTests(ctx, g.pkg, work+".test", g.tests, work+".json")
	if err == nil && by == "" {
		err = fmt.Errorf("%s passes without it", g.tests)
	}
	return by, err
}

// build compiles the tests of a package, with the files of overlay in place of the tree's.
func build(ctx context.Context, pkg, binary, overlay string) error {
	out, err := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", binary, "./"+pkg).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s does not compile: %w\n%s", pkg, err, out)
	}
	return nil
}

// failure finds the first test that failed, as the testing package tells it, and a panic in a goroutine of its own.
var failure = regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)|^(panic: test timed out)|^(panic): |^(fatal error: .*)`)

// runTests returns the first test of binary that failed, or "", and all that they printed. Programs that they compile are
// made with the overlay too.
func runTests(ctx context.Context, pkg, binary, pattern, overlay string) (failed, out string, err error) {
	cmd := exec.CommandContext(ctx, binary, "-test.run", "^("+pattern+")$", "-test.failfast", "-test.timeout", testTimeout.String())
	cmd.Dir = pkg
	if overlay != "" {
		cmd.Env = append(os.Environ(), "GOFLAGS="+os.Getenv("GOFLAGS")+" -overlay="+overlay)
	}
	b, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return "", "", ctx.Err()
	}
	if err == nil && strings.Contains(string(b), "no tests to run") {
		return "", "", fmt.Errorf("%s has no test %s", pkg, pattern)
	}
	if err == nil {
		return "", "", nil
	}
	m := failure.FindStringSubmatch(string(b))
	if m == nil {
		return "", "", fmt.Errorf("%s ends with %w:\n%s", pattern, err, b)
	}
	return strings.Join(m[1:], ""), string(b), nil
}
