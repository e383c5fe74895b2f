// Hostile is a neighbour that misbehaves on demand. It speaks narbor's protocol with code of its own, claims what this
// machine's Nix store has and its Nix trusts, and breaks the rules as its flags say. Tests let it loose on a LAN; there
// is no other use for it.
//
//	hostile --fault wrong-block,trickle
//
// Without a fault it is honest. A fault in what it answers is committed whenever it fits; of several, they take turns.
// Every offence is a line on standard error that begins with "offence" and the fault's name.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"narbor/store"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "hostile:", err)
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	faults []fault
	port   int
	target string        // address of the one to be attacked; "" is everybody
	count  int           // identities, announcements
	over   time.Duration // how long the announcements take
	quiet  bool          // do not announce
	// upstream is the URL of whoever is asked on behalf of others, or so it says.
	upstream string
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("hostile", flag.ContinueOnError)
	fs.SetOutput(stderr)
	names := fs.String("fault", "", "`NAME[,NAME]` of what to do wrong; see below")
	fs.IntVar(&o.port, "port", 6273, "TCP port to be found at")
	fs.StringVar(&o.target, "target", "", "attack the machine with this IP `ADDRESS` alone")
	fs.IntVar(&o.count, "count", 0, "how many identities or announcements; 0 is 1,000 and 10,000, and 1 for greedy")
	fs.DurationVar(&o.over, "over", time.Minute, "how long the announcements take")
	fs.StringVar(&o.upstream, "upstream", "", "what a helper says to ask for others: a `URL` that ends with a slash")
	fs.BoolVar(&o.quiet, "quiet", false, "do not announce")
	fs.Usage = func() {
		fmt.Fprintln(stderr, "usage: hostile [flags]")
		fs.PrintDefaults()
		fmt.Fprintln(stderr, "\nfaults:")
		for _, f := range allFaults() {
			fmt.Fprintf(stderr, "  %-22s %s\n", f.name, f.says)
		}
	}
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	for name := range strings.SplitSeq(*names, ",") {
		i := slices.IndexFunc(allFaults(), func(f fault) bool { return f.name == name })
		if i < 0 && name != "" {
			return o, fmt.Errorf("no fault is called %q; --help lists them", name)
		}
		if i >= 0 {
			o.faults = append(o.faults, allFaults()[i])
		}
	}
	return o, nil
}

// run answers, and attacks, until ctx ends.
func run(ctx context.Context, args []string, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	nix, err := store.OpenNix(ctx, store.NixStoreConfig{})
	if err != nil {
		return err
	}
	defer nix.Close()
	p, err := newMachine(o, nix, stderr)
	if err != nil {
		return err
	}
	defer p.host.Close()
	return p.run(ctx)
}
