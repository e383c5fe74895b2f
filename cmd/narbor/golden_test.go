package main

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/narserve"
	"narbor/narserve/stats"
	"narbor/p2p"
	"narbor/p2p/discovery"
	"narbor/p2p/greet"
	"narbor/p2p/netmon"
	"narbor/p2p/peers"
	"narbor/store"
	"narbor/trust"
)

var update = flag.Bool("update", false, "write testdata/*.txt anew")

// golden compares what a command prints with testdata/<name>.txt. It must fit into 80 columns.
func golden(t *testing.T, name string, print func(screen)) {
	t.Helper()
	var b bytes.Buffer
	print(screen{Writer: &b, width: plainWidth})
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > plainWidth {
			t.Errorf("%s: a line of %d columns: %s", name, n, line)
		}
		if strings.TrimRight(line, " \n") != strings.TrimSuffix(line, "\n") {
			t.Errorf("%s: spaces at the end of %q", name, line)
		}
	}
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("%s is\n%s\nwant\n%s\n(go test ./cmd/narbor -run %s -update)", name, &b, want, t.Name())
	}
}

const (
	idDesk   = "12D3KooWAcuYAaPsKyUDgDLYJUBVgEWDrFHCpoqV9mQNPqhGa7vZ"
	idLaptop = "12D3KooWFDhBWRvmpzeKiaG5Ltzp3HTTA2Wk3RMc3EBm2ZDVKtYL"
	idNAS    = "12D3KooWLg7mVwJ9mGvxDAgkg2NBFXW2Us9Ygk8ZKwJPqPnWkUgR"
	idAway   = "12D3KooWK98A5qKRAA9qZccvoJLvcLu68PCFZLNfdd81iQLvHj6W"
)

func exampleStatus() control.Status {
	return control.Status{
		Schema: control.Schema, Version: "0.1.0", UptimeSeconds: 3*86400 + 4*3600 + 5*60,
		Status: p2p.Status{ID: idDesk, Settled: true, MDNS: true, UploadRate: 10_000_000, Neighbours: []p2p.NeighbourStatus{
			{ID: idLaptop, Addr: "/ip4/192.168.1.23/tcp/6273", Via: "mdns", ConnectedSeconds: 7325, BytesReceived: 4_402_341_478,
				BytesSent: 644_245_094},
			{ID: idNAS, Addr: "/ip6/fd62:7200::5/tcp/6274", Via: "named", ConnectedSeconds: 59, BytesReceived: 12_777_527_705, Strikes: 1},
		}, Interfaces: []netmon.InterfaceStatus{
			{Name: "docker0", Reason: "containers, by its name"}, {Name: "eth0", Used: true},
			{Name: "lo", Reason: "loopback"}, {Name: "veth1", Reason: "part of docker0"}, {Name: "wlan0", Used: true},
		}, Shared: map[trust.Kind]p2p.KindCount{trust.KindPublic: {Asked: 12_345, Sent: 644_245_094}, trust.KindKept: {Asked: 3}}},
		HTTP:        []string{"127.0.0.1:6272", "[::1]:6272"},
		StoreStatus: control.StoreStatus{Store: "/nix/store", CacheDirs: []string{"/var/lib/narbor/cache"}},
		KeyStatus: control.KeyStatus{Keys: []string{"cache.nixos.org-1"},
			ShareKeys: []string{"cache.nixos.org-1"}, PublicKeys: []string{"cache.nixos.org-1"}},
		SharingStatus: control.SharingStatus{Sharing: "signed"},
		Nix:           narserve.Stats{NarinfoHits: 41207, NarinfoMisses: 380, NarBytesServed: 17_179_869_184},
		Spool:         control.SpoolStatus{Bytes: 104857600, MaxBytes: 4 << 30},
	}
}

