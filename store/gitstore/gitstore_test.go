package gitstore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"narbor/store"
	"narbor/store/gitstore"
	"narbor/store/nar"
)

// A repo is a bare repository of the test.
type repo struct {
	testing.TB
	dir string
}

func newRepo(t testing.TB, args ...string) repo {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("needs git")
	}
	r := repo{t, filepath.Join(t.TempDir(), "repo.git")}
	must(t, os.Mkdir(r.dir, 0o700))
	r.git("", append([]string{"init", "-q", "--bare"}, args...)...)
	return r
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// git runs git in the repository.
func (r repo) git(input string, args ...string) string {
	r.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Stdin = r.dir, strings.NewReader(input)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@a",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@a", "GIT_AUTHOR_DATE=1700000000 +0000", "GIT_COMMITTER_DATE=1700000000 +0000")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r repo) blob(text string) string { return r.git(text, "hash-object", "-w", "--stdin") }

// tree makes a tree of lines "<mode> <type> <id>\t<name>".
func (r repo) tree(lines ...string) string {
	return r.git(strings.Join(lines, "\n"), "mktree")
}

// raw writes an object as it is, however wrong.
func (r repo) raw(kind, body string) string {
	return r.git(body, "hash-object", "-w", "--literally", "-t", kind, "--stdin")
}

func (r repo) commit(ref, tree string, parents ...string) string {
	args := []string{"commit-tree", "-m", "x", tree}
	for _, p := range parents {
		args = append(args, "-p", p)
	}
	id := r.git("", args...)
	r.git("", "update-ref", ref, id)
	return id
}

// sampleTree has files of all kinds.
func (r repo) sampleTree() string {
	one, script, target, empty := r.blob("one\n"), r.blob("#!/bin/sh\n"), r.blob("a/b"), r.blob("")
	inner := r.tree("100644 blob "+one+"\tdeep", "100755 blob "+script+"\trun")
	return r.tree("100644 blob "+one+"\ta.b", "040000 tree "+inner+"\ta", "100644 blob "+empty+"\tempty", "120000 blob "+target+"\tlink",
		"040000 tree "+r.tree()+"\tnothing", "100644 blob "+r.blob(strings.Repeat("large ", 100_000))+"\tlarge")
}

func patterns(t testing.TB, texts ...string) (ps []gitstore.Pattern) {
	t.Helper()
	for _, text := range texts {
		p, err := gitstore.ParsePattern(text)
		must(t, err)
		ps = append(ps, p)
	}
	return ps
}

// A running source tells of its status.
type running struct {
	*gitstore.Store
	changed chan gitstore.Status
}

func run(t testing.TB, cfg gitstore.Config) running {
	t.Helper()
	if cfg.Refs == nil {
		cfg.Refs = patterns(t, "refs/heads/*")
	}
	if cfg.State == "" {
		cfg.State = t.TempDir()
	}
	r := running{changed: make(chan gitstore.Status, 100)}
	cfg.Changed = func(st gitstore.Status) { r.changed <- st }
	s, err := gitstore.Open(cfg)
	must(t, err)
	r.Store = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

// next returns the status after the next look at the refs.
func (r running) next(t testing.TB) gitstore.Status {
	t.Helper()
	select {
	case st := <-r.changed:
		return st
	case <-time.After(2 * time.Minute):
		t.Fatalf("the refs are not looked at: %+v", r.Status())
	}
	panic("unreachable")
}

// checkout writes a tree to disk, and returns its archive.
func (r repo) checkout(tree string) []byte {
	r.Helper()
	dir := r.TempDir()
	path, err := store.ParsePathName("syd87l2rxw8cbsxmxl853h0r6pdwhwjr-source")
	must(r, err)
	must(r, os.Mkdir(filepath.Join(dir, path.Base()), 0o700))
	work := filepath.Join(dir, path.Base())
	r.git("", "--work-tree="+work, "read-tree", tree)
	r.git("", "--work-tree="+work, "-c", "core.bare=false", "checkout-index", "-a")
	must(r, os.MkdirAll(filepath.Join(work, "nothing"), 0o700)) // git makes no empty folders
	for size := int64(store.MaxNarSize); ; {
		tree, err := nar.NewLayouts().Open(r.Context(), dir, store.Info{Path: path, NarSize: size})
		if err == nil {
			defer tree.Close()
			b, err := io.ReadAll(io.NewSectionReader(tree, 0, size))
			must(r, err)
			return b
		}
		_, said, _ := strings.Cut(err.Error(), "its archive has ")
		if _, scanErr := fmt.Sscanf(said, "%d bytes", &size); scanErr != nil {
			r.Fatal(err)
		}
	}
}

// infoOf returns the claim for a tree with that archive.
func infoOf(archive []byte) store.Info {
	sum := store.Hash(sha256.Sum256(archive))
	path, err := store.ParsePathName(string(store.MakeHashPart("source", string(sum[:]), "source")) + "-source")
	if err != nil {
		panic(err)
	}
	return store.Info{Path: path, NarHash: sum, NarSize: int64(len(archive)), CA: "fixed:r:" + sum.String()}
}

func TestTreesAreTheArchivesOfTheirCheckouts(t *testing.T) {
	for _, format := range []string{"sha1", "sha256"} {
		t.Run(format, func(t *testing.T) {
			r := newRepo(t, "--object-format="+format)
			tree := r.sampleTree()
			r.commit("refs/heads/main", tree)
			r.git("", "gc", "-q")
			want := r.checkout(tree)
			must(t, nar.Check(bytes.NewReader(want), int64(len(want))))
			s := run(t, gitstore.Config{Dir: r.dir})
			if st := s.next(t); st.Err != nil || st.Trees != 1 || st.Refused != 0 || st.Waiting != 0 {
				t.Fatalf("status = %+v", st)
			}
			info := infoOf(want)
			got, err := s.Info(t.Context(), info.Path.HashPart())
			if err != nil || got.String() != info.String() || !got.Fetched {
				t.Fatalf("Info = %v, %v, want %v", got, err, info)
			}
			n, err := s.NAR(t.Context(), got)
			must(t, err)
			defer n.Close()
			b, err := io.ReadAll(io.NewSectionReader(n, 0, n.Size()))
			if err != nil || !bytes.Equal(b, want) {
				t.Errorf("the archive has %d bytes, %v, or other ones than the checkout's", len(b), err)
			}
		})
	}
}
