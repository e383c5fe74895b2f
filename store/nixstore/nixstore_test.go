package nixstore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"narbor/store"
	"narbor/store/nixstore"
	"narbor/store/storetest"
)

// A nixWorld is a store that Nix's own programs have filled: a tree of every kind of node, a file, and a path as if
// built, with references to the file and to itself, a deriver and two signatures.
type nixWorld struct {
	root, socket      string // root is "" in a namespace of our own
	tree, file, built store.Path
}

func (w nixWorld) config() nixstore.Config {
	return nixstore.Config{Root: w.root, Socket: w.socket}
}

// remote is the store for Nix's programs, without the daemon.
func (w nixWorld) remote() string {
	if w.root == "" {
		return "local"
	}
	return "local?root=" + w.root
}

func (w nixWorld) nix(tb testing.TB, stdin string, args ...string) string {
	tb.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "NIX_REMOTE="+w.remote(), "NIX_CONF_DIR=/nonexistent", "HOME=/nonexistent",
		"NIX_CONFIG=experimental-features = nix-command")
	cmd.Stdin = strings.NewReader(stdin)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("%s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

func (w nixWorld) path(tb testing.TB, s string) store.Path {
	tb.Helper()
	p, err := store.ParsePath(s)
	storetest.Must(tb, err)
	return p
}

// real is where the path's files are.
func (w nixWorld) real(p store.Path) string { return filepath.Join(w.root, p.String()) }

const builtBase = "1rz4g4znpzjwh1xymhjpm42vipw92pr7-built-1.0"

// fill fills the store.
func (w nixWorld) fill(tb testing.TB) nixWorld {
	tb.Helper()
	storetest.NeedNix(tb, "nix", "nix-store", "nix-daemon")
	dir := tb.TempDir()
	storetest.Must(tb, os.Mkdir(dir+"/tree", 0o755))
	w.tree = w.path(tb, w.nix(tb, "", "nix-store", "--add", storetest.Trees["names"](tb, dir+"/tree")))
	storetest.WriteFile(tb, dir+"/file", 300_000, 0o644)
	w.file = w.path(tb, w.nix(tb, "", "nix-store", "--add", dir+"/file"))
	w.built = w.path(tb, store.Dir+"/"+builtBase)
	storetest.WriteFile(tb, w.real(w.built)+"/bin/built", 100_000, 0o755)
	storetest.Must(tb, os.Symlink(w.file.String(), w.real(w.built)+"/link"))
	nar := storetest.Dump(tb, w.real(w.built))
	w.nix(tb, fmt.Sprintf("%s\n%x\n%d\n%s\n2\n%s\n%s\n", w.built, sha256.Sum256(nar), len(nar),
		store.Dir+"/"+strings.Replace(builtBase, "1.0", "1.0.drv", 1), w.file, w.built), "nix-store", "--load-db")
	for _, key := range []string{"first-1", "second-1"} {
		w.nix(tb, "", "nix-store", "--generate-binary-cache-key", key, dir+"/"+key, dir+"/pub")
		w.nix(tb, "", "nix", "store", "sign", "-k", dir+"/"+key, "--store", w.remote(), w.built.String())
	}
	return w
}

// newWorld makes a chroot store with a daemon; it needs no privileges.
func newWorld(tb testing.TB) nixWorld {
	tb.Helper()
	root := tb.TempDir()
	w := nixWorld{root: root, socket: root + "/s"}.fill(tb)
	tb.Cleanup(func() { remove(root) })
	w.startDaemon(tb)
	return w
}

// startDaemon starts nix-daemon and returns what stops it.
func (w nixWorld) startDaemon(tb testing.TB) (stop func()) {
	tb.Helper()
	_ = os.Remove(w.socket)
	cmd := exec.Command("nix-daemon")
	cmd.Env = append(os.Environ(), "NIX_REMOTE="+w.remote(), "NIX_DAEMON_SOCKET_PATH="+w.socket, "NIX_CONF_DIR=/nonexistent")
	storetest.Must(tb, cmd.Start())
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	tb.Cleanup(stop)
	for limit := time.Now().Add(storetest.AtMost(time.Minute)); time.Now().Before(limit); time.Sleep(5 * time.Millisecond) {
		if conn, err := net.Dial("unix", w.socket); err == nil {
			conn.Close()
			return stop
		}
	}
	tb.Fatal("nix-daemon does not listen")
	return nil
}

// remove removes a store. Nix's own processes may still be writing to it for a moment after we hung up.
func remove(root string) {
	for limit := time.Now().Add(storetest.AtMost(10 * time.Second)); time.Now().Before(limit); time.Sleep(20 * time.Millisecond) {
		_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				_ = os.Chmod(path, 0o755)
			}
			return nil
		})
		if os.RemoveAll(root) == nil {
			return
		}
	}
}

