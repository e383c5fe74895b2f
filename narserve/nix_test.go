package narserve_test

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"narbor/narserve"
	"narbor/store"
	"narbor/store/storetest"
	"narbor/trust"
)

// A nixClient is a real Nix with a store, a configuration and caches of its own.
type nixClient struct {
	root string
	env  []string
}

// newNixClient skips the test where there is no Nix.
func newNixClient(t *testing.T, publicKey string, substituters ...string) nixClient {
	t.Helper()
	if _, err := exec.LookPath("nix-store"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("nix-store is not in PATH, and must be under CI=true")
		}
		t.Skip("nix-store is not in PATH")
	}
	dir := t.TempDir()
	t.Cleanup(func() { makeWritable(dir) }) // before t.TempDir's own
	conf := "trusted-public-keys = " + publicKey + "\nbuild-users-group =\nsandbox = false\nsubstituters ="
	for _, s := range substituters {
		conf += " " + s
	}
	for name, text := range map[string]string{"conf/nix.conf": conf + "\n", "home/.keep": "", "cache/.keep": ""} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return nixClient{root: filepath.Join(dir, "root"), env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir + "/home",
		"XDG_CACHE_HOME=" + dir + "/cache", "XDG_CONFIG_HOME=" + dir + "/home", "NIX_CONF_DIR=" + dir + "/conf", "NIX_REMOTE="}}
}

// makeWritable lets t.TempDir delete what Nix has made read-only.
func makeWritable(dir string) {
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return err
	})
}

// run runs a Nix command and returns what it prints.
func (c nixClient) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = c.env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// wantPath checks that the client's store holds the file of a NAR that info's path is.
func (c nixClient) wantPath(t *testing.T, info store.Info, nar []byte) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(c.root, info.Path.String()))
	if err != nil {
		t.Error(err)
	} else if !bytes.Equal(fileNAR(got), nar) {
		t.Errorf("%s: other contents", info.Path)
	}
	if out, err := c.run(t, "nix-store", "--store", c.root, "--verify-path", info.Path.String()); err != nil {
		t.Errorf("nix-store --verify-path: %v\n%s", err, out)
	}
}

// afterServing waits until a server has served that many NARs, because it counts each when Nix has it, and returns its
// figures.
func afterServing(s *narserve.Server, nars int64) narserve.Stats {
	for limit := time.Now().Add(storetest.AtMost(10 * time.Second)); s.Stats().NarsServed < nars && time.Now().Before(limit); {
		time.Sleep(time.Millisecond)
	}
	return s.Stats()
}

func TestRealNixSubstitutes(t *testing.T) {
	w := newWorld(t)
	leaf, leafNAR := w.add(t, "leaf", 100)
	big, bigNAR := w.add(t, "big", 20<<20, leaf.Path)
	top, topNAR := w.add(t, "top", 5000, leaf.Path, big.Path)
	s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys})
	c := newNixClient(t, w.publicKey(), "http://"+startServer(t, s))
	if out, err := c.run(t, "nix-store", "--store", c.root, "-r", top.Path.String()); err != nil {
		t.Fatalf("nix-store -r: %v\n%s", err, out)
	}
	c.wantPath(t, leaf, leafNAR)
	c.wantPath(t, big, bigNAR)
	c.wantPath(t, top, topNAR)
	if st := afterServing(s, 3); st.NarinfoHits != 3 || st.NarinfoMisses != 0 || st.NarsServed != 3 {
		t.Errorf("Stats = %+v, want 3 narinfos and 3 NARs", st)
	}
	for limit := time.Now().Add(storetest.AtMost(10 * time.Second)); w.spool.Stats().Entries > 0 && time.Now().Before(limit); {
		time.Sleep(time.Millisecond)
	}
	if st := w.spool.Stats(); st.Entries != 0 {
		t.Errorf("Nix has everything, and the spool still has %d entries", st.Entries)
	}
}

func TestRealNixCopies(t *testing.T) {
	w := newWorld(t)
	leaf, leafNAR := w.add(t, "leaf", 100)
	top, topNAR := w.add(t, "top", 5000, leaf.Path)
	addr := startServer(t, narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys}))
	c := newNixClient(t, w.publicKey())
	if out, err := c.run(t, "nix", "--extra-experimental-features", "nix-command", "copy", "--from", "http://"+addr, "--to", c.root,
		top.Path.String()); err != nil {
		t.Fatalf("nix copy: %v\n%s", err, out)
	}
	c.wantPath(t, leaf, leafNAR)
	c.wantPath(t, top, topNAR)
}

