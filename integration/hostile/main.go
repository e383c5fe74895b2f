// Hostile is a peer that violates narbor's protocol on demand. It implements the protocol with its own code, claims the
// paths of this machine's Nix store that this machine's Nix trusts, and commits the faults that its flags name. It is
// for tests only.
//
//	hostile --fault wrong-block,trickle
//
// Without a fault it is honest. A fault in an answer is committed in each answer of its kind; several faults of one
// kind take turns. Each offence is logged as a line on standard error that begins with "offence" and the fault's name.
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

	"narbor/store/nixstore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "hostile:", err)
		os.Exit(1)
	}
}

// options are those of the command line.
type options struct {
	faults []fault
	port   int
	target string        // IP address of the only peer to attack; "" is all peers
	count  int           // identities, announcements
	over   time.Duration // how long the announcements take
	quiet  bool          // do not announce
	// upstream is the URL of the upstream from which this peer claims to download for others.
	upstream string
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("hostile", flag.ContinueOnError)
	fs.SetOutput(stderr)
	names := fs.String("fault", "", "`NAME[,NAME]` of the faults to commit; see below")
	fs.IntVar(&o.port, "port", 6273, "TCP port to listen on and announce")
	fs.StringVar(&o.target, "target", "", "attack the machine with this IP `ADDRESS` alone")
	fs.IntVar(&o.count, "count", 0, "how many identities or announcements; 0 is 1,000 and 10,000, and 1 for greedy")
	fs.DurationVar(&o.over, "over", time.Minute, "how long the announcements take")
	fs.StringVar(&o.upstream, "upstream", "", "`URL` of the upstream from which a proxy claims to download; it ends with a slash")
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
	nix, err := nixstore.Open(ctx, nixstore.Config{})
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
