package gitstore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"narbor/store"
	"narbor/store/gitstore"
	"narbor/store/storetest"
)

// entry is one of a raw tree object: the ID is that of an empty blob.
func entry(r repo, mode, name string) string {
	id := r.blob("")
	var raw strings.Builder
	for i := 0; i < len(id); i += 2 {
		var b byte
		fmt.Sscanf(id[i:i+2], "%02x", &b)
		raw.WriteByte(b)
	}
	return mode + " " + name + "\x00" + raw.String()
}

// rawCommit makes a commit of a tree that git commit-tree would look at.
func (r repo) rawCommit(tree string) string {
	return r.raw("commit", "tree "+tree+"\nauthor a <a@a> 1 +0000\ncommitter a <a@a> 1 +0000\n\nx\n")
}

// Trees that git does not write, and those beyond the limits, are refused with a reason, and nothing else suffers.
func TestHostileObjects(t *testing.T) {
	for name, build := range map[string]func(r repo) string{
		"dot":            func(r repo) string { return r.raw("tree", entry(r, "100644", ".")) },
		"dots":           func(r repo) string { return r.raw("tree", entry(r, "100644", "..")) },
		"slash":          func(r repo) string { return r.raw("tree", entry(r, "100644", "a/b")) },
		"git folder":     func(r repo) string { return r.raw("tree", entry(r, "100644", ".GIT")) },
		"no name":        func(r repo) string { return r.raw("tree", entry(r, "100644", "")) },
		"long name":      func(r repo) string { return r.raw("tree", entry(r, "100644", strings.Repeat("x", 256))) },
		"mode":           func(r repo) string { return r.raw("tree", entry(r, "100600", "a")) },
		"mode of a pipe": func(r repo) string { return r.raw("tree", entry(r, "10000", "a")) },
		"mode, padded":   func(r repo) string { return r.raw("tree", entry(r, "040000", "a")) },
		"order":          func(r repo) string { return r.raw("tree", entry(r, "100644", "b")+entry(r, "100644", "a")) },
		"duplicate":      func(r repo) string { return r.raw("tree", entry(r, "100644", "a")+entry(r, "100644", "a")) },
		"file and folder": func(r repo) string {
			return r.tree("100644 blob "+r.blob("")+"\ta", "100644 blob "+r.blob("")+"\ta.b", "040000 tree "+r.tree()+"\ta")
		},
		"truncated":     func(r repo) string { return r.raw("tree", entry(r, "100644", "a")[:20]) },
		"no NUL":        func(r repo) string { return r.raw("tree", "100644 a") },
		"blob as tree":  func(r repo) string { return r.raw("tree", entry(r, "40000", "a")) },
		"empty symlink": func(r repo) string { return r.raw("tree", entry(r, "120000", "a")) },
		"symlink with NUL": func(r repo) string {
			return r.tree("120000 blob " + r.raw("blob", "a\x00b") + "\ta")
		},
		"missing": func(r repo) string {
			return r.git("100644 blob "+strings.Repeat("1", 40)+"\ta", "mktree", "--missing")
		},
		"large file": func(r repo) string {
			return r.tree("100644 blob " + r.blob(strings.Repeat("x", 33<<20)) + "\ta")
		},
		"bomb": func(r repo) string {
			tree := r.tree("100644 blob " + r.blob("") + "\ta")
			for range 12 {
				var lines []string
				for i := range 10 {
					lines = append(lines, fmt.Sprintf("040000 tree %s\t%d", tree, i))
				}
				tree = r.tree(lines...)
			}
			return tree
		},
		"deep": func(r repo) string {
			tree := r.tree("100644 blob " + r.blob("") + "\ta")
			for range 64 {
				tree = r.tree("040000 tree " + tree + "\td")
			}
			return tree
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRepo(t)
			r.git("", "config", "core.protectNTFS", "false")
			good := r.sampleTree()
			r.commit("refs/heads/good", good)
			bad := build(r)
			r.git("", "update-ref", "refs/heads/bad", r.rawCommit(bad))
			s := run(t, gitstore.Config{Dir: r.dir})
			if st := s.next(t); st.Trees != 1 || st.Refused != 1 || st.Waiting != 0 {
				t.Errorf("status = %+v, want one tree that is shared, and one that is refused", st)
			}
			if _, err := s.Info(t.Context(), infoOf(r.checkout(good)).Path.HashPart()); err != nil {
				t.Errorf("the other tree is not shared: %v", err)
			}
		})
	}
}

