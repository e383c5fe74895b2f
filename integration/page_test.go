package integration_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/narserve"
	"narbor/narserve/stats"
	"narbor/p2p"
	"narbor/p2p/netmon"
	"narbor/p2p/peers"
	"narbor/store"
	"narbor/trust"
)

// A shown page is served as narbor does it, with what a test says it shall show.
type shown struct {
	url      string
	accounts *stats.Accounts

	mu    sync.Mutex // guards facts
	facts dashboard.Facts
}

func (s *shown) set(change func(*dashboard.Facts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.facts)
}

func showPage(t *testing.T, account *stats.Account, facts dashboard.Facts) *shown {
	t.Helper()
	file := filepath.Join(t.TempDir(), "account.json")
	if account != nil {
		text, err := json.Marshal(account)
		if err == nil {
			err = os.WriteFile(file, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	accounts, err := stats.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &shown{accounts: accounts, facts: facts}
	srv := narserve.New(narserve.Config{Accounts: accounts, Page: dashboard.New(func() dashboard.Facts {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.facts
	}, accounts)}).HTTPServer()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-ended; err != http.ErrServerClosed {
			t.Error(err)
		}
	})
	s.url = "http://" + l.Addr().String()
	return s
}

// internetRate is how fast the internet of the shown machine is, in bytes of NARs a second: as narbor assumes it.
const internetRate = 25e6

// busyAccount is a month of a machine that has neighbours.
func busyAccount(now time.Time) *stats.Account {
	a := &stats.Account{Schema: 1, Since: now.AddDate(0, 0, -40)}
	for i := 29; i >= 0; i-- {
		d := stats.Day{Date: now.AddDate(0, 0, -i).Format(time.DateOnly)}
		n := int64((i+5)*7919%11) * 107e6
		d.Received = map[store.Origin]int64{store.FromNeighbours: n, store.FromRebuild: n / 3}
		d.ByNix, d.Sent, d.NARs, d.Seconds = n/5+3e6, n/2, n/1e6, float64(n)/1e8
		d.SavedSeconds = float64(d.Saved())/internetRate - d.Seconds
		a.Days = append(a.Days, d)
	}
	for i := range 96 {
		q := stats.Quarter{Start: now.Truncate(15 * time.Minute).Add(time.Duration(i-95) * 15 * time.Minute)}
		if wave := int64(i*i*31%97) - 52; wave > 0 && (i < 26 || i > 50) {
			q.Received = map[store.Origin]int64{store.FromNeighbours: wave * 9e6}
			q.ByNix, q.Sent = wave*int64(i%3)*1e6, wave*int64((i+1)%4)*2e6
			a.Quarters = append(a.Quarters, q)
		}
	}
	a.LastUpdate = &stats.Update{Start: now.Add(-50 * time.Minute), End: now.Add(-49 * time.Minute), Amounts: stats.Amounts{NARs: 1156,
		Received: map[store.Origin]int64{store.FromRebuild: 1.34e9, store.FromNeighbours: 7.5e8, store.FromInternet: 1.1e8}, Seconds: 41}}
	const laptop, nas = "12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf", "12D3KooWLRPJA9AFCdQqKpE2LsHDsUbMnc1sBpsQkfFJ6bsKQwzv"
	a.LastUpdate.From = []string{nas, laptop}
	for i, name := range []string{"firefox-141.0", "llvm-18.1.8-lib", "glibc-2.40-66", "noto-fonts-2025.06.01", "gtk4-4.18.6",
		"python3-3.12.11",
		"mesa-25.1.6", "systemd-257.7", "linux-firmware-20250708", "gcc-14.3.0-lib", "ffmpeg-7.1.1-lib", "qtbase-6.9.1"} {
		path := strings.Repeat(string("0123456789abcdfghij"[i]), 32) + "-" + name
		r := stats.Request{Time: now.Add(-time.Duration(i*i*7) * time.Second), Path: path, Result: stats.ResultHit, Count: 1,
			Bytes:   int64(340e6 / (i + 1)),
			Seconds: 3.6 / float64(i+1), Origin: store.FromNeighbours, From: []string{nas, laptop}[:1+i%2]}
		switch i {
		case 2:
			r = stats.Request{Time: r.Time, Path: path[:32], Result: stats.ResultMiss, Reason: "no neighbour has it", Count: 412}
		case 4:
			r = stats.Request{Time: r.Time, Path: path, Result: stats.ResultFound, Count: 1260}
		case 7:
			r = stats.Request{Time: r.Time, Path: path[:32], Result: stats.ResultRejected,
				Reason: "a neighbour has it, but no key that Nix trusts has signed it", Count: 3}
		}
		a.Requests = append(a.Requests, r)
	}
	return a
}

// busyFacts are those of that machine.
func busyFacts() dashboard.Facts {
	counted := func(asked, sent int64) p2p.KindCount { return p2p.KindCount{Asked: asked, Sent: sent} }
	return dashboard.Facts{NixConf: "extra-substituters = http://127.0.0.1:6272", NixAsks: true,
		Kinds: []dashboard.ShareKind{{Kind: "signed by a public key", With: "every neighbour", KindCount: counted(12345, 1.5e9)},
			{Kind: "unsigned here, signature offered", With: "every neighbour", KindCount: counted(411, 0.3e9)},
			{Kind: "signed by private keys alone", With: "no machine"}, {Kind: "fetched source, unsigned", With: "no machine"},
			{Kind: "commit of a git repository", With: "no machine"},
			{Kind: "own build with the circle's signature", With: "no machine"},
			{Kind: "any path that is here and stays here", With: "no machine", KindCount: counted(38, 0)}},
		Status: control.Status{Schema: 1, Version: "0.1.0", UptimeSeconds: 76 * 3600,
			Status: p2p.Status{ID: "12D3KooWQh3cqgNn3tqpk3vYs9fBTNx5N4WbsuQ6v1ZtXSsDkXYL", Neighbours: []p2p.NeighbourStatus{
				{ID: "12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf", Addr: "/ip4/192.168.1.23/tcp/6273", Via: "mdns",
					Name: "laptop", ConnectedSeconds: 3 * 3600, BytesReceived: 1.1e9, BytesSent: 0.2e9},
				{ID: "12D3KooWLRPJA9AFCdQqKpE2LsHDsUbMnc1sBpsQkfFJ6bsKQwzv", Addr: "/ip4/192.168.1.5/tcp/6273", Via: "named",
					Name: "nas", ConnectedSeconds: 75 * 3600, BytesReceived: 2.9e9},
				{ID: "12D3KooWBtp4mPUkdyB2rN3V7mvNZ8mJQ3Tz1nT8V9yWwT5qkQnE", Addr: "/ip6/fd00::122:40/tcp/6273", Via: "inbound",
					ConnectedSeconds: 12 * 60, BytesSent: 1.6e9, Strikes: 1},
			},
				Interfaces: []netmon.InterfaceStatus{{Name: "lo", Reason: "loopback"}, {Name: "enp3s0", Used: true},
					{Name: "wlp2s0", Used: true},
					{Name: "docker0", Reason: "container or tunnel, by its name (--interface would use it)"},
					{Name: "wg0", Reason: "container or tunnel, by its name (--interface would use it)"}}},
			StoreStatus:   control.StoreStatus{Store: "/nix/store", CacheDirs: []string{"/var/lib/narbor/cache"}},
			KeyStatus:     control.KeyStatus{Keys: []string{"cache.nixos.org-1"}, ShareKeys: []string{"cache.nixos.org-1"}},
			SharingStatus: control.SharingStatus{Sharing: "signed"},
			Spool:         control.SpoolStatus{Bytes: 1.2e9, MaxBytes: 4 << 30, Entries: 31}}}
}

// freshFacts are those of a machine where narbor was just installed.
func freshFacts(now time.Time) dashboard.Facts {
	f := busyFacts()
	f.Neighbours, f.UptimeSeconds, f.NixAsks, f.Spool.Bytes = nil, 60, false, 0
	for i := range f.Kinds {
		f.Kinds[i].Asked, f.Kinds[i].Sent = 0, 0
	}
	f.Banned = []peers.Denied{{ID: "12D3KooWBtp4mPUkdyB2rN3V7mvNZ8mJQ3Tz1nT8V9yWwT5qkQnE", Reason: "sent a wrong block",
		Until: now.Add(time.Hour)}}
	f.Health = []control.Health{
		{Code: "keys", Severity: control.SeverityError, Title: "Nothing can be believed",
			Text: "Nix on this machine has no trusted-public-keys, so nothing that a neighbour sends could be " +
				"checked, and none of it is used.",
			Fix:     "Give Nix the key of its cache in nix.conf.",
			Command: "trusted-public-keys = cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="},
		{Code: "nix", Severity: control.SeverityWarning, Title: "Nix does not ask narbor",
			Text: "Neighbours get what this machine has, but Nix here does not know of narbor.",
			Fix:  "Add this line to nix.conf, below any line that begins with substituters, and restart nix-daemon:", Command: f.NixConf},
		{Code: "neighbours", Severity: control.SeverityInfo, Title: "No neighbour yet",
			Text: "No other narbor was found on this network. Until there is one, Nix gets everything from the internet, as before."}}
	return f
}

// move lets a NAR arrive, and another leave.
func (s *shown) move(t *testing.T, name string, size, in, out int) {
	t.Helper()
	m := textMapping(t, name, size)
	s.accounts.Received(store.FromNeighbours, m, "12D3KooWLRPJA9AFCdQqKpE2LsHDsUbMnc1sBpsQkfFJ6bsKQwzv", in)
	s.accounts.Sent(textMapping(t, "blender-4.5.1", 2*size).Path(), int64(2*size), "12D3KooWBtp4mPUkdyB2rN3V7mvNZ8mJQ3Tz1nT8V9yWwT5qkQnE",
		out)
}

// flow lets a NAR arrive and another leave, each at its pace in bytes a second. It returns while they go on, once that
// has lasted for longer than the time over which rates are taken: they are those of the two from then on, and before
// they would be less.
func (s *shown) flow(t *testing.T, in, out int) {
	t.Helper()
	const before, all, perSecond = 6, 10, 10 // seconds, and pieces
	comes, goes := textMapping(t, "webkitgtk-2.48.3", all*in), textMapping(t, "blender-4.5.1", 2*all*out)
	ready, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second / perSecond)
		defer tick.Stop()
		for i := range all*perSecond - 1 {
			s.accounts.Received(store.FromNeighbours, comes, "12D3KooWLRPJA9AFCdQqKpE2LsHDsUbMnc1sBpsQkfFJ6bsKQwzv", in/perSecond)
			s.accounts.Sent(goes.Path(), goes.NarSize(), "12D3KooWBtp4mPUkdyB2rN3V7mvNZ8mJQ3Tz1nT8V9yWwT5qkQnE", out/perSecond)
			if i == before*perSecond {
				close(ready)
			}
			select {
			case <-tick.C:
			case <-t.Context().Done():
				return
			}
		}
	}()
	t.Cleanup(func() { <-ended })
	<-ready
}