func open(tb testing.TB, cfg nixstore.Config) *nixstore.Store {
	tb.Helper()
	n, err := nixstore.Open(tb.Context(), cfg)
	storetest.Must(tb, err)
	tb.Cleanup(func() { n.Close() })
	return n
}

// pathInfoJSON is what nix path-info --json says of a path.
type pathInfoJSON struct {
	Path, NarHash, Deriver, CA string
	NarSize                    int64
	References, Signatures     []string
}

// compare compares it with what we say.
func (want pathInfoJSON) compare(t *testing.T, info store.Info) {
	t.Helper()
	hash, err := store.ParseHash(want.NarHash)
	storetest.Must(t, err)
	refs := make([]string, 0, 2)
	for _, r := range info.References {
		refs = append(refs, r.String())
	}
	slices.Sort(want.References)
	if info.Path.String() != want.Path || info.NarHash != hash || info.NarSize != want.NarSize || info.CA != want.CA ||
		info.Deriver.String() != want.Deriver || !slices.Equal(info.Signatures, want.Signatures) || !slices.Equal(refs, want.References) {
		t.Errorf("Info(%s) = %+v, nix path-info says %+v", want.Path, info, want)
	}
}

func (w nixWorld) check(t *testing.T, n *nixstore.Store) {
	t.Helper()
	for _, p := range []store.Path{w.tree, w.file, w.built} {
		var said []pathInfoJSON
		storetest.Must(t, json.Unmarshal([]byte(w.nix(t, "", "nix", "path-info", "--json", "--store", w.checkStore(), p.String())), &said))
		want := said[0]
		info, err := n.Info(t.Context(), p.HashPart())
		if err != nil {
			t.Fatalf("Info(%s) = %v", p, err)
		}
		want.compare(t, info)
		nar, err := n.NAR(t.Context(), info)
		if err != nil {
			t.Fatalf("NAR(%s) = %v", p, err)
		}
		got, err := io.ReadAll(io.NewSectionReader(nar, 0, nar.Size()))
		if err != nil || !bytes.Equal(got, storetest.Dump(t, w.real(p))) {
			t.Errorf("NAR(%s) has %d bytes, %v, and is not what nix-store dumps", p, len(got), err)
		}
		storetest.Must(t, nar.Close())
		storetest.Must(t, nar.Close()) // no harm in that
	}
	if info, err := n.Info(t.Context(), hpCurl); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Info(absent) = %+v, %v, want ErrNotFound", info, err)
	}
	want := store.SortPaths([]store.Path{w.tree, w.file, w.built})
	if all, err := n.AllValidPaths(t.Context()); err != nil || !slices.Equal(all, want) {
		t.Errorf("AllValidPaths = %v, %v, want %v", all, err, want)
	}
	absent := w.path(t, pathCurl)
	if valid, err := n.ValidPaths(t.Context(), append(want, absent)); err != nil || !slices.Equal(valid, want) {
		t.Errorf("ValidPaths = %v, %v, want %v", valid, err, want)
	}
}

// checkStore is the store to compare with: through the daemon where only that is open to us.
func (w nixWorld) checkStore() string {
	if w.root == "" {
		return "daemon"
	}
	return w.remote()
}

