package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/cmd/narbor/doctor"
	"narbor/p2p"
	"narbor/store/narinfocache"
)

func refreshCommand() *cli.Command {
	return &cli.Command{
		Name:  "refresh",
		Usage: "let Nix ask narbor again about what narbor did not have",
		Description: "Nix remembers for an hour that narbor does not have a path (its setting narinfo-cache-negative-ttl), though a\n" +
			"neighbour that has it may have come meanwhile. This removes narbor's negative answers from Nix's narinfo cache; all\n" +
			"else in it stays, and Nix may run. The Nix daemon's cache is root's, so run it by sudo if there is a daemon.\n\n" +
			"With systemd, narbor setup and the Debian package install narbor-refresh.timer, which runs it every two minutes with\n" +
			"--new-neighbours. It is off until it is enabled; on NixOS by services.narbor.refresh = true.\n\n" +
			"Examples:\n   sudo narbor refresh\n   sudo systemctl enable --now narbor-refresh.timer",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "new-neighbours", EnvVars: env("new-neighbours"),
				Usage: "remove only answers from before the newest neighbour came"},
			&cli.StringSliceFlag{Name: "url", EnvVars: env("url"),
				Usage: "`URL` at which Nix asks narbor, as nix.conf has it, besides those of " +
					"the narbor that runs here; repeatable"},
			&cli.StringFlag{Name: "nix-cache", EnvVars: env("nix-cache"),
				Usage: "`DIR` of Nix's caches (default: as Nix finds its own; for root .cache/nix in root's home, " +
					"whatever the environment says)"},
		}, whereFlags()...),
		Action: refresh,
	}
}

func refresh(c *cli.Context) error {
	ctl, err := newControl(c)
	if err != nil {
		return err
	}
	var st control.Status
	err = ctl.Get(c.Context, "/status", &st)
	if err != nil && c.Bool("new-neighbours") {
		return err // nothing is known of neighbours
	}
	if err != nil { // whatever it was, its answers are to go
		st = control.Status{HTTP: []string{"127.0.0.1:6272", "[::1]:6272"}}
	}
	before := time.Now()
	if c.Bool("new-neighbours") {
		stay := slices.DeleteFunc(st.Neighbours, func(nb p2p.NeighbourStatus) bool { return nb.Passing })
		if len(stay) == 0 {
			fmt.Fprintln(c.App.Writer, "no neighbours: nothing is removed")
			return nil
		}
		before = newestNeighbour(stay, time.Now())
	}
	files, err := narinfoCaches(c)
	if err != nil {
		return err
	}
	return forget(c, files, append(substituters(st.HTTP), c.StringSlice("url")...),
		before.Add(time.Second)) // Nix notes the second
}

// errRootsCache is the error for an ordinary user if the caches belong to root.
var errRootsCache = errors.New("the cache of the Nix daemon belongs to root: run sudo narbor refresh")

func narinfoCaches(c *cli.Context) (files []string, err error) {
	dir, find := c.String("nix-cache"), narinfocache.Files
	if dir == "" {
		if dir, find, err = nixCache(os.Geteuid()); err != nil {
			return nil, err
		}
	}
	files, err = find(dir)
	if errors.Is(err, os.ErrPermission) && os.Geteuid() != 0 {
		err = errors.Join(err, errRootsCache)
	}
	if err != nil {
		return nil, fmt.Errorf("narinfo cache of Nix: %w", err)
	}
	if len(files) == 0 {
		fmt.Fprintf(c.App.Writer, "Nix keeps no narinfo cache in %s: nothing is removed\n", dir)
	}
	return files, nil
}

func forget(c *cli.Context, files, urls []string, before time.Time) error {
	all := int64(0)
	for _, file := range files {
		n, err := narinfocache.Forget(c.Context, file, urls, before)
		if errors.Is(err, context.Canceled) {
			return err
		}
		if err != nil {
			return fmt.Errorf("narinfo cache of Nix: %w", err)
		}
		fmt.Fprintf(c.App.Writer, "%s: %s removed\n", file, dashboard.Plural(int(n), "negative answer"))
		all += n
	}
	if all == 0 && c.String("nix-cache") == "" && os.Geteuid() != 0 && doctor.HasDaemon() {
		return errRootsCache
	}
	return nil
}

// newestNeighbour returns when the neighbour that came last has come, to the second.
func newestNeighbour(neighbours []p2p.NeighbourStatus, now time.Time) time.Time {
	newest := slices.MinFunc(neighbours, func(a, b p2p.NeighbourStatus) int { return cmp.Compare(a.ConnectedSeconds, b.ConnectedSeconds) })
	return now.Add(-time.Duration(newest.ConnectedSeconds) * time.Second)
}

// substituters returns all URLs by which nix.conf may name the addresses at which narbor listens.
func substituters(addrs []string) (urls []string) {
	for _, addr := range addrs {
		urls = append(urls, "http://"+addr)
		ap, err := netip.ParseAddrPort(addr)
		if err != nil || !ap.Addr().IsLoopback() && !ap.Addr().IsUnspecified() {
			continue
		}
		for _, host := range []string{"localhost", "127.0.0.1", "[::1]"} {
			urls = append(urls, fmt.Sprintf("http://%s:%d", host, ap.Port()))
		}
	}
	return urls
}

// nixCache returns the folder of Nix's caches for a user, and the function that finds them in it. For root it is the
// daemon's: sudo may leave the environment of a user, with a folder of that user.
func nixCache(uid int) (dir string, find func(string) ([]string, error), err error) {
	if uid != 0 {
		home, err := os.UserHomeDir()
		return narinfocache.Dir(home), narinfocache.Files, err
	}
	root, err := user.LookupId("0")
	if err != nil {
		return "", nil, fmt.Errorf("root's home: %w; give --nix-cache", err)
	}
	return filepath.Join(root.HomeDir, ".cache", "nix"), narinfocache.FilesOfRoot, nil
}
