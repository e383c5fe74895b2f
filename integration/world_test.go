package integration_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"narbor/integration/corpus"
	"narbor/integration/lan"
	"narbor/store"
)

// programs is a directory with narbor and hostile, or says why there is none. It is set once, by TestMain.
var programs struct {
	dir string
	err error
}

// narbor is where hosts have the program.
const narbor = "/opt/narbor"

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "narbor-programs-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	programs.dir = dir
	cmd := exec.Command("go", "build", "-o", dir, "narbor/cmd/narbor", "narbor/integration/hostile")
	if os.Geteuid() == 0 { // hosts have no C library; without hosts, nothing is compiled twice
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		programs.err = fmt.Errorf("go build: %w\n%s", err, out)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		programs.err = errors.Join(programs.err, err)
	}
	defer worked.print()
	return m.Run()
}

// A world is a LAN with a test's deadline.
type world struct {
	*testing.T
	lan *lan.LAN
	ctx context.Context
}

// needsLAN skips the test if no LAN can be made.
func needsLAN(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		unable(t, "a LAN of namespaces needs root")
	}
	for _, tool := range []string{"ip", "tc", "nft", "nix-store", "nix-daemon", "nginx", "curl", "apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			unable(t, err.Error())
		}
	}
}

func newWorld(t *testing.T) world {
	t.Helper()
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	needsLAN(t)
	l, err := lan.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), lan.AtMost(3*time.Minute))
	w := world{T: t, lan: l, ctx: ctx}
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			w.printLogs()
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// unable skips on a user's machine; where nothing may be left out, it fails.
func unable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func (w world) printLogs() {
	logs, err := w.lan.Logs()
	if err != nil {
		w.Error(err)
	}
	for _, name := range logs {
		text, err := os.ReadFile(name)
		if err != nil {
			w.Error(err)
		}
		lines := strings.SplitAfter(string(text), "\n")
		w.Logf("---- end of %s:\n%s", filepath.Base(name), strings.Join(lines[max(0, len(lines)-40):], ""))
	}
}

// must ends the test if something that is no part of what it tests went wrong.
func (w world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w world) corpus(spec corpus.Spec) *corpus.Corpus {
	w.Helper()
	c, err := corpus.Open(w.Context(), spec, func(s string) { w.Log(s) })
	w.must(err)
	return c
}

// host adds a machine with nix-daemon. Its Nix trusts the corpus' key; conf is added to its nix.conf.
func (w world) host(cfg lan.HostConfig, conf ...string) *lan.Host {
	w.Helper()
	if cfg.Binds == nil {
		cfg.Binds = map[string]string{}
	}
	cfg.Binds["opt"] = programs.dir
	h, err := w.lan.Add(cfg)
	w.must(err)
	w.must(h.Configure(append([]string{"extra-trusted-public-keys = " + corpus.PublicKey()}, conf...)...))
	_, err = h.StartNixDaemon()
	w.must(err)
	return h
}

// sharing adds a machine that has the corpus and runs narbor.
func (w world) sharing(name string, c *corpus.Corpus) (*lan.Host, *lan.Process) {
	w.Helper()
	h := w.host(lan.HostConfig{Name: name, Nix: c.Nix}, "substituters =")
	return h, w.start(h)
}

// fetching adds a machine with an empty store that runs narbor and asks it first, and then the other substituters.
func (w world) fetching(name string, others ...string) (*lan.Host, *lan.Process) {
	w.Helper()
	substituters := append([]string{lan.Substituter}, others...)
	h := w.host(lan.HostConfig{Name: name}, "substituters = "+strings.Join(substituters, " "))
	return h, w.start(h)
}

// upstream adds a machine with an nginx that serves the corpus.
func (w world) upstream(c *corpus.Corpus) (*lan.Host, string) {
	w.Helper()
	h, err := w.lan.Add(lan.HostConfig{Name: "upstream", Binds: map[string]string{"srv/cache": c.Cache}})
	w.must(err)
	_, url, err := h.StartNginx("/srv/cache")
	w.must(err)
	return h, url
}

func (w world) start(h *lan.Host, args ...string) *lan.Process {
	w.Helper()
	p, err := h.StartNarbor(narbor, args...)
	w.must(err)
	return p
}

func (w world) status(h *lan.Host) lan.Status {
	w.Helper()
	s, err := h.Status(w.ctx, narbor)
	w.must(err)
	return s
}

