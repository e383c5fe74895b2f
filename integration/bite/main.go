// Command bite checks that each guard has a test: it takes out one guard after the other and requires that a test
// fails.
//
//	go run ./integration/bite [-worst] [-only REGEXP]
//
// The guards are in guards.txt, each with the number of its threat or promise in SECURITY.md. The source tree stays
// unchanged: the compiler reads the changed file through an overlay. Bite fails if a change does not compile, if a
// guard's lines are not found in its declaration, and if a test fails with all guards in place.
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
	only := flag.String("only", "", "only the guards whose title or place matches this `REGEXP`")
	jobs := flag.Int("jobs", runtime.NumCPU(), "number of guards to test at once")
	flag.Parse()
	os.Setenv("NARBOR_CHECK", "1") // a guard may be missed by the short form of a test alone
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
		return worst && !g.worst || !match.MatchString(g.title) && !match.MatchString(g.place)
	})
	if _, err := os.Stat("go.mod"); err != nil {
		return errors.New("go.mod is not here: run it in the top folder of the repository")
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
	var code tree
	var g errgroup.Group
	g.SetLimit(jobs)
	missed := make([]error, len(guards))
	for i, gd := range guards {
		g.Go(func() error {
			start := time.Now()
			by, err := gd.bite(ctx, &code, filepath.Join(work, fmt.Sprint(i)))
			if err != nil {
				missed[i] = fmt.Errorf("%s (%s): %w", gd.title, gd.place, err)
				by = "NOT BITTEN"
			}
			fmt.Printf("%-9s %-62s %-50s %.1f\n", gd.threat, gd.title, by, time.Since(start).Seconds())
			return nil
		})
	}
	_ = g.Wait() // the errors are in missed
	if err := errors.Join(missed...); err != nil {
		return fmt.Errorf("tests do not fail without these guards:\n%w", err)
	}
	fmt.Printf("%d guards; without each of them a test fails; %.0f s\n", len(guards), time.Since(began).Seconds())
	return nil
}

// sound runs the tests of all guards once without a change. It returns an error if a test fails or does not exist.
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
