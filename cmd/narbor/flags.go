package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"narbor/cmd/narbor/circle"
	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/exit"
	"narbor/p2p/discovery"
	"narbor/p2p/peers"
	"narbor/store/spool"
)

const (
	defaultPort  = 6273 // libp2p
	categoryNet  = "Network"
	categoryKeep = "Storage"
	categoryWho  = "Trust and sharing"
	categoryLog  = "Logging"
)

func env(flag string) []string {
	return []string{envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))}
}

func stringFlag(name, value, category, usage string) *cli.StringFlag {
	return &cli.StringFlag{Name: name, Value: value, Category: category, Usage: usage, EnvVars: env(name)}
}

func listFlag(name, category, usage string) *cli.StringSliceFlag {
	return &cli.StringSliceFlag{Name: name, Category: category, Usage: usage, EnvVars: env(name)}
}

func peerFlags() []cli.Flag {
	return []cli.Flag{
		listFlag("peer", categoryNet, "`ADDRESS` of a neighbour: multiaddr, IP or DNS name, with or without port (6273), or vsock:CID "+
			"of a virtual machine; repeatable"),
		&cli.BoolFlag{Name: "no-mdns", Category: categoryNet, Usage: "neither announce this machine nor look for others by multicast DNS",
			EnvVars: env("no-mdns")},
		&cli.BoolFlag{Name: "no-vsock", Category: categoryNet,
			Usage: "neither look for the host of this virtual machine by vsock nor let guests reach it so", EnvVars: env("no-vsock")},
		&cli.BoolFlag{Name: "no-dns-sd", Category: categoryNet,
			Usage:   "do not ask the DNS servers of the network for neighbours: SRV records of _narbor._tcp in the search domains",
			EnvVars: env("no-dns-sd")},
		listFlag("interface", categoryNet, "use only network interfaces that match `PATTERN`, such as eth* (default: all but those of "+
			"containers, VPNs and tunnels, and metered ones); repeatable"),
		listFlag("no-interface", categoryNet, "never use network interfaces that match `PATTERN`; repeatable"),
		listFlag("trusted-key", categoryWho, "believe what `KEY` (name:base64) has signed, beside Nix's trusted-public-keys; repeatable"),
		shareKeyFlag(),
		stringFlag("group-secret-file", "", categoryWho, "ask and answer only neighbours that have the same secret, in `FILE`: 16 bytes "+
			"or more, such as of head -c 32 /dev/urandom | base64 (default: that of the circle; see narbor circle)"),
	}
}

// shareKeyFlag names the keys that are public because the user says so.
func shareKeyFlag() cli.Flag {
	return listFlag("share-key", categoryWho, "let every neighbour have what the trusted key of this `NAME` has signed, such as "+
		"cache.example.org-1; "+
		"cache.nixos.org-1 and the keys of https caches that need no password are public anyway; repeatable")
}

func logFlags() []cli.Flag {
	return []cli.Flag{
		stringFlag("log-level", "info", categoryLog, "`LEVEL`: debug, info, warn or error"),
		listFlag("log", categoryLog, "`PART=LEVEL`, such as p2p=debug for libp2p's own messages, which are off by default; repeatable"),
		stringFlag("log-format", "auto", categoryLog, "`FORMAT`: auto, console or json"),
	}
}

func stateFlag() *cli.StringFlag {
	return &cli.StringFlag{Name: "state-dir", Category: categoryKeep, EnvVars: append(env("state-dir"), "STATE_DIRECTORY"),
		Usage: "`DIR` for identity, cache and spool (default: /var/lib/narbor for root, else ~/.local/state/narbor)"}
}

func socketFlag() *cli.StringFlag {
	return stringFlag("socket", "", categoryNet, "`PATH` of the control socket (default: narbor.sock in $RUNTIME_DIRECTORY, else in the "+
		"state directory)")
}

// controlFlags are those of commands that ask the narbor that runs here.
func controlFlags() []cli.Flag { return append([]cli.Flag{jsonFlag()}, whereFlags()...) }

