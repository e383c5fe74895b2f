package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/cmd/narbor/exit"
	"narbor/narserve/stats"
	"narbor/p2p/ask"
	"narbor/p2p/discovery"
	"narbor/p2p/peers"
	"narbor/p2p/ping"
	"narbor/p2p/proxy"
	"narbor/store"
)

func TestPeoplesCommands(t *testing.T) {
	t.Setenv("NIX_STATE_DIR", t.TempDir()) // an ordinary user may not ask this machine's Nix
	cacheDir, socket := t.TempDir(), filepath.Join(t.TempDir(), "s.sock")
	top, key := makeClosure(t, cacheDir)
	holder := started(t, "--cache-dir", cacheDir, "--trusted-key", key)
	startedAt(t, socket, "--trusted-key", key, "--peer", peerArg(t, holder))
	ask := func(want int, args ...string) string {
		t.Helper()
		out, _, err := narbor(t.Context(), append(args, "--socket", socket)...)
		if exit.Code(err) != want {
			t.Errorf("narbor %s = %v, want exit code %d\n%s", strings.Join(args, " "), err, want, out)
		}
		return out
	}
	peers := func() (l control.PeerList) {
		t.Helper()
		if err := json.Unmarshal([]byte(ask(0, "peers", "--json")), &l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	await := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d neighbours", n), func() bool { return len(peers().Neighbours) == n })
	}
	await(1)

	out := ask(0, "why", top.Path.String())
	for _, want := range []string{"not valid on this machine", dashboard.ShortID(holder.ID) + " has it", "signed by test-1",
		"200 the neighbour has it"} {
		if !strings.Contains(out, want) {
			t.Errorf("why lacks %q:\n%s", want, out)
		}
	}
	if out := ask(exit.NotFound, "why", strings.Repeat("a", 32)); !strings.Contains(out, "404 no neighbour has it") {
		t.Errorf("why of an unknown path:\n%s", out)
	}
	ask(exit.NotFound, "share", "explain", top.Path.String())

	out = ask(0, "ping", dashboard.ShortID(holder.ID), "--size", "100kB")
	for _, want := range []string{"round trip ", "127.0.0.1", "TLS 1.3"} {
		if !strings.Contains(out, want) {
			t.Errorf("ping lacks %q:\n%s", want, out)
		}
	}
	ask(exit.NotFound, "ping", "10.1.2.3")
	ask(exit.Usage, "ping", "x", "--count", "1000")

	ask(0, "peers", "block", dashboard.ShortID(holder.ID))
	await(0)
	if l := peers(); len(l.Blocked) != 1 || l.Blocked[0] != holder.ID {
		t.Errorf("blocked are %q", l.Blocked)
	}
	ask(0, "peers", "unblock", holder.ID)
	await(1)
	ask(exit.NotFound, "peers", "unblock", holder.ID)
	ask(0, "peers", "add", "192.0.2.7")
	if l := peers(); len(l.Named) != 2 {
		t.Errorf("named are %+v", l.Named)
	}
	ask(0, "peers", "rm", "192.0.2.7")
	ask(exit.NotFound, "peers", "rm", "192.0.2.7")
	ask(exit.Usage, "peers", "add", "not/an/address")
}

func TestWhyAndPeersReadWell(t *testing.T) {
	path := "/nix/store/0jqd0rlxzra1rs38rdxl43yh6rxchgc6-firefox-141.0"
	holder := ask.Answer{ID: idNAS, Addr: "/ip4/192.168.1.5/tcp/6273", Path: path, SignedBy: "cache.nixos.org-1", NarSize: 327_575_142,
		Millis: 1.4}
	other := ask.Answer{ID: idLaptop, Addr: "/ip4/192.168.1.23/tcp/6273", Millis: 2.123}
	w := control.Why{Path: path, Neighbours: []ask.Answer{other, holder}}
	judge(&w, 1)
	w.Rebuild = &control.WhyRebuild{From: "/nix/store/1jqd0rlxzra1rs38rdxl43yh6rxchgc6-firefox-141.0"}
	golden(t, "why", func(s screen) { printWhy(w, "", s) })
	w = control.Why{Path: path, Local: &control.WhyLocal{Where: "/nix/store", NarSize: 1234567, References: 214, Served: true, Shared: true,
		Reason:     "cache.nixos.org-1 has signed it",
		Signatures: []control.WhySignature{{Key: "cache.nixos.org-1", Verdict: "verified"}, {Key: "desk-1", Verdict: "unknown key"}}}}
	judge(&w, 1)
	w.Rebuild = &control.WhyRebuild{From: "/nix/store/1jqd0rlxzra1rs38rdxl43yh6rxchgc6-firefox-141.0", Done: true}
	golden(t, "why-here", func(s screen) { printWhy(w, "", s) })
	golden(t, "explain", func(s screen) { explainWhy(w, "", s) })
	holder.Problem, holder.Receiving = "not signed by a trusted key", true
	w = control.Why{HashPart: "0jqd0rlxzra1rs38rdxl43yh6rxchgc6", Neighbours: []ask.Answer{holder}}
	judge(&w, 1)
	golden(t, "why-not", func(s screen) { printWhy(w, "", s) })
	a := proxy.Assignment{Assignee: idNAS, Patience: 3, Candidates: []proxy.Candidate{{ID: idNAS, Weight: "f0"},
		{ID: idLaptop, Weight: "c0", Out: "it is slow to answer"}, {Weight: "11"}}}
	w = control.Why{Path: path, Neighbours: []ask.Answer{other},
		Upstream: &control.WhyUpstream{Asked: true, Has: true, SignedBy: "cache.nixos.org-1",
			NarSize: 327_575_142, Millis: 31.4, Assignment: a}}
	judge(&w, 1)
	w.Rebuild = &control.WhyRebuild{From: "/nix/store/1jqd0rlxzra1rs38rdxl43yh6rxchgc6-firefox-141.0",
		Problem: "it took too long"}
	golden(t, "why-assigned", func(s screen) { printWhy(w, "", s) })
	a = proxy.Assignment{Candidates: []proxy.Candidate{{Weight: "f0"}, {ID: idNAS, Weight: "11"}}, Refuses: "it is on a metered network"}
	w = control.Why{Path: path, Neighbours: []ask.Answer{other}, Upstream: &control.WhyUpstream{Asked: true, Millis: 31.4, Assignment: a}}
	judge(&w, 1)
	golden(t, "why-assigned-self", func(s screen) { printWhy(w, "", s) })
	a = proxy.Assignment{Alone: "it does not cooperate (--no-cooperate)", Refuses: "it does not cooperate (--no-cooperate)"}
	w = control.Why{Path: path, Upstream: &control.WhyUpstream{Asked: true,
		Problem:    "upstream https://cache.nixos.org/: it did not answer a moment ago",
		Assignment: a}}
	judge(&w, 1)
	w.Rebuild = &control.WhyRebuild{Problem: "no other version of it is here"}
	golden(t, "why-alone", func(s screen) { printWhy(w, "", s) })

	st := exampleStatus()
	golden(t, "peers", func(s screen) {
		printPeers(control.PeerList{Neighbours: st.Neighbours, Blocked: []string{idDesk}, Named: []discovery.NamedPeer{
			{Text: "nas.example.org", From: "flag", Connected: []string{idNAS}}, {Text: "192.168.7.5", From: "added"}},
			Banned: []peers.Denied{{ID: idNAS, Reason: "sent a block that is not of this NAR",
				Until: time.Date(2026, 1, 2, 15, 4, 5, 0, time.Local)}}}, s)
	})
	golden(t, "ping", func(s screen) {
		printPing(control.PingReport{Ping: ping.Ping{ID: idNAS, Addr: "/ip4/192.168.1.5/tcp/6273", Local: "/ip4/192.168.1.7/tcp/40112",
			Via:      "mdns",
			Security: "/tls/1.0.0", Millis: []float64{1.2, 0.9, 1.1, 1, 4}, Bytes: 8 << 20, WireBytes: 4 << 20, Seconds: 0.0812,
			Path: path}}, s)
	})
	golden(t, "ping-lost", func(s screen) {
		printPing(control.PingReport{Ping: ping.Ping{ID: idNAS, Addr: "/ip4/192.168.1.5/tcp/6273", Local: "/ip4/192.168.1.7/tcp/40112",
			Via:      "named",
			Security: "/noise", Lost: 1, Millis: []float64{1.2}, Problem: "nothing is known that it has, to be fetched as a measure"}}, s)
	})
}

func TestStatsReadWell(t *testing.T) {
	day := func(date string, received, sent int64) stats.Day {
		return stats.Day{Date: date, Amounts: stats.Amounts{Received: map[store.Origin]int64{store.FromNeighbours: received},
			ByNix: received / 4,
			Sent:  sent, NARs: 1234, SavedSeconds: float64(received) / 25e6}}
	}
	mixed := day(time.Now().Format(time.DateOnly), 4_402_341_478, 644_245_094)
	mixed.Received[store.FromOthers], mixed.Received[store.FromInternet] = 12_777_527_705, 1_000_000_000
	golden(t, "stats-upstream", func(s screen) { printStats(s, stats.Account{Days: []stats.Day{mixed}}, "") })
	a := stats.Account{Days: []stats.Day{day(time.Now().AddDate(0, 0, -3).Format(time.DateOnly), 12_777_527_705, 100),
		day(time.Now().Format(time.DateOnly), 4_402_341_478, 644_245_094)},
		Peers: []stats.Share{{Name: idNAS, Received: 12_777_527_705, Last: time.Date(2026, 1, 2, 15, 4, 5, 0, time.Local)},
			{Name: idLaptop, Received: 4_402_341_478, Sent: 644_245_094}},
		Names: []stats.Share{{Name: "firefox", Received: 327_575_142}}}
	for _, by := range []string{"", "peer", "name"} {
		golden(t, "stats"+strings.TrimSuffix("-"+by, "-"), func(s screen) { printStats(s, a, by) })
	}
	a.LastUpdate = &stats.Update{Start: time.Date(2026, 1, 4, 14, 2, 5, 0, time.Local), Amounts: stats.Amounts{
		Received: map[store.Origin]int64{store.FromRebuild: 1_340_000_000, store.FromNeighbours: 750_000_000,
			store.FromInternet: 110_000_000}, NARs: 1156, ByNix: 1_000_000, ByNixPaths: 2, Seconds: 41.3}}
	golden(t, "stats-update", func(s screen) { printStats(s, a, "") })
	giver := stats.Account{Days: []stats.Day{{Date: time.Now().Format(time.DateOnly),
		Amounts: stats.Amounts{Sent: 3 << 30, ByNix: 1 << 30}}}}
	golden(t, "stats-giver", func(s screen) { printStats(s, giver, "") })
	golden(t, "stats-empty", func(s screen) { printStats(s, stats.Account{}, "") })
}
