// Bench lets real Nix fill a machine from its neighbour, through nginx and through narbor in turn, and prints what
// that took: the wall time of both and their ratio, and what both narbors used. It also fetches one archive of
// 1 GiB, asks for paths that nobody has, and looks at narbor while it has nothing to do.
//
// It needs root, Nix, nginx, iproute2 and curl, and makes its machines of namespaces, with all stores in memory:
//
//	go run ./integration/bench [-runs 3] [-corpus first|small|medium|large] [-json]
//
// The machines share this computer's processors, so that unshaped figures say what narbor costs them, and those at
// 1 Gbit/s what a user would notice.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"narbor/integration/corpus"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	runs := flags.Int("runs", 3, "how often each closure is fetched each way")
	name := flags.String("corpus", "first", "which closure: small, first, medium or large")
	asJSON := flags.Bool("json", false, "print JSON, not a table")
	misses := flags.Int("misses", 1000, "how many absent paths to ask for")
	noise := flags.Int64("noise", 1<<30, "bytes of the big archive")
	if err := flags.Parse(args); err != nil {
		return err
	}
	spec, ok := map[string]corpus.Spec{"small": corpus.Small(), "first": corpus.First(), "medium": corpus.Medium(), "large": corpus.Large()}[*name]
	if !ok || *runs < 1 {
		return errors.New("want -corpus small, first, medium or large, and at least one run")
	}
	b, err := newBench(ctx)
	if err != nil {
		return err
	}
	defer b.close()
	r, err := b.measure(spec, *runs, *misses, *noise)
	if err != nil {
		return err
	}
	if *asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	_, err = fmt.Print(r.markdown())
	return err
}

// newBench builds narbor into a temporary directory.
func newBench(ctx context.Context) (*bench, error) {
	dir, err := os.MkdirTemp("", "narbor-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{ctx: ctx, dir: dir, programs: filepath.Join(dir, "programs")}
	for _, d := range []string{dir, b.programs} {
		if err := errors.Join(os.MkdirAll(d, 0o755), os.Chmod(d, 0o755)); err != nil {
			return nil, errors.Join(err, b.close())
		}
	}
	b.progress("building narbor")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", b.programs, "narbor/cmd/narbor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("go build: %w\n%s", err, out), b.close())
	}
	return b, nil
}