// The Page as people see it, on a wide screen and a narrow one, by day and by night.
func TestPageInChromium(t *testing.T) {
	b := newBrowser(t)
	now := time.Now()
	busy, fresh := showPage(t, busyAccount(now), busyFacts()), showPage(t, nil, freshFacts(now))
	if os.Getenv("NARBOR_PICTURES") != "" {
		busy.flow(t, 10_500_000, 3_200_000) // the screenshot is the first picture
	}
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int{1280, 390} {
			b.screen(width, scheme)
			for _, name := range []string{"busy", "fresh"} {
				page := map[string]*shown{"busy": busy, "fresh": fresh}[name]
				if page == busy && os.Getenv("NARBOR_PICTURES") == "" { // the same rows, which vanish in seconds, at other rates
					busy.move(t, "webkitgtk-2.48.3", 100_000_000, 2_500_000, 1_250_000)
				}
				b.open(page.url + "/")
				b.until(`document.getElementById("live").textContent === "Live"`)
				what := fmt.Sprintf("%s-%s-%d", name, scheme, width)
				keep(t, what, b.picture())
				if what == "busy-light-1280" {
					keep(t, "screenshot", b.clip(1280, 1010)) // what the README shows
				}
				if got := b.eval(`document.documentElement.scrollWidth`); got != fmt.Sprint(width) {
					t.Errorf("%s: the page is %s wide", what, got)
				}
				if got := b.eval(contrast); got != "" {
					t.Errorf("%s: too little contrast: %s", what, got)
				}
				checkSeen(t, b, page.url)
			}
		}
	}
}