func (w world) neighbours(h *lan.Host, n int) lan.Status {
	w.Helper()
	s, err := h.WaitNeighbours(w.ctx, narbor, n)
	w.must(err)
	return s
}

// realise lets Nix fetch, and ends the test if Nix fails. It is an error if Nix was harmed.
func (w world) realise(h *lan.Host, paths ...string) {
	w.Helper()
	w.begin(h, paths...).end()
}

// A realisation is Nix fetching in the background.
type realisation struct {
	w    world
	h    *lan.Host
	done chan struct{} // closed once the rest is set
	said string
	took time.Duration
	err  error
}

// begin lets Nix fetch while the test does something else.
func (w world) begin(h *lan.Host, paths ...string) *realisation {
	r := &realisation{w: w, h: h, done: make(chan struct{})}
	start := time.Now()
	go func() { // ends with the host at the latest, and does not touch the test, which may have ended before
		r.said, r.err = h.Realise(w.ctx, paths...)
		r.took = time.Since(start).Round(time.Millisecond)
		close(r.done)
	}()
	return r
}

// end waits for Nix.
func (r *realisation) end() {
	r.w.Helper()
	<-r.done
	r.w.must(r.err)
	r.w.Logf("%s: fetched in %s", r.h.Name, r.took)
	r.w.noHarm(r.h, r.said)
}

// noHarm reads what Nix said: it must have been given no wrong byte, and nothing that makes old versions give up.
func (w world) noHarm(h *lan.Host, said string) {
	w.Helper()
	for _, bad := range []string{"hash mismatch", "Nix archive", "is incomplete", "HTTP error 5", "HTTP error 400"} {
		if _, rest, found := strings.Cut(said, bad); found {
			rest, _, _ = strings.Cut(rest, "\n")
			w.Errorf("%s: Nix says %d times: %s%s", h.Name, strings.Count(said, bad), bad, rest)
		}
	}
}

// whole checks that the host has the path with all that it refers to, as the corpus has it, and nothing broken.
func (w world) whole(h *lan.Host, c *corpus.Corpus, top string) {
	w.Helper()
	paths, err := h.Requisites(w.ctx, top)
	w.must(err)
	if top == c.Top.String() && len(paths) != len(c.Infos) {
		w.Errorf("%s: the closure has %d paths, want %d", h.Name, len(paths), len(c.Infos))
	}
	hashes, err := h.Hashes(w.ctx, paths...)
	w.must(err)
	for i, p := range paths {
		j := slices.IndexFunc(c.Infos, func(info store.Info) bool { return info.Path.String() == p })
		if j < 0 {
			w.Errorf("%s: %s is not in the corpus", h.Name, p)
		} else if hashes[i] != c.Infos[j].NarHash.String() {
			w.Errorf("%s: %s is %s, want %s", h.Name, p, hashes[i], c.Infos[j].NarHash)
		}
	}
	if err := h.Verify(w.ctx); err != nil {
		w.Errorf("nix-store --verify --check-contents: %v", err)
	}
}

// nars returns the paths of the archives that nginx on h was asked for.
func (w world) nars(h *lan.Host) []string {
	w.Helper()
	reqs, err := h.NginxRequests()
	w.must(err)
	var nars []string
	for _, r := range reqs {
		if strings.HasPrefix(r.Path, "/nar/") {
			nars = append(nars, r.Path)
		}
	}
	return nars
}

// until waits until the host's narbor has a status that ok agrees to.
func (w world) until(h *lan.Host, what string, ok func(lan.Status) bool) lan.Status {
	w.Helper()
	for deadline := time.Now().Add(lan.AtMost(30 * time.Second)); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if s, err := h.Status(w.ctx, narbor); err == nil && ok(s) {
			return s
		}
	}
	w.Fatalf("%s: never %s", h.Name, what)
	return lan.Status{}
}

// received counts the blocks that came from all neighbours.
func received(s lan.Status) int64 {
	var n int64
	for _, nb := range s.Neighbours {
		n += nb.BlocksReceived
	}
	return n
}

// at says whether a multiaddr is one of the host's.
func at(addr string, h *lan.Host) bool {
	addr += "/" // the port may be missing
	return strings.Contains(addr, "/"+h.Addr4.String()+"/") || strings.Contains(addr, "/"+h.Addr6.String()+"/")
}

// references returns what the path refers to, other than itself.
func references(info store.Info) []string {
	var refs []string
	for _, r := range info.References {
		if r != info.Path {
			refs = append(refs, r.String())
		}
	}
	return refs
}
