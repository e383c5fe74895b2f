// Command bite proves that the tests bite: it takes out one guard after the other, and demands that a test fails.
//
//	go run ./integration/bite [-worst] [-only REGEXP]
//
// The guards are in guards.txt, each with the number of the threat or promise in SECURITY.md that it is there for. The
// tree stays as it is: the compiler gets the changed file in place of the real one. A change that does not compile, or
// whose place in the file is not found, proves nothing and is an error, as is a test that fails without it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	worst := flag.Bool("worst", false, "only the guards marked as the worst to lose")
	only := flag.String("only", "", "only the guards whose title or file matches this `REGEXP`")
	jobs := flag.Int("jobs", runtime.NumCPU(), "how many at once")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *worst, *only, *jobs); err != nil {
		fmt.Fprintln(os.Stderr, "bite:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, worst bool, only string, jobs int) error {
	match, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	guards, err := parseGuards(guardList)
	if err != nil {
		return err
	}
	guards = slices.DeleteFunc(guards, func(g guard) bool {
		return worst && !g.worst || !match.MatchString(g.title) && !match.MatchString(g.file)
	})
	if _, err := os.Stat("go.mod"); err != nil {
		return errors.New("it runs in the top folder of the repository")
	}
	work, err := os.MkdirTemp("", "bite-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	began := time.Now()
	if err := sound(ctx, guards, work, jobs); err != nil {
		return err
	}
	fmt.Printf("%-9s %-62s %-50s %s\n", "threat", "guard", "bitten by", "seconds")
	var g errgroup.Group
	g.SetLimit(jobs)
	missed := make([]error, len(guards))
	for i, gd := range guards {
		g.Go(func() error {
			start := time.Now()
			by, err := gd.bite(ctx, filepath.Join(work, fmt.Sprint(i)))
			if err != nil {
				missed[i] = fmt.Errorf("%s (%s): %w", gd.title, gd.file, err)
				by = "NOT BITTEN"
			}
			fmt.Printf("%-9s %-62s %-50s %.1f\n", gd.threat, gd.title, by, time.Since(start).Seconds())
			return nil
		})
	}
	_ = g.Wait() // what failed is in missed
	if err := errors.Join(missed...); err != nil {
		return fmt.Errorf("not every guard is missed when it is gone:\n%w", err)
	}
	fmt.Printf("%d guards, each missed by a test when it is gone, in %.0f s\n", len(guards), time.Since(began).Seconds())
	return nil
}

// sound runs all the tests that guards name once without a change: a test that fails anyway, or that there is not,
// proves nothing.
func sound(ctx context.Context, guards []guard, work string, jobs int) error {
	tests := map[string][]string{}
	for _, gd := range guards {
		if !slices.Contains(tests[gd.pkg], gd.tests) {
			tests[gd.pkg] = append(tests[gd.pkg], gd.tests)
		}
	}
	var g errgroup.Group
	g.SetLimit(jobs)
	for pkg, patterns := range tests {
		g.Go(func() error {
			binary := filepath.Join(work, strings.ReplaceAll(pkg, "/", "_"))
			if err := build(ctx, pkg, binary, ""); err != nil {
				return err
			}
			failed, out, err := runTests(ctx, pkg, binary, strings.Join(patterns, "|"), "")
			if err == nil && failed != "" {
				err = fmt.Errorf("%s fails in %s, with every guard in place:\n%s", failed, pkg, out)
			}
			return err
		})
	}
	return g.Wait()
}