// On a narrow screen every row is whole, the last one too: no table has an edge that cuts one.
func TestNarrowPageCutsNoRow(t *testing.T) {
	b := newBrowser(t)
	now := time.Now()
	facts := busyFacts()
	facts.Sharing = "none"
	facts.Neighbours[1].Name = strings.Repeat("the-nas-of-all", 4)
	giver := busyAccount(now)
	for i := range giver.Days {
		giver.Days[i].Received = nil
	}
	for range 4 {
		giver.Requests = append(giver.Requests, giver.Requests...)
	}
	giver.Requests = giver.Requests[:50]
	page := showPage(t, giver, facts)
	b.screen(390, "light")
	b.open(page.url + "/")
	b.until(`document.getElementById("live").textContent === "Live"`)
	keep(t, "giver-light-390", b.picture())
	if got := b.eval(cutRows); got != "" {
		t.Errorf("rows are cut: %s", got)
	}
	if got := b.eval(`document.querySelectorAll("#requests tbody tr").length`); got != "50" {
		t.Errorf("%s requests are shown, want 50", got)
	}
}

// cutRows are the rows of tables that stand out of what scrolls around them, or of the page.
const cutRows = `[...document.querySelectorAll("tbody tr")].filter((row) => {
	const r = row.getBoundingClientRect(), around = row.closest(".scroll").getBoundingClientRect();
	return r.bottom > around.bottom + 1 || r.top < around.top - 1 ||
		[...row.children].some((c) => c.getBoundingClientRect().right > innerWidth);
}).map((row) => row.innerText.slice(0, 40)).join("; ")`