func TestStatusReadsWell(t *testing.T) {
	st := exampleStatus()
	golden(t, "status", func(s screen) { printStatus(st, s) })
	st.Neighbours[0].Name, st.Neighbours[1].Name = "laptop", "nas-in-the-cellar.home.arpa"
	golden(t, "status-names", func(s screen) { printStatus(st, s) })
	st.Neighbours[0].Name, st.Neighbours[1].Name = "", "nas"
	st.Upstreams = []p2p.UpstreamStatus{{URL: "https://cache.nixos.org/"}, {URL: "https://nix-community.cachix.org/", Down: true}}
	st.Received = map[store.Origin]int64{store.FromNeighbours: 4_402_341_478, store.FromOthers: 12_777_527_705,
		store.FromInternet: 644_245_094}
	st.ForOthers, st.BudgetLeft, st.Proxies = 600_000_000, 53_000_000_000, 2
	st.Shared[trust.KindOffered] = p2p.KindCount{Sent: 3 << 20} // told unasked, with what refers to it
	st.Month = stats.Amounts{ByNix: 1 << 30, Received: map[store.Origin]int64{store.FromNeighbours: 9 << 30, store.FromOthers: 13 << 30,
		store.FromRebuild: 5 << 30, store.FromInternet: 2 << 30}}
	st.Away = []stats.Share{{Name: idAway, Last: time.Date(2026, 1, 3, 9, 30, 0, 0, time.Local)}}
	st.Rates = stats.Rates{Network: 85 << 20, Internet: 3 << 20}
	st.LastUpdate = &stats.Update{Start: time.Date(2026, 1, 4, 14, 2, 5, 0, time.Local), From: []string{idNAS},
		Amounts: stats.Amounts{NARs: 1156, Seconds: 41, Received: map[store.Origin]int64{store.FromRebuild: 1_340_000_000,
			store.FromNeighbours: 750_000_000, store.FromInternet: 110_000_000}}}
	golden(t, "status-upstream", func(s screen) { printStatus(st, s) })
	st.Upstreams, st.Alone = st.Upstreams[:1], "it is on a metered network"
	golden(t, "status-upstream-alone", func(s screen) { printStatus(st, s) })
	st.Upstreams = nil
	st.Neighbours, st.Rates, st.Sharing, st.Group = nil, stats.Rates{}, "none", true
	st.Banned = []peers.Denied{{ID: idNAS, Reason: "sent a block that is not of this NAR",
		Until: time.Date(2026, 1, 2, 15, 4, 5, 0, time.Local)}}
	st.OtherGroup = []greet.Outsider{{ID: idLaptop, Addr: "/ip4/192.168.1.23/tcp/6273"}}
	golden(t, "status-alone", func(s screen) { printStatus(st, s) })
	st = exampleStatus()
	st.Neighbours, st.Banned, st.OtherGroup, st.MDNS = nil, nil, nil, false
	st.Health = exampleHealth()
	golden(t, "status-ill", func(s screen) { printStatus(st, s) })
}

func exampleHealth() []control.Health {
	return []control.Health{
		{Code: "keys", Severity: control.SeverityError, Title: "Nothing can be believed",
			Fix:     "Give Nix the key of its cache in nix.conf, or give it to narbor by --trusted-key.",
			Command: "trusted-public-keys = cache.nixos.org-1:6NCH"},
		{Code: "nix", Severity: control.SeverityWarning, Title: "Nix does not ask narbor",
			Fix:     "Add this line to nix.conf, below any line that begins with substituters, and restart nix-daemon:",
			Command: "extra-substituters = http://127.0.0.1:6272"},
		{Code: "disk", Severity: control.SeverityWarning, Title: "No room for what Nix asked for", Fix: "Make room on the disk."},
		{Code: "network", Severity: control.SeverityWarning, Title: "No network to look for neighbours on", Fix: "Connect it."},
		{Code: "neighbours", Severity: control.SeverityInfo, Title: "No neighbour yet", Fix: "Name a machine that runs narbor:"},
	}
}

func TestShareAndKeysReadWell(t *testing.T) {
	golden(t, "share", shareOf(exampleStatus()).print)
	golden(t, "keys", func(s screen) {
		printKeys(control.KeyList{Keys: []control.Key{
			{Name: "cache.nixos.org-1", Public: "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
				From:  "/etc/nix/nix.conf:3",
				Class: classPublic, Why: "it is the key of cache.nixos.org", Shares: true},
			{Name: "desk-1", Public: "desk-1:CHgFWXy4+9HvTmLp5ZQhmsqwRP9Q0ZlZ2mHVhCPYoPQ=", From: "/etc/nix/nix.conf:4",
				Class: classPrivate,
				Why:   "it is not called after the host of a configured https cache"},
		}}, s)
	})
}