func whereFlags() []cli.Flag {
	dir, socket := stateFlag(), socketFlag()
	dir.Category, socket.Category = "", ""
	dir.Usage = "`DIR` of the state of the narbor that is asked (default: /var/lib/narbor for root, else ~/.local/state/narbor)"
	return []cli.Flag{dir, socket}
}

// stateDir is where narbor keeps what must survive a restart.
func stateDir(c *cli.Context) (string, error) {
	if dir := c.String("state-dir"); dir != "" {
		first, _, _ := strings.Cut(dir, ":") // systemd separates several by colons
		return first, nil
	}
	if os.Geteuid() == 0 {
		return "/var/lib/narbor", nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "narbor"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", errors.New("no home directory to keep state in: give --state-dir")
	}
	return filepath.Join(home, ".local", "state", "narbor"), nil
}

// socketPaths lists where the control socket may be, the likeliest first.
func socketPaths(c *cli.Context) ([]string, error) {
	if path := c.String("socket"); path != "" {
		return []string{path}, nil
	}
	if dir := os.Getenv("RUNTIME_DIRECTORY"); dir != "" {
		first, _, _ := strings.Cut(dir, ":")
		return []string{filepath.Join(first, control.SocketName)}, nil
	}
	dir, err := stateDir(c)
	if err != nil {
		return nil, err
	}
	return []string{filepath.Join(dir, control.SocketName), filepath.Join("/run/narbor", control.SocketName),
			filepath.Join("/var/lib/narbor", control.SocketName)},
		nil
}

// discoveryConfig returns the configuration of discovery, without files.
func discoveryConfig(c *cli.Context) discovery.Config {
	return discovery.Config{Peers: c.StringSlice("peer"), KernelPeers: kernelPeers(), MDNS: !c.Bool("no-mdns"), DNSSD: !c.Bool("no-dns-sd"),
		Vsock: !c.Bool("no-vsock"), AllowInterfaces: c.StringSlice("interface"), DenyInterfaces: c.StringSlice("no-interface")}
}

// A group is what makes this machine's neighbours members.
type group struct {
	secret []byte   // nil is no group: every machine is a neighbour
	keys   []string // public keys, and names of such: of the trusted ones, those let members have own builds
	file   string   // of the circle that this comes from; "" is none

	state  string         // the state directory where a circle counts; "" if flags give the group
	circle *circle.Circle // there; nil is none
}

// groupOf returns the group of --group-secret-file and --circle-key. Without both it is that of the circle in the state
// directory, if there is one.
func groupOf(c *cli.Context) (g group, err error) {
	g.keys = c.StringSlice("circle-key")
	switch file := c.String("group-secret-file"); {
	case file != "":
		g.secret, err = peers.LoadGroupSecret(file)
		return g, err
	case len(g.keys) > 0:
		return g, exit.With(errors.New("--circle-key shares own builds with the members of a group: give "+
			"--group-secret-file, too"), exit.Usage)
	}
	dir, err := stateDir(c)
	if err != nil {
		return g, err
	}
	g.state = dir
	now, err := circle.Load(dir)
	if err != nil || now == nil {
		return g, err
	}
	return group{[]byte(now.Secret), now.Keys, circle.File(dir), dir, now}, nil
}

// size reads an amount such as 4GiB, 500MiB or 0.
func size(c *cli.Context, flag string) (int64, error) {
	n, err := humanize.ParseBytes(c.String(flag))
	if err != nil || n > 1<<60 {
		return 0, exit.With(fmt.Errorf("--%s %q is not an amount of bytes such as 4GiB", flag, c.String(flag)), exit.Usage)
	}
	return int64(n), nil
}

// diskSize reads an amount, or a share such as 25% of the file system that dir is on; dir is "" if only the form
// matters.
func diskSize(c *cli.Context, flag, dir string) (int64, error) {
	text, share := strings.CutSuffix(c.String(flag), "%")
	if !share {
		return size(c, flag)
	}
	percent, err := strconv.ParseUint(text, 10, 7)
	if err != nil || percent > 100 {
		return 0, exit.With(fmt.Errorf("--%s %q is not an amount of bytes such as 4GiB, nor a share such as 25%%", flag,
			c.String(flag)),
			exit.Usage)
	}
	if dir == "" {
		return int64(percent), nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("--%s is a share of the file system of %s: %w", flag, dir, err)
	}
	return int64(st.Blocks) * int64(st.Bsize) / 100 * int64(percent), nil
}