func TestNixStore(t *testing.T) {
	w := newWorld(t)
	w.check(t, open(t, w.config()))
}

// TestNixStoreWithoutDaemon talks to a nix-daemon of our own.
func TestNixStoreWithoutDaemon(t *testing.T) {
	root := t.TempDir()
	t.Cleanup(func() { remove(root) })
	w := nixWorld{root: root}.fill(t)
	n := open(t, w.config())
	w.check(t, n)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Info(ctx, w.file.HashPart()); !errors.Is(err, context.Canceled) {
		t.Errorf("Info = %v, want Canceled", err)
	}
	storetest.Must(t, n.Close())
	if _, err := n.Info(t.Context(), w.file.HashPart()); err == nil {
		t.Errorf("Info after Close succeeds")
	}
}

// TestNixStoreBrokenChild gives the child a database it cannot read.
func TestNixStoreBrokenChild(t *testing.T) {
	storetest.NeedNix(t, "nix-daemon")
	root := t.TempDir()
	storetest.Must(t, os.MkdirAll(root+"/nix/store", 0o755))
	storetest.Must(t, os.MkdirAll(root+"/nix/var/nix/db/db.sqlite", 0o755))
	n, err := nixstore.Open(t.Context(), nixstore.Config{Root: root})
	if err == nil {
		n.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "the owner of the store can use, fails: ") ||
		!strings.Contains(err.Error(), "\"error: ") {
		t.Errorf("Open with a broken database = %v, want what nix-daemon prints", err)
	}
}

func TestNixDaemonRestarts(t *testing.T) {
	root := t.TempDir()
	t.Cleanup(func() { remove(root) })
	w := nixWorld{root: root, socket: root + "/s"}.fill(t)
	stop := w.startDaemon(t)
	n := open(t, w.config())
	info, err := n.Info(t.Context(), w.file.HashPart())
	storetest.Must(t, err)
	nar, err := n.NAR(t.Context(), info)
	storetest.Must(t, err)
	defer nar.Close()
	stop()
	w.startDaemon(t)
	again, err := n.NAR(t.Context(), info)
	if err != nil {
		t.Fatalf("NAR after a restart = %v", err)
	}
	again.Close()
}

// TestOpenArchiveIsNotCollected deletes a path with Nix's own program while it is open, and after it was closed.
func TestOpenArchiveIsNotCollected(t *testing.T) {
	w := newWorld(t)
	n := open(t, w.config())
	info, err := n.Info(t.Context(), w.tree.HashPart())
	storetest.Must(t, err)
	nar, err := n.NAR(t.Context(), info)
	storetest.Must(t, err)
	if out, err := w.delete(w.tree); err == nil || !strings.Contains(out, "alive") {
		t.Fatalf("nix-store --delete of an open path = %v: %s, want a refusal", err, out)
	}
	if _, err := nar.ReadAt(make([]byte, 1000), 1000); err != nil {
		t.Errorf("ReadAt = %v", err)
	}
	storetest.Must(t, nar.Close())
	storetest.Must(t, n.Close())
	out, err := w.delete(w.tree)
	for limit := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(limit); { // another process lets go of the root
		out, err = w.delete(w.tree)
	}
	if err != nil {
		t.Fatalf("nix-store --delete of a closed path = %v: %s", err, out)
	}
	n = open(t, w.config())
	if nar, err := n.NAR(t.Context(), info); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("NAR of a deleted path = %v, %v, want ErrNotFound", nar, err)
	}
	if got, err := n.Info(t.Context(), info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Info of a deleted path = %v, %v, want ErrNotFound", got, err)
	}
}