// contrast is the text, if any, that stands out from its background by less than 4.5 to 1.
const contrast = `(() => {
	const parts = (c) => c.match(/[\d.]+/g).map(Number);
	const light = (c) => { const [r, g, b] = parts(c).map((v) => { v /= 255;
		return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
		return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
	const behind = (e) => { for (; e; e = e.parentElement) {
		const c = getComputedStyle(e).backgroundColor; if (parts(c)[3] !== 0) return c; } return "rgb(255,255,255)"; };
	const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	const bad = new Set();
	for (let n; (n = walk.nextNode());) {
		const e = n.parentElement;
		if (!n.data.trim() || !e.getClientRects().length || ["SCRIPT", "STYLE"].includes(e.tagName)) continue;
		const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
		if ((a + 0.05) / (b + 0.05) < 4.5) bad.add(n.data.trim().slice(0, 40));
	}
	return [...bad].join(", ");
})()`

// checkSeen fails if the browser asked for anything but the page and its events, or complained.
func checkSeen(t *testing.T, b *browser, url string) {
	t.Helper()
	requests, said := b.seen()
	for _, r := range requests {
		if r != url+"/" && r != url+"/events" && !strings.HasPrefix(r, "data:") && r != "about:blank" {
			t.Errorf("the page asks for %s", r)
		}
	}
	if len(requests) < 2 {
		t.Errorf("it asks for %q alone", requests)
	}
	for _, text := range said {
		t.Errorf("the browser says %.300s", text)
	}
}

