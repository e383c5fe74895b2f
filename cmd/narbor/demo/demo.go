// Package demo shows what narbor does, on one computer that needs neither Nix nor a network.
//
// It makes a small closure of packages, signs it, and starts four narbors as processes of their own: three have the
// closure, and the fourth fetches it from them. Meanwhile one of the three is killed, and another serves archives that
// were changed. The processes reach each other by addresses of the loopback interface that `--peer` names, and refuse
// all others. [Run] removes everything that it makes.
package demo

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/store"
)

const (
	packages = 24
	// totalBytes at uploadRate from three machines, later from one, takes about ten seconds: enough to see how it goes.
	totalBytes = 120 << 20
	uploadRate = "8MiB"
	// fetchTime bounds the fetch. It is far above the ten seconds, for a machine that is busy.
	fetchTime = 3 * time.Minute
)

// The machines of the demo. The names are shown.
const (
	honest = "desk"
	killed = "laptop"
	liar   = "attic"
	fresh  = "new"
)

// Options are the settings of a demo.
type Options struct {
	Program string    // the executable of narbor
	Out     io.Writer // for people; each Write is of whole lines
	Redraw  bool      // Out is a terminal on which progress bars can be drawn
	Keep    bool      // the machines run on until ctx ends
}

type demo struct {
	Options
	dir     string
	corpus  *corpus
	holders []*machine
	asker   *machine
	damaged int // NARs in the liar's cache
	board   *board
	took    time.Duration
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.Out, format+"\n", args...) }

func (d *demo) prepare(ctx context.Context) (err error) {
	if d.corpus, err = newCorpus(filepath.Join(d.dir, "cache"), packages, totalBytes); err != nil {
		return err
	}
	bad := filepath.Join(d.dir, "bad-cache")
	if d.damaged, err = d.corpus.copyDamaged(bad); err != nil {
		return err
	}
	d.say("A program and the libraries it needs, %s and %s, signed by the key %s.", dashboard.Plural(packages, "path"),
		dashboard.Amount(d.corpus.bytes), keyName)
	d.holders = make([]*machine, 3)
	g, gctx := errgroup.WithContext(ctx)
	for i, name := range []string{honest, killed, liar} {
		cache := d.corpus.dir
		if name == liar {
			cache = bad
		}
		g.Go(func() (err error) {
			d.holders[i], err = start(gctx, d.Program, filepath.Join(d.dir, name), "--cache-dir", cache, "--trusted-key", d.corpus.key,
				"--share-key", keyName, "--upload-rate", uploadRate)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	d.say("%s, %s and %s have it. On the disk of %s, %s were changed after the signing.", honest, killed, liar, liar,
		dashboard.Plural(d.damaged, "archive"))
	flags := []string{"--trusted-key", d.corpus.key, "--share", "none"}
	for _, m := range d.holders {
		flags = append(flags, "--peer", m.addr)
	}
	if d.asker, err = start(ctx, d.Program, filepath.Join(d.dir, fresh), flags...); err != nil {
		return err
	}
	if err := d.met(ctx); err != nil {
		return err
	}
	d.say("%s has nothing. It knows the three as neighbours, and believes only that key.", fresh)
	d.say("")
	d.say("What Nix asks it now:  %s/%s.narinfo", d.asker.url, d.top().Path.HashPart())
	if _, err := exec.LookPath("nix-store"); err == nil {
		d.say("which Nix does, if it is told:\n  nix-store --realise %s \\\n    --option substituters %s \\\n    --option "+
			"trusted-public-keys %s",
			d.top().Path, d.asker.url, d.corpus.key)
	}
	d.say("The page of %s:        %s/", fresh, d.asker.url)
	d.say("")
	return nil
}

// top is the path that refers to all others.
func (d *demo) top() store.Info { return d.corpus.paths[len(d.corpus.paths)-1] }

// met returns once the asker is connected to all holders.
func (d *demo) met(ctx context.Context) error {
	_, err := d.asker.await(ctx, func(st control.Status) bool { return len(st.Neighbours) == len(d.holders) })
	if err != nil {
		return fmt.Errorf("%s does not find its neighbours: %w\n%s", fresh, err, d.asker.lastLines())
	}
	return nil
}

func (d *demo) stop() {
	var g errgroup.Group
	for _, m := range append(d.holders, d.asker) {
		if m != nil {
			g.Go(func() error { m.stop(); return nil })
		}
	}
	_ = g.Wait()
}
