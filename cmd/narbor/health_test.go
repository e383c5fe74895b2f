package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"narbor/cmd/narbor/circle"
	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/doctor"
	"narbor/cmd/narbor/exit"
	"narbor/narserve"
	"narbor/narserve/stats"
	"narbor/p2p"
	"narbor/p2p/ask"
	"narbor/p2p/greet"
	"narbor/p2p/netmon"
	"narbor/p2p/peers"
	"narbor/store"
	"narbor/store/bincache"
	"narbor/store/damage"
	"narbor/store/nixconf"
	"narbor/store/storetest"
	"narbor/trust"
)

// wellService has the parts of a service of which status says nothing bad, with a directory for its files.
func wellService(t *testing.T) (s *parts, st control.Status, dir string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	dir = t.TempDir()
	accounts, err := stats.Open(filepath.Join(dir, "account.json"))
	if err != nil {
		t.Fatal(err)
	}
	s = &parts{keys: new(keyState), shares: new(shares), listeners: []net.Listener{l}, accounts: accounts}
	s.keys.nix = nixconf.Settings{Substituters: []string{"http://" + l.Addr().String() + "/"}}
	st = exampleStatus()
	st.OtherGroup, st.Banned = nil, nil
	return s, st, dir
}

func TestHealth(t *testing.T) {
	in := time.Now().Add(time.Hour)
	alone := func(_ *parts, st *control.Status) { st.Neighbours = nil }
	home, spoilt := t.TempDir(), t.TempDir()
	inForce, err := circle.New("home")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(inForce.MakeKey(filepath.Join(t.TempDir(), "key")), inForce.Save(home, false),
		os.WriteFile(circle.File(spoilt), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		spoil func(*parts, *control.Status)
		want  string // code and severity of each, in order
		says  string // somewhere in it
	}{
		{"well", func(*parts, *control.Status) {}, "", ""},
		{"no keys", func(_ *parts, st *control.Status) { st.Keys, st.ShareKeys = nil, nil }, "keys error", "trusted-public-keys = "},
		{"alone", alone, "neighbours info", "UDP 5353"},
		{"alone, just started", func(s *parts, st *control.Status) { alone(s, st); st.UptimeSeconds = 0 }, "", ""},
		{"alone without multicast", func(s *parts, st *control.Status) { alone(s, st); st.MDNS = false }, "neighbours info", "--no-mdns"},
		{"no network", func(s *parts, st *control.Status) {
			alone(s, st)
			st.Interfaces = []netmon.InterfaceStatus{{Name: "lo", Reason: "loopback"}}
		}, "network warning", "but loopback"},
		{"no network that is used", func(s *parts, st *control.Status) {
			alone(s, st)
			st.Interfaces = []netmon.InterfaceStatus{{Name: "tun0", Reason: "a tunnel"}}
		}, "network warning", "tun0 (a tunnel)"},
		{"no network, and a neighbour all the same", func(_ *parts, st *control.Status) { st.Interfaces = nil }, "", ""},
		{"a unit that does not allow vsock", func(_ *parts, st *control.Status) { st.VsockForbidden = true }, "vsock info", "narbor setup"},
		{"sharing turned off", func(_ *parts, st *control.Status) { st.Sharing = "none" }, "sharing-off info", "narbor share resume"},
		{"sharing paused", func(_ *parts, st *control.Status) { st.Sharing, st.PausedUntil = "none", &in }, "sharing-paused info",
			in.Format("15:04")},
		{"private keys only", func(_ *parts, st *control.Status) { st.ShareKeys = nil }, "nothing-shared warning", "--share-key"},
		{"Nix has not asked", func(_ *parts, st *control.Status) { st.Nix = narserve.Stats{} }, "nix info", "restart nix-daemon"},
		{"Nix does not ask, and nothing is shared", func(s *parts, st *control.Status) {
			st.Nix, st.Sharing = narserve.Stats{}, "none"
			s.keys.nix = nixconf.Settings{}
		}, "nix warning, sharing-off info", "Text:Nix here does not know"},
		{"Nix does not ask", func(s *parts, st *control.Status) { st.Nix = narserve.Stats{}; s.keys.nix = nixconf.Settings{} },
			"nix warning",
			"extra-substituters = http://127.0.0.1:"},
		{"Nix asks though nothing says so", func(s *parts, _ *control.Status) { s.keys.nix = nixconf.Settings{} }, "", ""},
		{"no Nix", func(_ *parts, st *control.Status) { st.Nix, st.Store = narserve.Stats{}, "" }, "", ""},
		{"a banned peer", func(_ *parts, st *control.Status) { st.Banned = []peers.Denied{{ID: idNAS}} }, "banned-peers info",
			"1 banned"},
		{"another group", func(_ *parts, st *control.Status) { st.OtherGroup = []greet.Outsider{{ID: idNAS}} }, "other-group info",
			"--group-secret-file"},
		{"a circle with a key that Nix trusts", func(s *parts, st *control.Status) {
			s.keys.circle, st.CircleKeys = new(trust.Keys), []string{"home-1"}
		}, "", ""},
		{"a circle without a key that Nix trusts", func(s *parts, _ *control.Status) {
			s.keys.circle, s.keys.group.keys = new(trust.Keys), []string{"home-1:CHgFWXy4"}
		}, "circle-keys warning", "none of its keys: home-1"},
		{"no circle", func(s *parts, _ *control.Status) { s.keys.group = group{state: t.TempDir()} }, "", ""},
		{"a circle", func(s *parts, _ *control.Status) { s.keys.group = group{state: home, circle: &inForce} }, "", ""},
		{"a circle with another secret", func(s *parts, _ *control.Status) {
			s.keys.group = group{state: home, circle: &circle.Circle{Name: "home", Secret: "other", Keys: inForce.Keys}}
		}, "circle-changed warning", "Its secret or its keys"},
		{"a circle with another key", func(s *parts, _ *control.Status) {
			s.keys.group = group{state: home, circle: &circle.Circle{Name: "home", Secret: inForce.Secret}}
		}, "circle-changed warning", "Its secret or its keys"},
		{"a circle that this machine has joined", func(s *parts, _ *control.Status) { s.keys.group = group{state: home} },
			"circle-changed warning", "has joined the circle home"},
		{"a circle that this machine has left", func(s *parts, _ *control.Status) {
			s.keys.group = group{state: t.TempDir(), circle: &inForce}
		}, "circle-changed warning", "has left the circle home"},
		{"a circle that cannot be read", func(s *parts, _ *control.Status) { s.keys.group = group{state: spoilt, circle: &inForce} },
			"circle-changed warning", "The circle cannot be read"},
		{"the worst first", func(s *parts, st *control.Status) {
			alone(s, st)
			st.Keys, st.Nix = nil, narserve.Stats{}
			s.keys.nix = nixconf.Settings{}
		}, "keys error, nix warning, neighbours info", ""},
	} {
		s, st, _ := wellService(t)
		c.spoil(s, &st)
		var got []string
		st.Health = s.health(st)
		for _, h := range st.Health {
			got = append(got, h.Code+" "+h.Severity)
			if h.Title == "" || h.Text == "" || h.Fix == "" {
				t.Errorf("%s: %+v lacks a title, a text or a fix", c.name, h)
			}
		}
		if text := strings.Join(got, ", "); text != c.want || st.Health == nil {
			t.Errorf("%s: health is %q, want %q", c.name, text, c.want)
		}
		if !strings.Contains(fmt.Sprintf("%+v", st.Health), c.says) {
			t.Errorf("%s: %+v does not say %q", c.name, st.Health, c.says)
		}
		bad := strings.Contains(c.want, "warning") || strings.Contains(c.want, "error")
		if (len(st.Faults()) > 0) != bad {
			t.Errorf("%s: faults are %+v", c.name, st.Faults())
		}
	}
}

// Requests of Nix outlast a restart, and the page lists them: "Nix has not asked yet" would stand above them.
func TestNixHasAskedBeforeARestart(t *testing.T) {
	s, st, dir := wellService(t)
	st.Nix = narserve.Stats{}
	file := filepath.Join(dir, "account.json")
	text, err := json.Marshal(stats.Account{Schema: 1, Requests: []stats.Request{{Path: strings.Repeat("a", 32), Result: "miss",
		Count: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	storetest.WriteText(t, file, string(text))
	if s.accounts, err = stats.Open(file); err != nil {
		t.Fatal(err)
	}
	if got := s.health(st); len(got) != 0 {
		t.Errorf("with a request of Nix in the list, health is %+v", got)
	}
}

func TestProbeOfDoctorIsNotAQuestionOfNix(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")
	startedAt(t, socket)
	if out, _, _ := narbor(t.Context(), "doctor", "running", "probe", "--socket", socket); !strings.Contains(out, "is answered with 404") {
		t.Errorf("doctor says\n%s", out)
	}
	text, _, _ := narbor(t.Context(), "status", "--json", "--socket", socket)
	var st control.Status
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		t.Fatal(err)
	}
	if st.Nix.NarinfoMisses+st.Nix.NarinfoHits != 0 {
		t.Errorf("after doctor's probe: %+v, want no question of Nix", st.Nix)
	}
}

func TestHealthOfFiles(t *testing.T) {
	s, st, dir := wellService(t)
	file := filepath.Join(dir, "account.json")
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.accounts, _ = stats.Open(file)
	if got := s.health(st); len(got) != 1 || got[0].Code != "accounts-lost" || got[0].Severity != control.SeverityInfo {
		t.Errorf("with an account that cannot be read: %+v", got)
	}
}

// A cache directory is reported if none of its paths has a signature of a key that is trusted here.
func TestCacheOfUntrustedKeysIsReported(t *testing.T) {
	signed := t.TempDir()
	top, _ := makeClosure(t, signed)
	unsigned := t.TempDir()
	storetest.WriteText(t, filepath.Join(unsigned, string(top.Path.HashPart())+".narinfo"),
		store.Info{Path: top.Path, NarHash: top.NarHash, NarSize: top.NarSize}.String()+
			"URL: x.nar\nCompression: none\n")
	for _, c := range []struct {
		name, dir string
		keys      []string
		says      string // "" is nothing
	}{
		{"untrusted", signed, []string{"other-1"}, "signed by test-1 alone"},
		{"trusted", signed, []string{"other-1", "test-1"}, ""},
		{"unsigned", unsigned, []string{"test-1"}, "None of 1 path"},
		{"empty", t.TempDir(), []string{"test-1"}, ""},
		{"not there", filepath.Join(signed, "none"), []string{"test-1"}, ""},
	} {
		s, st, _ := wellService(t)
		cache, err := bincache.Open(c.dir, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		s.shares.caches, s.shares.cacheDirs, st.Keys = []*bincache.Cache{cache}, []string{c.dir}, c.keys
		h := s.shares.cacheHealth(st)
		if (h == nil) != (c.says == "") || h != nil && (!strings.Contains(h.Text, c.says) || !strings.Contains(h.Text, c.dir) ||
			!h.Degraded()) {
			t.Errorf("%s: health is %+v, want that it says %q", c.name, h, c.says)
		}
	}
}

// What doctor looks at and the service says of itself has one name.
func TestHealthNamesChecks(t *testing.T) {
	var named []string
	for _, ch := range doctor.Checks() {
		named = append(named, ch.Code)
	}
	for _, code := range []string{"keys", "network", "nix", "disk", "neighbours"} {
		if !slices.Contains(named, code) {
			t.Errorf("no check is called %s", code)
		}
	}
}

func TestHealthNamesAKeyThatNeighboursHaveOtherwise(t *testing.T) {
	st := control.Status{Status: p2p.Status{OtherKeys: []peers.KeyMismatch{{Key: "nas-1", Neighbours: []string{idNAS, idLaptop},
		Path: "/nix/store/" + strings.Repeat("a", 32) + "-tool"}}}}
	h := otherKeysHealth(st)
	if h == nil || h.Severity != control.SeverityInfo {
		t.Fatalf("health = %+v, want an info: a neighbour can cause it", h)
	}
	if h.Code != doctor.CodeOtherKeys || !strings.Contains(h.Text, "eighbours sign as nas-1 with another key than nix.conf has") ||
		!strings.Contains(h.Text, "-tool, at 2 neighbours") || !strings.Contains(h.Fix, "trusted-public-keys") {
		t.Errorf("health = %+v", h)
	}
	if h := otherKeysHealth(control.Status{}); h != nil {
		t.Errorf("health without a mismatch = %+v", h)
	}
}

func TestHealthNamesTheRepairOfDamagedPaths(t *testing.T) {
	p := "/nix/store/" + strings.Repeat("a", 32) + "-tool"
	h := damageHealth(control.Status{StoreStatus: control.StoreStatus{Damaged: []damage.Finding{{Path: p, Where: store.Dir,
		Reason: "its content has the hash x, not y"},
		{Path: p + "2", Where: "/cache"}}}})
	if h == nil || h.Severity != control.SeverityWarning || h.Command != "nix-store --verify --check-contents --repair" ||
		!strings.Contains(h.Text, p) || !strings.Contains(h.Title, "2 paths") {
		t.Errorf("health = %+v", h)
	}
	if h := damageHealth(control.Status{StoreStatus: control.StoreStatus{Damaged: []damage.Finding{{Path: p,
		Where: "/cache"}}}}); h == nil || h.Command != "" ||
		!strings.Contains(h.Fix, "/cache") {
		t.Errorf("health of a cache directory = %+v", h)
	}
}

func TestWhyNeverPromisesWhatAnUnreliableNeighbourHas(t *testing.T) {
	claim := ask.Answer{ID: idNAS, Path: "/nix/store/" + strings.Repeat("a", 32) + "-tool", Unreliable: "it has sent a wrong NAR of it"}
	w := control.Why{Neighbours: []ask.Answer{claim}}
	if judge(&w, 1); w.Status != http.StatusNotFound || !strings.Contains(w.Reason, claim.Unreliable) {
		t.Errorf("Nix gets %d: %s", w.Status, w.Reason)
	}
	honest := claim
	honest.Unreliable = ""
	w.Neighbours = append(w.Neighbours, honest)
	if judge(&w, 1); w.Status != http.StatusOK || w.Reason != "1 of 2 neighbours has it" {
		t.Errorf("with another holder Nix gets %d: %s", w.Status, w.Reason)
	}
}

func TestWhySaysThatNeighboursAreTooSlow(t *testing.T) {
	const size = 10 << 30
	holder := ask.Answer{ID: idNAS, Path: "/nix/store/" + strings.Repeat("a", 32) + "-tool", NarSize: size, Rate: 100 << 10}
	w := control.Why{Neighbours: []ask.Answer{holder}}
	judge(&w, 1)
	if w.Status != http.StatusNotFound || !strings.Contains(w.Reason, "from neighbours 1 d 5 h at 100 KiB/s") {
		t.Errorf("Nix gets %d: %s", w.Status, w.Reason)
	}
	w.Neighbours = append(w.Neighbours, ask.Answer{ID: idLaptop, Path: holder.Path, NarSize: size, Rate: 10 << 20})
	if judge(&w, 1); w.Status != http.StatusOK {
		t.Errorf("with a fast holder beside it, Nix gets %d: %s", w.Status, w.Reason)
	}
	w.Neighbours[1].Rate = 0
	if judge(&w, 1); w.Status != http.StatusOK {
		t.Errorf("with a holder of unknown rate beside it, Nix gets %d: %s", w.Status, w.Reason)
	}
	w = control.Why{Neighbours: []ask.Answer{holder}, Upstream: &control.WhyUpstream{Rate: 10 << 20}}
	judge(&w, 1)
	if want := "from neighbours 1 d 5 h at 100 KiB/s, from the upstream 17 min 4 s at 10 MiB/s"; w.Status != http.StatusOK ||
		estimate(w) != want {
		t.Errorf("with an upstream, Nix gets %d, and the estimate is %q, want %q", w.Status, estimate(w), want)
	}
}

// get asks over HTTP.
func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s = %s, %v\n%s", url, resp.Status, err, text)
	}
	return string(text)
}

func TestPageOfARunningNarbor(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")
	cacheDir := t.TempDir()
	_, key := makeClosure(t, cacheDir)
	st := startedAt(t, socket, "--cache-dir", cacheDir, "--trusted-key", key)
	url := "http://" + st.HTTP[0]
	if page := get(t, url+"/"); !strings.Contains(page, "test-1") || !strings.Contains(page, cacheDir) || !strings.Contains(page, version) {
		t.Errorf("the page lacks the key, the directory or the version:\n%s", page)
	}
	if got := get(t, url+"/healthz"); got != "ok\n" {
		t.Errorf("/healthz = %q", got)
	}
	metrics := get(t, url+"/metrics")
	for _, want := range []string{"narbor_build_info{", "narbor_unverified_bytes_served_total 0\n",
		`narbor_rejected_total{reason="bad_signature"} 0`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	out, _, err := narbor(t.Context(), "status", "--json", "--socket", socket)
	var printed control.Status
	if jsonErr := json.Unmarshal([]byte(out), &printed); jsonErr != nil {
		t.Fatal(jsonErr)
	}
	if want := map[bool]int{true: exit.Degraded, false: 0}[len(printed.Faults()) > 0]; exit.Code(err) != want {
		t.Errorf("status = %v with %+v, want exit code %d", err, printed.Health, want)
	}
	for _, h := range printed.Health {
		if line := fmt.Sprintf("narbor_health{code=%q,severity=%q} 1\n", h.Code, h.Severity); !strings.Contains(get(t, url+"/metrics"),
			line) {
			t.Errorf("/metrics has no %s", line)
		}
	}
	steady := func(text string) map[string]any { // without what changes by itself
		var v map[string]any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"uptimeSeconds", "goroutines", "spool", "settled", "health"} {
			if _, there := v[name]; !there {
				t.Errorf("status has no %s", name)
			}
			delete(v, name)
		}
		return v
	}
	for deadline := time.Now().Add(20 * time.Second); ; { // neighbours may change between the two calls
		out, _, _ := narbor(t.Context(), "status", "--json", "--socket", socket)
		api := get(t, url+"/api/v1/status")
		if reflect.DeepEqual(steady(api), steady(out)) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("/api/v1/status is\n%s\nand status --json is\n%s", api, out)
		}
	}
}

func TestNoPage(t *testing.T) {
	st := started(t, "--no-page")
	for path, want := range map[string]int{"/": 404, "/metrics": 404, "/api/v1/status": 404, "/healthz": 404, "/nix-cache-info": 200} {
		resp, err := http.Get("http://" + st.HTTP[0] + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("with --no-page GET %s = %s, want %d", path, resp.Status, want)
		}
	}
}
