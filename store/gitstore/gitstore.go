// Package gitstore is an ordinary git repository as a source of store paths: Nix's flake inputs and fetchGit give the
// tree of a commit the name "source" and a path that is computed from the hash of its archive, so that path can be
// told, and its archive be read out of the packs, without a checkout and without a copy.
//
// A [Store] knows the trees of the commits that the named refs lead to: those of the refs themselves first, then their
// history, the newest commits first; at most [maxTrees] new trees each time when refs have moved, among the newest
// [maxCommits] commits. To know a tree's path, all of it is read once, in the background ([Store.Run]), and what was
// found is kept in a file. A tree that no named ref leads to any more is not here, even if the file has it.
//
// The git program reads the objects, see [git]. Whatever a repository holds, memory is bounded: by limits on the number
// of files, on the size of a file, and on what git itself may use. Trees of which git archive, and so a tarball by
// GitHub, would leave out or change files are refused with the reason ([Refusal]), and so are submodules, files kept by
// git LFS, and objects that git does not write.
package gitstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/nix-community/go-nix/pkg/nixbase32"

	"narbor/store"
)

// Name is the name of the store paths that Nix makes of repositories.
const Name = "source"

// Config says which repository is a source.
type Config struct {
	Dir   string    // a bare repository, or a working copy
	Refs  []Pattern // other refs share nothing
	State string    // the folder for the index, and for a repository of narbor's own
	// Every is how often the refs are looked at; 0 is every 15 s.
	Every time.Duration
	// GitHashing reports whether paths with git's content addresses are told as well; nil: they are not. It returns at
	// once.
	GitHashing func() bool
	// Changed is called when the refs have moved and have been looked through, with the reason if that failed; nil: it
	// is not.
	Changed func(Status)
}

// A Status is the state of a repository.
type Status struct {
	Dir     string
	Trees   int // that are shared
	Refused int
	Waiting int // trees that are not looked through yet
	Err     error
}

// A Refusal is the error of a path that is in a repository and not shared. It wraps [store.ErrNotFound].
type Refusal struct {
	Tree string // its object ID
	Why  string
}

func (r *Refusal) Error() string { return "tree " + r.Tree + " is not shared: " + r.Why }
func (r *Refusal) Unwrap() error { return store.ErrNotFound }

// A Store is one repository, a [store.Source]. All methods may be called concurrently.
type Store struct {
	cfg Config
	reader

	mu     sync.Mutex // guards the rest
	known  map[oid]*known
	parts  map[store.HashPart]told // of the trees that named refs lead to
	status Status
}

// A known tree was looked through.
type known struct {
	path    store.Path
	narHash store.Hash
	narSize int64
	why     string // it is refused; "" if it is not
	broken  bool   // objects are missing or damaged, which may be mended
}

// told is the meaning of a hash part.
type told struct {
	tree oid
	git  bool // by git's content address
	*known
}

// Open prepares a repository; it starts nothing. The error wraps [exec.ErrNotFound] if there is no git program.
func Open(cfg Config) (*Store, error) {
	program, err := exec.LookPath("git")
	if err != nil {
		return nil, fmt.Errorf("--git-dir %s needs the git program: %w", cfg.Dir, err)
	}
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, err
	}
	if cfg.State, err = filepath.Abs(cfg.State); err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(cfg.Dir))
	cfg.State = filepath.Join(cfg.State, hex.EncodeToString(sum[:8]))
	if cfg.GitHashing == nil {
		cfg.GitHashing = func() bool { return false }
	}
	if cfg.Changed == nil {
		cfg.Changed = func(Status) {}
	}
	g := &git{program: program, own: filepath.Join(cfg.State, "repository"), slots: make(chan struct{}, maxProcesses)}
	return &Store{cfg: cfg, reader: reader{git: g}, known: map[oid]*known{}, parts: map[store.HashPart]told{}}, nil
}

// Dir is the folder of the repository.
func (s *Store) Dir() string { return s.cfg.Dir }

// Status returns the state of the repository.
func (s *Store) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Close ends the processes.
func (s *Store) Close() { s.git.stop(true) }