// TestRealNixFallsThrough has the first substituter lack a path, lose one after its narinfo, find one corrupt, and
// panic; the second has all.
func TestRealNixFallsThrough(t *testing.T) {
	first, second := newWorld(t), newWorld(t)
	first.secret, first.keys = second.secret, second.keys
	absent, absentNAR := second.add(t, "absent", 3000)
	lost, lostNAR := second.add(t, "lost", 3000)
	corrupt, corruptNAR := second.add(t, "corrupt", 3000)
	cursed, cursedNAR := second.add(t, "cursed", 3000)
	first.mem.Add(lost, nil)
	first.mem.Add(corrupt, make([]byte, len(corruptNAR)))
	src := &probe{inner: first.local()}
	src.lookup = func(ctx context.Context, hp store.HashPart) (trust.Mapping, error) {
		if hp == cursed.Path.HashPart() {
			panic("at the disco")
		}
		return src.inner.Lookup(ctx, hp)
	}
	one := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: first.keys})
	two := narserve.New(narserve.Config{Sources: []narserve.Source{second.local()}, Keys: second.keys})
	c := newNixClient(t, second.publicKey(), "http://"+startServer(t, one), "http://"+startServer(t, two))
	out, err := c.run(t, "nix-store", "--store", c.root, "-r", absent.Path.String(), lost.Path.String(), corrupt.Path.String(),
		cursed.Path.String())
	if err != nil {
		t.Fatalf("nix-store -r: %v\n%s", err, out)
	}
	c.wantPath(t, absent, absentNAR)
	c.wantPath(t, lost, lostNAR)
	c.wantPath(t, corrupt, corruptNAR)
	c.wantPath(t, cursed, cursedNAR)
	if st := one.Stats(); st.NarinfoHits != 2 || st.NarinfoMisses != 2 || st.NarBytesServed != 0 {
		t.Errorf("the first: %+v, want 2 hits, 2 misses and not a byte", st)
	}
	if st := afterServing(two, 4); st.NarsServed != 4 {
		t.Errorf("the second: %+v, want 4 NARs", st)
	}
}

// TestRealNixNeverSeesAMalformedNAR has a signed path with a NAR that would put a file beside the store path. The next
// substituter has a good one.
func TestRealNixNeverSeesAMalformedNAR(t *testing.T) {
	first, second := newWorld(t), newWorld(t)
	first.secret, first.keys = second.secret, second.keys
	good, nar := second.add(t, "sometimes-evil", 3000)
	first.addNAR(t, "sometimes-evil", evilNAR())
	onlyEvil := first.addNAR(t, "only-evil", evilNAR())
	one := narserve.New(narserve.Config{Sources: []narserve.Source{first.local()}, Keys: first.keys})
	two := narserve.New(narserve.Config{Sources: []narserve.Source{second.local()}, Keys: second.keys})
	c := newNixClient(t, second.publicKey(), "http://"+startServer(t, one), "http://"+startServer(t, two))
	if out, err := c.run(t, "nix-store", "--store", c.root, "-r", good.Path.String()); err != nil {
		t.Fatalf("nix-store -r: %v\n%s", err, out)
	}
	c.wantPath(t, good, nar)
	if out, err := c.run(t, "nix-store", "--store", c.root, "-r", onlyEvil.Path.String()); err == nil {
		t.Errorf("nix-store -r of a path that no other host has went well:\n%s", out)
	}
	if st := one.Stats(); st.NarinfoHits != 2 || st.NarBytesServed != 0 {
		t.Errorf("the first: %+v, want 2 hits and not a byte", st)
	}
}

// TestRealNixResumes has the connection break in the middle of the first reply to each NAR request.
func TestRealNixResumes(t *testing.T) {
	w := newWorld(t)
	info, nar := w.add(t, "big", 4<<20)
	s := narserve.New(narserve.Config{Sources: []narserve.Source{w.local()}, Keys: w.keys})
	var ranges []string
	addr := startHandler(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == narPath(info) {
			ranges = append(ranges, r.Header.Get("Range"))
			if len(ranges) == 1 {
				rw = &cutWriter{ResponseWriter: rw, rest: 1 << 20}
			}
		}
		s.ServeHTTP(rw, r)
	}))
	c := newNixClient(t, w.publicKey(), "http://"+addr)
	if out, err := c.run(t, "nix-store", "--store", c.root, "-r", info.Path.String()); err != nil {
		t.Fatalf("nix-store -r: %v\n%s", err, out)
	}
	c.wantPath(t, info, nar)
	if len(ranges) != 2 || ranges[0] != "" || ranges[1] == "" {
		t.Errorf("Nix asked for the ranges %q, want the whole and then the rest", ranges)
	}
}

// A cutWriter breaks off after rest bytes.
type cutWriter struct {
	http.ResponseWriter
	rest int
}

func (w *cutWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *cutWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p[:min(len(p), w.rest)])
	if w.rest -= n; err == nil && n < len(p) {
		err = errBroken
	}
	return n, err
}