// Trees of which others have another content are refused, and the reason is told by their path.
func TestRefusedTrees(t *testing.T) {
	for name, tt := range map[string]struct {
		build func(r repo) string
		why   string
	}{
		"export-subst": {func(r repo) string {
			return r.tree("100644 blob " + r.blob("# x\n*.txt text export-subst\n") + "\t.gitattributes")
		}, "export-subst"},
		"export-ignore in a folder": {func(r repo) string {
			return r.tree("040000 tree " + r.tree("100644 blob "+r.blob("/x export-ignore\n")+"\t.gitattributes") + "\tdir")
		}, "export-ignore"},
		"LFS": {func(r repo) string {
			return r.tree("100644 blob " + r.blob("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n") + "\ta")
		}, "LFS"},
		"submodule": {func(r repo) string {
			return r.git("160000 commit "+strings.Repeat("1", 40)+"\tnothing", "mktree", "--missing")
		}, "submodule"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepo(t)
			tree := tt.build(r)
			r.commit("refs/heads/main", tree)
			s := run(t, gitstore.Config{Dir: r.dir})
			if st := s.next(t); st.Refused != 1 || st.Trees != 0 {
				t.Fatalf("status = %+v", st)
			}
			archive := r.checkout(tree)
			if name != "submodule" { // checkout adds an empty folder called nothing
				archive = nil
			}
			if archive == nil {
				return
			}
			_, err := s.Info(t.Context(), infoOf(archive).Path.HashPart())
			var refusal *gitstore.Refusal
			if !errors.As(err, &refusal) || !errors.Is(err, store.ErrNotFound) || !strings.Contains(refusal.Why, tt.why) {
				t.Errorf("Info = %v, want a refusal because of %s", err, tt.why)
			}
		})
	}
}

// A tree that no named ref leads to any more is not shared, and the index does not bring it back.
func TestOnlyNamedRefsAreShared(t *testing.T) {
	r := newRepo(t)
	old, hidden, next := r.tree("100644 blob "+r.blob("old")+"\ta"), r.tree("100644 blob "+r.blob("hidden")+"\ta"),
		r.tree("100644 blob "+r.blob("next")+"\ta")
	r.commit("refs/heads/main", old)
	r.commit("refs/heads/private", hidden)
	hashPart := func(text string) store.HashPart {
		return infoOf([]byte(narOf(text))).Path.HashPart()
	}
	state := t.TempDir()
	cfg := gitstore.Config{Dir: r.dir, Refs: patterns(t, "refs/heads/ma*"), State: state, Every: time.Millisecond}
	s := run(t, cfg)
	want := func(s running, has, hasNot []string) {
		t.Helper()
		for _, text := range has {
			if _, err := s.Info(t.Context(), hashPart(text)); err != nil {
				t.Errorf("%s: %v", text, err)
			}
		}
		for _, text := range hasNot {
			if info, err := s.Info(t.Context(), hashPart(text)); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s = %v, %v, want ErrNotFound", text, info, err)
			}
		}
	}
	s.next(t)
	want(s, []string{"old"}, []string{"hidden", "next"})
	r.commit("refs/heads/main", next) // which old is no parent of
	s.next(t)
	want(s, []string{"next"}, []string{"hidden", "old"})
	r.commit("refs/heads/main", old, r.git("", "rev-parse", "refs/heads/main"))
	r.git("", "pack-refs", "--all")
	s.next(t)
	want(s, []string{"next", "old"}, []string{"hidden"})
	cfg.Refs = patterns(t, "refs/heads/private")
	again := run(t, cfg)
	again.next(t)
	want(again, []string{"hidden"}, []string{"old", "next"})
}