func spoolSize(c *cli.Context, dir string) (int64, error) {
	most, err := diskSize(c, "spool-size", dir)
	if err == nil && most == 0 {
		err = exit.With(errors.New("--spool-size must not be 0: NARs are verified on disk before Nix gets them"), exit.Usage)
	}
	return most, err
}

func openSpool(c *cli.Context, dir string) (*spool.Spool, error) {
	most, err := spoolSize(c, dir)
	if err != nil {
		return nil, err
	}
	free, err := diskSize(c, "min-free", dir)
	if err != nil {
		return nil, err
	}
	if free == 0 {
		free = -1
	}
	return spool.Open(spool.Config{Dir: filepath.Join(dir, "spool"), MaxBytes: most, MinFree: free})
}

// minRate is the lowest rate at which a block arrives before the receiver gives up.
const minRate = 100 << 10

func uploadRate(c *cli.Context) (int64, error) {
	return rateOf(c, "upload-rate", "transfers would time out: give 100KiB or more, or --share none")
}

func downloadRate(c *cli.Context) (int64, error) {
	return rateOf(c, "download-rate", "downloads would take too long: give 100KiB or more, or no --upstream")
}

// rateOf reads a limit of bytes a second; 0 is none. The error about one that is too low ends in why.
func rateOf(c *cli.Context, flag, why string) (int64, error) {
	n, err := size(c, flag)
	if err == nil && n > 0 && n < minRate {
		err = exit.With(fmt.Errorf("--%s %s is too low, %s", flag, c.String(flag), why), exit.Usage)
	}
	return n, err
}

// newControl finds out where the control socket is.
func newControl(c *cli.Context) (control.Client, error) {
	paths, err := socketPaths(c)
	return control.Client{Paths: paths, Timeout: control.Timeout}, err
}

// askRunning asks the narbor that runs here.
func askRunning[T any](c *cli.Context, what string) (answer T, err error) {
	ctl, err := newControl(c)
	if err == nil {
		err = ctl.Get(c.Context, what, &answer)
	}
	return answer, err
}

func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print everything as JSON, for programs", EnvVars: env("json")}
}

const envPrefix = "NARBOR_"

// upstreamFlag names the caches that are asked for paths that no neighbour has.
func upstreamFlag() cli.Flag {
	return listFlag("upstream", categoryNet, "fetch from this cache `URL`, such as https://cache.nixos.org, what no neighbour has; its "+
		"keys must be trusted; repeatable, asked in that order")
}

func downloadRateFlag() cli.Flag {
	return stringFlag("download-rate", "0", categoryNet, "download from upstreams at most this `AMOUNT` of archives a second, in all, "+
		"compressed as they come, such as 2MiB; what comes from neighbours does not count; 0 is no limit")
}

func noCooperateFlag() cli.Flag {
	return &cli.BoolFlag{Name: "no-cooperate", Category: categoryNet, EnvVars: env("no-cooperate"),
		Usage: "ask upstreams for this machine alone, and no neighbour to ask its own: each machine then downloads everything"}
}

func upstreamBudgetFlag() cli.Flag {
	return stringFlag("upstream-budget", "50GiB", categoryNet,
		"download for neighbours at most this `AMOUNT` of archives a day, for one neighbour at most half of the rest; 0 is --no-cooperate")
}

// configFlag names a file with settings: a JSON object. Its keys are the names of the other flags of `narbor run`; its
// values are strings, whole numbers, true and false, and lists of strings for flags that can be repeated.
func configFlag() cli.Flag {
	return stringFlag("config", "", categoryLog, "read further settings from `FILE`: a JSON object with names of flags, as in "+
		"{\"peer\": [\"nas\"], \"upload-rate\": \"10MiB\"}; "+
		"flags and the environment have precedence")
}