func (w nixWorld) delete(p store.Path) (string, error) {
	cmd := exec.Command("nix-store", "--delete", p.String())
	cmd.Env = append(os.Environ(), "NIX_REMOTE="+w.remote())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestNARRefuses(t *testing.T) {
	w := newWorld(t)
	n := open(t, w.config())
	info, err := n.Info(t.Context(), w.file.HashPart())
	storetest.Must(t, err)
	other := info
	other.NarHash[0]++
	if _, err := n.NAR(t.Context(), other); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("NAR with another NarHash = %v, want ErrNotFound", err)
	}
	for _, d := range []int64{-8, 8} {
		other = info
		other.NarSize += d
		for range 2 { // the second time, a layout may be remembered
			if _, err := n.NAR(t.Context(), other); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("NAR with NarSize %+d = %v, want ErrCorrupt", d, err)
			}
		}
		nar, err := n.NAR(t.Context(), info)
		storetest.Must(t, err)
		nar.Close()
	}
	// The file no longer has the size in the database.
	storetest.Must(t, os.Chmod(w.real(w.file), 0o644))
	storetest.Must(t, os.Truncate(w.real(w.file), 299_900))
	n = open(t, w.config())
	if nar, err := n.NAR(t.Context(), info); err == nil {
		_, err = nar.ReadAt(make([]byte, 300_000), 0)
		if !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("reading a file that is shorter = %v, want ErrCorrupt", err)
		}
		nar.Close()
	} else if !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("NAR of a file that is shorter = %v, want ErrCorrupt", err)
	}
}

// TestRootsAreReleased counts the connections of a daemon in memory, in a time of our own.
func TestRootsAreReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTwin()
		n := nixstore.NewNixOn(func() net.Conn {
			client, server := net.Pipe()
			go d.serve(server)
			return client
		})
		expect := func(when string, open, made int32) {
			t.Helper()
			synctest.Wait()
			if d.open.Load() != open || d.conns.Load() != made {
				t.Errorf("%s: %d connections open, %d made, want %d and %d", when, d.open.Load(), d.conns.Load(), open, made)
			}
		}
		ctx := context.Background()
		p, err := store.ParsePath(pathCurl)
		storetest.Must(t, err)
		storetest.Must(t, n.Hold(ctx, p))
		storetest.Must(t, n.Hold(ctx, p))
		expect("held", 1, 1)
		n.Release(p)
		time.Sleep(30 * time.Minute)
		expect("held once", 1, 1)
		n.Release(p)
		time.Sleep(6 * time.Second)
		expect("released", 0, 1)
		storetest.Must(t, n.Hold(ctx, p))
		n.Release(p)
		time.Sleep(4 * time.Second)
		storetest.Must(t, n.Hold(ctx, p))
		time.Sleep(30 * time.Second)
		expect("held again in time", 1, 2)
		for range 5000 {
			storetest.Must(t, n.Hold(ctx, p))
			n.Release(p)
		}
		expect("many roots left over", 1, 6)
		n.Release(p)
		time.Sleep(6 * time.Second)
		expect("released again", 0, 6)
		storetest.Must(t, n.Hold(ctx, p))
		time.Sleep(2 * time.Hour)
		storetest.Must(t, n.Hold(ctx, p))
		expect("an old connection", 1, 8)
		n.Close()
		expect("closed", 0, 8)
		if err := n.Hold(ctx, p); err == nil {
			t.Error("Hold after Close succeeds")
		}
	})
}

func BenchmarkNix(b *testing.B) {
	w := newWorld(b)
	n := open(b, w.config())
	b.Run("Info", func(b *testing.B) {
		for b.Loop() {
			if _, err := n.Info(b.Context(), w.built.HashPart()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("QueryPathFromHashPart", func(b *testing.B) { // which is all that happens for a path we do not have
		for b.Loop() {
			if _, err := n.Info(b.Context(), hpCurl); !errors.Is(err, store.ErrNotFound) {
				b.Fatal(err)
			}
		}
	})
	b.Run("AddTempRoot", func(b *testing.B) {
		for b.Loop() {
			storetest.Must(b, n.Hold(b.Context(), w.built))
			n.Release(w.built)
		}
	})
	b.Run("NAR", func(b *testing.B) {
		info, err := n.Info(b.Context(), w.built.HashPart())
		storetest.Must(b, err)
		for b.Loop() {
			nar, err := n.NAR(b.Context(), info)
			storetest.Must(b, err)
			nar.Close()
		}
	})
}