// On a terminal lines are cut where it ends, in runes and not in bytes; elsewhere nothing is lost.
func TestNarrowTerminals(t *testing.T) {
	for _, cut := range []bool{true, false} {
		var b bytes.Buffer
		st := exampleStatus()
		printStatus(st, screen{Writer: &b, width: 40, cut: cut})
		for line := range strings.Lines(b.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); cut && n > 40 {
				t.Errorf("%d columns of 40: %q", n, line)
			}
		}
		if got := strings.Contains(b.String(), "FOUND BY"); got == cut {
			t.Errorf("cut %t: the least important column is there: %t\n%s", cut, got, &b)
		}
	}
}

// A narrow terminal leaves out the least important columns, and cuts none of the others.
func TestNarrowTerminalKeepsImportantColumns(t *testing.T) {
	st := exampleStatus()
	peers := control.PeerList{Named: []discovery.NamedPeer{{Text: "nas.example.org", From: "flag", Connected: []string{idNAS}}}}
	keys := control.KeyList{Keys: []control.Key{{Name: "cache.nixos.org-1", Public: "cache.nixos.org-1:6NCH", From: "/etc/nix/nix.conf:3",
		Class: classPublic, Shares: true}}}
	found := Diagnosis{Findings: []control.Health{{Severity: control.SeverityError, Text: "the firewall keeps neighbours out",
		Fix: "open TCP 6273"}}}
	for _, c := range []struct {
		name  string
		print func(screen)
		has   map[int]string // parts of the output by width
	}{
		{"status", func(s screen) { printStatus(st, s) },
			map[int]string{40: "1 strike|…qPnWkUgR", 60: "1 strike|…qPnWkUgR|[fd62:7200::5]:6274|FROM IT",
				80: "1 strike|…qPnWkUgR|[fd62:7200::5]:6274|FROM IT|TO IT|FOUND BY"}},
		{"peers", func(s screen) { printPeers(peers, s) },
			map[int]string{40: "nas.example.org|…qPnWkUgR", 60: "nas.example.org|--peer|…qPnWkUgR",
				80: "nas.example.org|--peer|…qPnWkUgR"}},
		{"keys", func(s screen) { printKeys(keys, s) }, map[int]string{40: "cache.nixos.org-1|6NCH|nix.conf:3", 60: "6NCH", 80: "6NCH"}},
		{"doctor", found.print, map[int]string{40: "out|6273", 60: "keeps neighbours out|open TCP 6273",
			80: "keeps neighbours out|open TCP 6273"}},
	} {
		for width, parts := range c.has {
			var b bytes.Buffer
			c.print(screen{Writer: &b, width: width, cut: true})
			for _, part := range strings.Split(parts, "|") {
				if !strings.Contains(b.String(), part) {
					t.Errorf("%s in %d columns lacks %q:\n%s", c.name, width, part, &b)
				}
			}
		}
	}
}

func TestReadmeShowsTheStatus(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"testdata/status.txt", "watch/testdata/example-80x24.txt"} {
		shown, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(readme), "```text\n"+strings.TrimRight(string(shown), "\n")+"\n```\n") {
			t.Errorf("README lacks %s:\n%s", file, shown)
		}
	}
}

// README names the commands without --json.
func TestEveryCommandButTheNamedHasJSON(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(readme)), " ")
	_, named, _ := strings.Cut(text, "Each command but ")
	named, _, found := strings.Cut(named, " prints JSON with `--json`")
	if !found {
		t.Fatal("README does not say which commands print JSON")
	}
	var without []string
	var look func(prefix string, commands []*cli.Command)
	look = func(prefix string, commands []*cli.Command) {
		for _, cmd := range commands {
			has := slices.ContainsFunc(cmd.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), "json") })
			if cmd.Action != nil && cmd.Name != "help" && !cmd.Hidden && !has && len(cmd.Subcommands) == 0 {
				without = append(without, "`"+prefix+cmd.Name+"`")
			}
			look(prefix+cmd.Name+" ", cmd.Subcommands)
		}
	}
	look("", appFor(t).Commands)
	listed := strings.Split(strings.ReplaceAll(named, " and ", ", "), ", ")
	slices.Sort(listed)
	slices.Sort(without)
	if !slices.Equal(listed, without) {
		t.Errorf("README names %s, and without --json are %s", listed, without)
	}
}

