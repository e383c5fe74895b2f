package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"time"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
	"narbor/narserve/dashboard"
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
				Usage: "`DIR` of Nix's caches (default: as Nix finds its own, for root " +
					"/root/.cache/nix)"},
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
		if len(st.Neighbours) == 0 {
			fmt.Fprintln(c.App.Writer, "no neighbours: nothing is removed")
			return nil
		}
		before = newestNeighbour(st, time.Now())
	}
	dir := c.String("nix-cache")
	if dir == "" {
		if dir, err = nixCache(); err != nil {
			return err
		}
	}
	return forget(c, dir, append(substituters(st.HTTP), c.StringSlice("url")...),
		before.Add(time.Second)) // Nix notes the second
}

// forget removes the answers from all caches of a folder.
func forget(c *cli.Context, dir string, urls []string, before time.Time) error {
	files, err := narinfocache.Files(dir)
	if err != nil {
		return fmt.Errorf("narinfo cache of Nix: %w", errors.Join(err, sudoHint(err)))
	}
	if len(files) == 0 {
		fmt.Fprintf(c.App.Writer, "Nix keeps no narinfo cache in %s: nothing is removed\n", dir)
	}
	for _, file := range files {
		n, err := narinfocache.Forget(c.Context, file, urls, before)
		if errors.Is(err, context.Canceled) {
			return err
		}
		if err != nil {
			return fmt.Errorf("narinfo cache of Nix: %w", err)
		}
		fmt.Fprintf(c.App.Writer, "%s: %s removed\n", file, dashboard.Plural(int(n), "negative answer"))
	}
	return nil
}

func sudoHint(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return errors.New("the Nix daemon's cache is root's: try sudo narbor refresh")
	}
	return nil
}

// newestNeighbour returns when the neighbour that came last has come, to the second.
func newestNeighbour(st control.Status, now time.Time) time.Time {
	newest := now
	for i, nb := range st.Neighbours {
		if at := now.Add(-time.Duration(nb.ConnectedSeconds) * time.Second); i == 0 || at.After(newest) {
			newest = at
		}
	}
	return newest
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

// nixCache returns where Nix's caches are: the daemon's for root, else this user's own.
func nixCache() (string, error) {
	if os.Geteuid() != 0 {
		home, err := os.UserHomeDir()
		return narinfocache.Dir(home), err
	}
	root, err := user.LookupId("0") // sudo may leave HOME as it is
	if err != nil {
		return "", fmt.Errorf("root's home: %w; give --nix-cache", err)
	}
	return narinfocache.Dir(root.HomeDir), nil
}