func (s *Store) find(hp store.HashPart) (told, error) {
	s.mu.Lock()
	t, ok := s.parts[hp]
	s.mu.Unlock()
	switch {
	case !ok || t.git && !s.cfg.GitHashing():
		return told{}, fmt.Errorf("%s: %w", hp, store.ErrNotFound)
	case t.why != "":
		return told{}, fmt.Errorf("%s: %w", t.path, &Refusal{t.tree.String(), t.why})
	}
	return t, nil
}

// Info implements [store.Source].
func (s *Store) Info(ctx context.Context, hp store.HashPart) (store.Info, error) {
	if err := ctx.Err(); err != nil {
		return store.Info{}, err
	}
	t, err := s.find(hp)
	if err != nil {
		return store.Info{}, err
	}
	info := store.Info{Path: t.path, NarHash: t.narHash, NarSize: t.narSize, CA: "fixed:r:" + t.narHash.String(), Fetched: true,
		Git: true}
	if t.git {
		info.Path, info.CA = gitPath(t.tree), gitAddress(t.tree)
	}
	return info, nil
}

// Tree returns the object ID of the tree that a path is, or "".
func (s *Store) Tree(hp store.HashPart) string {
	t, err := s.find(hp)
	if err != nil {
		return ""
	}
	return t.tree.String()
}

// pathOf is the path of a tree by the hash of its archive.
func pathOf(narHash store.Hash) store.Path {
	return pathAt(store.MakeHashPart("source", string(narHash[:]), Name))
}

func pathAt(hp store.HashPart) store.Path {
	p, err := store.ParsePathName(string(hp) + "-" + Name)
	if err != nil { // only for another name
		panic(err)
	}
	return p
}

func algoOf(id oid) string {
	if len(id) == sha256.Size {
		return "sha256"
	}
	return "sha1"
}

// gitAddress is the content address of a tree by git's own hash.
func gitAddress(tree oid) string {
	return "fixed:git:" + algoOf(tree) + ":" + nixbase32.EncodeToString([]byte(tree))
}

func gitPath(tree oid) store.Path {
	inner := sha256.Sum256([]byte("fixed:out:git:" + algoOf(tree) + ":" + tree.String() + ":"))
	return pathAt(store.MakeHashPart("output:out", string(inner[:]), Name))
}

// NAR implements [store.Source].
func (s *Store) NAR(ctx context.Context, info store.Info) (store.NAR, error) {
	now, err := s.Info(ctx, info.Path.HashPart())
	if err != nil {
		return nil, err
	}
	if now.NarHash != info.NarHash {
		return nil, fmt.Errorf("%s: another NAR than %s: %w", info.Path, info.NarHash, store.ErrNotFound)
	}
	if now.NarSize != info.NarSize {
		return nil, fmt.Errorf("%s: its archive has %d bytes, want %d: %w", info.Path, now.NarSize, info.NarSize, store.ErrCorrupt)
	}
	t, err := s.find(info.Path.HashPart())
	return archive{s, t.tree, info.NarSize}, err
}

// An archive is the NAR of a tree. It holds nothing: its outline is made again if it is not among the last ones.
type archive struct {
	*Store
	tree oid
	size int64
}

func (a archive) Size() int64  { return a.size }
func (a archive) Close() error { return nil }

// ReadAt implements [io.ReaderAt].
func (a archive) ReadAt(p []byte, off int64) (int, error) {
	if off >= a.size {
		return 0, io.EOF
	}
	o, err := a.outline(a.tree)
	if err == nil && o.Size() != a.size {
		err = store.ErrCorrupt
	}
	if err != nil {
		return 0, fmt.Errorf("tree %s of %s: %w", a.tree, a.cfg.Dir, err)
	}
	n, err := o.ReadAt(p, off, func(content uint32, p []byte, off int64) error {
		body, err := a.blob(o, content)
		if err == nil && off+int64(len(p)) > int64(len(body)) {
			err = store.ErrCorrupt
		}
		if err == nil {
			copy(p, body[off:])
		}
		return err
	})
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s: %w", a.cfg.Dir, err)
	}
	return n, err
}