// Every sign that any command prints has a counterpart in ASCII.
func TestAllOutputHasASCII(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := asciiOf(string(text)); strings.Count(got, "?") != strings.Count(string(text), "?") {
			t.Errorf("%s has a sign without a counterpart:\n%s", file, got)
		}
	}
}

func TestColour(t *testing.T) {
	for _, c := range []struct{ force, no, want string }{{"", "", "x"}, {"1", "", "\x1b[31mx\x1b[0m"}, {"1", "1", "x"}, {"0", "", "x"}} {
		t.Setenv("CLICOLOR_FORCE", c.force)
		t.Setenv("NO_COLOR", c.no)
		if got := newScreen(contextFor(t)).paint(red, "x"); got != c.want {
			t.Errorf("CLICOLOR_FORCE=%s NO_COLOR=%s: %q, want %q", c.force, c.no, got, c.want)
		}
	}
}

func TestArgumentsInAnyOrder(t *testing.T) {
	app := appFor(t)
	for _, c := range [][2]string{
		{"narbor share --socket s pause --for 1h", "narbor share pause --socket s --for 1h"},
		{"narbor share pause --for 1h --socket s", "narbor share pause --for 1h --socket s"},
		{"narbor share --json", "narbor share --json"},
		{"narbor share --socket", "narbor share --socket"},
		{"narbor share x --json", "narbor share --json -- x"},
	} {
		got, err := arrange(app, strings.Fields(c[0]))
		if err != nil || !slices.Equal(got, strings.Fields(c[1])) {
			t.Errorf("arrange(%s) = %q, %v, want %s", c[0], got, err, c[1])
		}
	}
}

func appFor(t *testing.T) *cli.App {
	t.Helper()
	return newApp(io.Discard, io.Discard, nil)
}

func contextFor(t *testing.T) *cli.Context { return cli.NewContext(appFor(t), nil, nil) }

func TestShortTime(t *testing.T) {
	for _, c := range []struct {
		d    time.Duration
		want string
	}{{0, "0 s"}, {59 * time.Second, "59 s"}, {time.Hour - 1, "59 min 59 s"}, {2 * time.Minute, "2 min"}, {time.Hour, "1 h"},
		{26*time.Hour + time.Minute, "1 d 2 h"}, {48 * time.Hour, "2 d"}} {
		if got := dashboard.ShortTime(c.d); got != c.want {
			t.Errorf("shortTime(%v) = %q, want %q", c.d, got, c.want)
		}
	}
}

// Every command says what it is for, and shows how it is used.
func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	for _, cmd := range appFor(t).Commands {
		if cmd.Name == "help" {
			continue
		}
		out, _, err := narbor(t.Context(), cmd.Name, "--help")
		if err != nil || !strings.Contains(out, cmd.Usage) || !strings.Contains(out, "narbor "+cmd.Name) ||
			!strings.Contains(out, "xample") && cmd.Name != "completion" {
			t.Errorf("narbor %s --help: %v\n%s", cmd.Name, err, out)
		}
	}
}

func TestManualPage(t *testing.T) {
	out, _, err := narbor(t.Context(), "man")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{".TH narbor 8", ".SH NAME", "status", "upload-rate", "Exit code 3", "narbor why /nix/store"} {
		if !strings.Contains(out, want) {
			t.Errorf("the manual page lacks %q", want)
		}
	}
}

// Coloured text takes no more room than plain text.
func TestColoursTakeNoRoom(t *testing.T) {
	var plain, coloured bytes.Buffer
	const text = "a text that is long enough to be wrapped beside the mark before it"
	screen{Writer: &plain, width: 30}.hang(screen{}.mark(control.SeverityWarning), text)
	s := screen{Writer: &coloured, width: 30, colour: true}
	s.hang(s.mark(control.SeverityWarning), text)
	if got := colours.ReplaceAllString(coloured.String(), ""); got != plain.String() || got == coloured.String() {
		t.Errorf("in colour it is\n%s\nand without\n%s", got, &plain)
	}
}