type valueError struct {
	name string
	err  error
}

// runFlags are all flags of the service. A configuration file has the same names.
func runFlags() []cli.Flag {
	return slices.Concat(peerFlags(), []cli.Flag{
		&cli.StringSliceFlag{Name: "listen", Category: categoryNet, EnvVars: env("listen"),
			Value: cli.NewStringSlice("127.0.0.1:6272", "[::1]:6272"),
			Usage: "`ADDRESS` on which Nix asks; ignored when systemd hands over sockets; repeatable"},
		listFlag("allow-host", categoryNet, "answer Nix under this `NAME` or address too, at any port: what a guest calls this machine, "+
			"such as builder.lan; repeatable"),
		&cli.UintFlag{Name: "port", Value: defaultPort, Category: categoryNet, EnvVars: env("port"),
			Usage: "TCP `PORT` for neighbours; 0 picks one"},
		&cli.BoolFlag{Name: "no-page", Category: categoryNet, EnvVars: env("no-page"),
			Usage: "serve no page, API or metrics beside the cache; every user of this machine can see them otherwise"},
		stateFlag(), socketFlag(),
		listFlag("cache-dir", categoryKeep, "share this `DIR` in Nix's binary-cache layout, too, such as a NAS; repeatable"),
		listFlag("git-dir", categoryKeep, "share commits of this git repository `DIR`, bare or not, as Nix's flake inputs and fetchGit "+
			"want them, by --share-sources; repeatable"),
		&cli.StringSliceFlag{Name: "git-refs", Category: categoryKeep, EnvVars: env("git-refs"), Value: cli.NewStringSlice("refs/heads/*"),
			Usage: "share of each --git-dir only what the refs that match `PATTERN` lead to, such as refs/heads/nixos-*; repeatable"},
		stringFlag("spool-size", "4GiB", categoryKeep,
			"most that may wait on disk for Nix, an `AMOUNT` such as 4GiB, or 25% of that file system"),
		stringFlag("min-free", "2GiB", categoryKeep,
			"what the spool leaves free on its disk, an `AMOUNT` such as 2GiB, or 5% of that file system"),
		stringFlag("upload-rate", "0", categoryNet, "send neighbours at most this `AMOUNT` of archives a second, all together, such as "+
			"10MiB; 0 is no limit"),
		downloadRateFlag(), upstreamFlag(), noCooperateFlag(), upstreamBudgetFlag(),
		stringFlag("name", "", categoryWho, "tell neighbours this `NAME` of this machine, such as laptop, which they show beside its ID; "+
			"without it they are told none"),
		listFlag("circle-key", categoryWho,
			"let members of the group have what was built here, too, if the trusted key of this `NAME` has "+
				"signed it, such as home-1; needs --group-secret-file; repeatable"),
		stringFlag("share-sources", "group", categoryWho, "give sources that Nix has fetched by their hash, without a signature, to "+
			"`SCOPE`: group (its members; without a group to no machine), all (every neighbour) or none"),
		stringFlag("share", "signed", categoryWho, "`WHAT` neighbours may have: signed (what a public key has signed; see share-key) or "+
			"none; `narbor share` changes it until the next start"),
	}, logFlags(), []cli.Flag{configFlag()})
}

// parseShare parses the value of --share: neighbours may have the paths that an upstream has signed, or nothing.
func parseShare(what string) (on bool, err error) {
	switch what {
	case "signed", "none":
		return what == "signed", nil
	}
	return false, fmt.Errorf("%.20q is neither signed nor none", what)
}

// parseShareSources parses the value of --share-sources: neighbours may have fetched sources without a signature, or not.
// In a group, neighbours are its members.
func parseShareSources(scope string, group bool) (on bool, err error) {
	switch scope {
	case "group":
		return group, nil
	case "all", "none":
		return scope == "all", nil
	}
	return false, fmt.Errorf("%.20q is neither group nor all nor none", scope)
}

func queryOf(key, value string) string { return url.Values{key: {value}}.Encode() }