// What the page says, that it is kept up to date, and that what neighbours say runs nothing.
func TestPageLivesInChromium(t *testing.T) {
	b := newBrowser(t)
	now := time.Now()
	s := showPage(t, busyAccount(now), busyFacts())
	s.set(func(f *dashboard.Facts) {
		f.Neighbours[0].Via = `"><script>document.title="owned"</script><img src=x onerror="document.title='owned'">`
	})
	b.screen(1280, "light")
	b.open(s.url + "/")
	for _, want := range []string{"of the last 30 days came from your network or was rebuilt here", "not downloaded",
		"1 156 paths, 2.0 GiB: 61 % rebuilt here, 34 % from …6bsKQwzv ~nas and …rMLvKXtf ~laptop",
		"Rebuilt here", "192.168.1.23", "named by you",
		"no neighbour has it",
		"no key that Nix trusts has signed it", "extra-substituters = http://127.0.0.1:6272", "docker0", "what was built on this machine",
		"any path that is here and stays here", "12 345", "1 of 3 strikes"} {
		b.until(fmt.Sprintf("document.body.innerText.includes(%q)", want))
	}
	b.until(`document.getElementById("now").innerText.includes("Nothing is under way")`)
	s.move(t, "inkscape-1.4.2", 50_000_000, 20_000_000, 0)
	b.until(`document.getElementById("now").innerText.includes("inkscape-1.4.2")`)
	b.until(`document.querySelector("#now progress").getAttribute("aria-label") === "inkscape-1.4.2"`)
	s.set(func(f *dashboard.Facts) {
		f.Neighbours = append(f.Neighbours, p2p.NeighbourStatus{ID: "12D3KooWNewNeighbour", Addr: "/ip4/192.168.1.77/tcp/6273",
			Via: "mdns"})
		f.Health = []control.Health{{Code: "x", Severity: control.SeverityWarning, Title: "Something is odd", Text: "Look."}}
	})
	b.until(`document.body.innerText.includes("192.168.1.77") && document.body.innerText.includes("Something is odd")`)
	if got := b.eval(`document.title`); got != "narbor" {
		t.Errorf("the title is %q: what a neighbour said was run", got)
	}
	if got := b.eval(`[...document.querySelectorAll("main section")].every((s) => s.getAttribute("aria-label") ||
		document.getElementById(s.getAttribute("aria-labelledby"))) &&
		[...document.querySelectorAll("table")].every((t) =>
		t.querySelector("th[scope=col]") && t.querySelector("th[scope=row]"))`); got != "true" {
		t.Error("a section has no name, or a table no headers")
	}
	checkSeen(t, b, s.url)
	b.call("Emulation.setScriptExecutionDisabled", map[string]any{"value": true})
	b.open(s.url + "/")
	if html := b.html(); !strings.Contains(html, `http-equiv="refresh"`) || !strings.Contains(html, "192.168.1.77") {
		t.Errorf("without JavaScript the page does not say what it should:\n%s", html)
	}
}

// keep keeps a picture where NARBOR_PICTURES says, for people to look at.
func keep(t *testing.T, name string, png []byte) {
	t.Helper()
	if dir := os.Getenv("NARBOR_PICTURES"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
			t.Error(err)
		}
	}
}

// textMapping makes a mapping of a NAR of that size: content-addressed, it proves itself.
func textMapping(t *testing.T, name string, size int) trust.Mapping {
	t.Helper()
	flat := store.Hash{1}
	digest := sha256.Sum256(fmt.Appendf(nil, "text:sha256:%x:%s:%s", [32]byte(flat), store.Dir, name))
	var folded [20]byte
	for i, b := range digest {
		folded[i%20] ^= b
	}
	path, err := store.ParsePathName(string(store.HashPartFromBytes(folded)) + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	m, err := new(trust.Keys).Check(store.Info{Path: path, NarHash: store.Hash{2}, NarSize: int64(size),
		CA: "text:sha256:" + flat.Base32()})
	if err != nil {
		t.Fatal(err)
	}
	return m
}