// narOf is the archive of a folder with one file called a.
func narOf(text string) string {
	var b strings.Builder
	for _, s := range []string{"nix-archive-1", "(", "type", "directory", "entry", "(", "name", "a", "node", "(", "type", "regular",
		"contents", text, ")", ")", ")"} {
		b.WriteString(fmt.Sprintf("%c\x00\x00\x00\x00\x00\x00\x00", len(s)) + s + strings.Repeat("\x00", -len(s)&7))
	}
	return b.String()
}

// Neither configuration nor hooks nor remotes of a repository are used, and objects of another one are not shared.
func TestHostileRepository(t *testing.T) {
	r := newRepo(t)
	witness := filepath.Join(t.TempDir(), "witness")
	evil := "touch " + witness
	for _, set := range [][2]string{{"core.fsmonitor", evil}, {"core.pager", evil}, {"core.sshCommand", evil},
		{"core.alternateRefsCommand", evil}, {"extensions.partialClone", "origin"}, {"remote.origin.promisor", "true"},
		{"remote.origin.url", "ext::sh -c " + evil},
		{"protocol.allow", "always"}} {
		r.git("", "config", set[0], set[1])
	}
	must(t, os.WriteFile(filepath.Join(r.dir, "hooks", "post-checkout"), []byte("#!/bin/sh\n"+evil+"\n"), 0o700))
	r.commit("refs/heads/main", r.tree("100644 blob "+r.blob("text")+"\ta"))
	missing := r.raw("tree", entry(r, "100644", "a")[:9]+strings.Repeat("\x11", 20))
	r.git("", "update-ref", "refs/heads/partial", r.rawCommit(missing))
	s := run(t, gitstore.Config{Dir: r.dir})
	if st := s.next(t); st.Trees != 1 || st.Refused != 1 {
		t.Errorf("status = %+v", st)
	}
	if _, err := os.Lstat(witness); err == nil {
		t.Error("a command of the repository was run")
	}

	must(t, os.WriteFile(filepath.Join(r.dir, "objects/info/alternates"), []byte("/srv/another.git/objects\n"), 0o600))
	borrows := run(t, gitstore.Config{Dir: r.dir})
	if st := borrows.next(t); st.Err == nil || !strings.Contains(st.Err.Error(), "borrows") || st.Trees != 0 {
		t.Errorf("status of a repository that borrows objects = %+v", st)
	}
}

// A pack that breaks off is an error, and does no more.
func TestTruncatedPack(t *testing.T) {
	r := newRepo(t)
	r.commit("refs/heads/main", r.sampleTree())
	r.git("", "gc", "-q")
	packs, err := filepath.Glob(filepath.Join(r.dir, "objects/pack/*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatalf("packs are %v, %v", packs, err)
	}
	must(t, os.Chmod(packs[0], 0o600))
	must(t, os.Truncate(packs[0], 40))
	s := run(t, gitstore.Config{Dir: r.dir})
	if st := s.next(t); st.Trees != 0 || st.Refused == 0 && st.Err == nil {
		t.Errorf("status = %+v, want an error", st)
	}
}

// A long history is looked through within limits, and the commits of the refs come first. Outside of the check the
// history is shorter than the limit.
func TestLongHistory(t *testing.T) {
	r := newRepo(t)
	commits, trees := 2001, 40
	if storetest.InCheck() {
		commits, trees = 100_001, 200
	}
	var in strings.Builder
	for i := range commits {
		fmt.Fprintf(&in, "commit refs/heads/main\ncommitter a <a@a> %d +0000\ndata 1\nx\nM 644 inline a\ndata <<EOF\n%d\nEOF\n\n",
			i+1, i*trees/commits)
	}
	r.git(in.String(), "fast-import", "--quiet")
	s := run(t, gitstore.Config{Dir: r.dir})
	if st := s.next(t); st.Err != nil || st.Trees != trees || st.Waiting != 0 {
		t.Errorf("status = %+v, want %d trees", st, trees)
	}
}

func TestPatterns(t *testing.T) {
	for _, bad := range []string{"", "heads/*", "*"} {
		if _, err := gitstore.ParsePattern(bad); err == nil {
			t.Errorf("ParsePattern(%q) takes it", bad)
		}
	}
}
