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

// testTimeout bounds each test of a guard. Without their guard tests may hang, which counts as a failure.
const testTimeout = 2 * time.Minute

// A guard is an expression or some lines of a declaration, and their replacement without the guard.
type guard struct {
	threat, title string
	worst         bool
	place         string // a package's folder and a declaration in it: "store Draft.Commit"; or a file that is not Go
	old, new      string // indentation is ignored
	pkg, tests    string // the tests that must fail without it: a folder, and a pattern as for go test -run
}

// parseGuards reads the list. A guard is a paragraph:
//
//	# 1 · the property it ensures    the threat's number; with ! after it, one of the worst to lose
//	store Draft.Commit                the package's folder, and the function, method, type, variable or constant
//	- the guard: a line, a part of a line, or several lines, once in that declaration
//	+ its replacement; without this line it is removed
//	store TestThatFailsWithoutIt
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
		case g.place == "":
			g.place = line
		default:
			g.pkg, g.tests, _ = strings.Cut(line, " ")
		}
	}
	g.old, g.new = strings.Join(from, "\n"), strings.Join(to, "\n")
	if g.title == "" || g.place == "" || g.old == "" || g.tests == "" {
		err = errors.New("the title, the place, the guard or the test is missing")
	}
	return g, err
}

// A change is the text of a file without a guard.
type change struct {
	file, text string
}

// mutate returns the change that takes the guard out.
func (g guard) mutate(t *tree) (change, error) {
	lines := strings.Split(g.old, "\n")
	for i := range lines {
		lines[i] = regexp.QuoteMeta(lines[i])
	}
	pattern := regexp.MustCompile(strings.Join(lines, `\n[ \t]*`))
	parts, err := t.find(g.place)
	if err != nil {
		return change{}, err
	}
	var found []change
	for _, p := range parts {
		for _, at := range pattern.FindAllStringIndex(p.text[p.from:p.to], -1) {
			found = append(found, change{p.file, p.text[:p.from+at[0]] + g.new + p.text[p.from+at[1]:]})
		}
	}
	if len(found) != 1 {
		return change{}, fmt.Errorf("its lines occur %d times there, want once: update guards.txt", len(found))
	}
	return found[0], nil
}

// bite runs the guard's tests without the guard and returns the test that failed. Its files' names begin with work.
func (g guard) bite(ctx context.Context, t *tree, work string) (by string, err error) {
	c, err := g.mutate(t)
	if err != nil {
		return "", err
	}
	real, err := filepath.Abs(c.file)
	if err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{real: work + ".go"}})
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.WriteFile(work+".go", []byte(c.text), 0o600), os.WriteFile(work+".json", overlay, 0o600)); err != nil {
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

// failure matches the testing package's report of a failed test or a timeout, a panic in another goroutine, and a fatal
// error of the runtime.
var failure = regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)|^(panic: test timed out)|^(panic): |^(fatal error: .*)`)

// runTests runs the tests of binary that match pattern. It returns the first one that failed, or "", and their output.
// Programs that the tests compile use the overlay too.
func runTests(ctx context.Context, pkg, binary, pattern, overlay string) (failed, out string, err error) {
	timeout := time.Duration(1+strings.Count(pattern, "|")) * testTimeout // they run one after the other
	cmd := exec.CommandContext(ctx, binary, "-test.run", "^("+pattern+")$", "-test.failfast", "-test.timeout", timeout.String())
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
