// Package nixstore is this machine's Nix store as a source: what Nix's database says of a path, asked of the daemon by
// the worker protocol, and archives that are read from the files in the store directory.
//
// A [Store] opens connections to the daemon as it needs them, and where no daemon listens starts one of its own for
// each. It keeps paths from garbage collection while their archives are open. A question and the making of a connection
// may outlast their caller by 10 s; [Store.Close] ends them and all connections. All methods may be called concurrently.
package nixstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/nix-community/go-nix/pkg/wire"

	"narbor/store"
	"narbor/store/nar"
)

// ErrNoNix says that this machine has no Nix store.
var ErrNoNix = errors.New("no Nix store on this machine")

// Config says where the Nix store is.
type Config struct {
	// Root is the directory that holds a chroot store's paths; "" means that /nix/store itself is the store.
	Root string
	// Socket is the daemon's. "" means NIX_DAEMON_SOCKET_PATH, or Nix's default below Root if the variable is not
	// set or Root is.
	Socket string
}

// A Store is this machine's Nix store, a [store.Source]: the paths that are valid in the Nix daemon's database, with
// their contents read from the files on disk. It needs no privileges beyond a connection to the daemon.
type Store struct {
	storeDir string // where the files are
	daemon   *daemon
	roots    *tempRoots
	layouts  *nar.Layouts
	names    *storeNames
	index    *nameIndex
	calling  chan struct{} // has room for the one call of Called that runs
}

// Open connects to the daemon of the store. The error wraps [ErrNoNix] if there is no store at all; any other
// means that there is one, and it cannot be asked.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	place := cfg.place()
	_, socketErr := os.Stat(place.socket)
	_, dbErr := os.Stat(place.db)
	if errors.Is(socketErr, fs.ErrNotExist) && errors.Is(dbErr, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: neither %s nor %s exists", ErrNoNix, place.socket, place.db)
	}
	storeDir := filepath.Join(cfg.Root, store.Dir)
	if _, err := os.Stat(storeDir); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoNix, err)
	}
	d := newDaemon(place.dial)
	n := &Store{storeDir: storeDir, daemon: d, roots: newTempRoots(d), layouts: nar.NewLayouts(),
		names: newStoreNames(storeDir), index: newNameIndex(storeDir),
		calling: make(chan struct{}, 1)}
	d.slots <- struct{}{}
	c, err := d.connect(ctx)
	d.put(c, err == nil)
	if err != nil {
		return nil, err
	}
	return n, nil
}

func (cfg Config) place() nixPlace {
	state, socket := "/nix/var/nix", cfg.Socket
	if cfg.Root == "" {
		state = cmp.Or(os.Getenv("NIX_STATE_DIR"), state)
		socket = cmp.Or(socket, os.Getenv("NIX_DAEMON_SOCKET_PATH"))
	}
	state = filepath.Join(cfg.Root, state)
	return nixPlace{root: cfg.Root, socket: cmp.Or(socket, filepath.Join(state, "daemon-socket/socket")),
		db: filepath.Join(state, "db/db.sqlite")}
}

// Close ends the connections, and has questions that are not answered yet fail with [fs.ErrClosed]. It takes 5 s at
// most. Archives that are open stay readable, but nothing keeps them from being collected.
func (n *Store) Close() error {
	n.roots.close()
	n.daemon.close()
	return nil
}

// Info implements [store.Source]: it returns what Nix's database says. About a hash part that no file begins with, the
// database is asked only until many such questions in a row pay for reading the names of all files.
func (n *Store) Info(ctx context.Context, hp store.HashPart) (store.Info, error) {
	if n.names.lack(hp) {
		return store.Info{}, store.ErrNotFound
	}
	var found string
	err := n.daemon.call(ctx, daemonRequest{
		op:    opQueryPathFromHashPart,
		args:  func(w io.Writer, _ uint64) { _ = wire.WriteString(w, string(hp)) },
		reply: func(r *wireReader) { found = r.string(maxWireString) },
	})
	if err != nil {
		return store.Info{}, err
	}
	if found == "" {
		n.names.missed()
		return store.Info{}, store.ErrNotFound
	}
	p, err := store.ParsePath(found)
	if err != nil || p.HashPart() != hp {
		return store.Info{}, fmt.Errorf("nix daemon says that %s is %.80q", hp, found)
	}
	return n.pathInfo(ctx, p)
}

// pathInfo returns what the database says of p, or ErrNotFound if p is not valid.
func (n *Store) pathInfo(ctx context.Context, p store.Path) (store.Info, error) {
	var info store.Info
	var valid bool
	err := n.daemon.call(ctx, daemonRequest{
		op:   opQueryPathInfo,
		args: func(w io.Writer, _ uint64) { _ = wire.WriteString(w, p.String()) },
		reply: func(r *wireReader) {
			if valid = r.bool(); valid {
				info = r.pathInfo(p)
			}
		},
	})
	if err == nil && !valid {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Info{}, fmt.Errorf("%s: %w", p, err)
	}
	info.Fetched = n.daemon.fetched(ctx, info)
	return info, nil
}

func (r *wireReader) pathInfo(p store.Path) store.Info {
	info := store.Info{Path: p}
	deriver, hash := r.string(maxWireString), r.string(maxWireString)
	refs := r.strings(maxWireItems)
	r.uint64() // registration time
	size := r.uint64()
	info.Ultimate = r.bool()
	sigs := r.strings(maxWireItems)
	info.CA = r.string(maxWireString)
	if r.err != nil {
		return store.Info{}
	}
	var err error
	if info.NarHash, err = store.ParseHash(hash); err != nil {
		r.fail(fmt.Errorf("%s: %w", p, err))
	}
	if size < 1 || size > store.MaxNarSize {
		r.fail(fmt.Errorf("%s: NAR size %d, want 1 to %d", p, size, int64(store.MaxNarSize)))
	}
	info.NarSize = int64(min(size, store.MaxNarSize))
	for _, ref := range refs {
		q, err := store.ParsePath(ref)
		if err != nil {
			r.fail(fmt.Errorf("%s: reference: %w", p, err))
			break
		}
		info.References = append(info.References, q)
	}
	info.References = store.SortPaths(info.References)
	info.Deriver, _ = store.ParsePath(deriver) // unsigned and of no use to us: what Nix allows and we do not is unknown
	return info.WithSignatures(sigs)
}

// ValidPaths returns those of paths that are valid.
func (n *Store) ValidPaths(ctx context.Context, paths []store.Path) ([]store.Path, error) {
	paths = slices.Clone(paths) // they may be sent after the caller has left
	return n.daemon.paths(ctx, daemonRequest{op: opQueryValidPaths, args: func(w io.Writer, version uint64) {
		_ = wire.WriteUint64(w, uint64(len(paths)))
		for _, p := range paths {
			_ = wire.WriteString(w, p.String())
		}
		if version >= 1<<8|27 {
			_ = wire.WriteBool(w, false) // do not substitute
		}
	}})
}

// AllValidPaths returns every path of the store, sorted.
func (n *Store) AllValidPaths(ctx context.Context) ([]store.Path, error) {
	return n.daemon.paths(ctx, daemonRequest{op: opQueryAllValidPaths, args: func(io.Writer, uint64) {}})
}

// Namesakes returns the hash parts of at most 64 paths with a name: a store path's base name without the hash part and
// its dash. It reads the names of the files in the store, at most once a minute if there are 60,000, and not the
// database, so that some of the paths may not be valid. Derivations are left out.
func (n *Store) Namesakes(name string) []store.HashPart { return n.index.find(name) }

// Called returns the store paths that have the hash part which at gives for their name, and a file in the store
// directory. It reads all names there, which takes some 100 ms if there are 60,000; one call at a time does.
func (n *Store) Called(ctx context.Context, at func(name string) store.HashPart) (parts []store.HashPart, err error) {
	select {
	case n.calling <- struct{}{}:
		defer func() { <-n.calling }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	dir, err := os.Open(n.storeDir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	for ctx.Err() == nil {
		names, err := dir.Readdirnames(1024)
		for _, base := range names {
			if p, err := store.ParsePathName(base); err == nil && at(p.Name()) == p.HashPart() {
				parts = append(parts, p.HashPart())
			}
		}
		if err == io.EOF {
			return parts, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, ctx.Err()
}

// NAR implements [store.Source]. The path is a temporary root of the garbage collector's while the archive is open.
func (n *Store) NAR(ctx context.Context, info store.Info) (store.NAR, error) {
	if err := n.roots.hold(ctx, info.Path); err != nil {
		return nil, fmt.Errorf("%s: temporary root: %w", info.Path, err)
	}
	nar, err := n.openRooted(ctx, info)
	if err != nil {
		n.roots.release(info.Path)
		return nil, err
	}
	return nar, nil
}

// openRooted opens a path that cannot be collected any more, if that has not happened already.
func (n *Store) openRooted(ctx context.Context, info store.Info) (store.NAR, error) {
	now, err := n.pathInfo(ctx, info.Path)
	if err != nil {
		return nil, err
	}
	if now.NarHash != info.NarHash {
		return nil, fmt.Errorf("%s: NAR %s has made way for %s: %w", info.Path, info.NarHash, now.NarHash, store.ErrNotFound)
	}
	tree, err := n.layouts.Open(ctx, n.storeDir, info)
	if err != nil {
		return nil, err
	}
	return &nixNAR{Tree: tree, close: func() { n.roots.release(info.Path) }}, nil
}

// A nixNAR releases its path's root when it is closed.
type nixNAR struct {
	*nar.Tree
	close func()
	once  sync.Once
}

func (n *nixNAR) Close() error {
	n.once.Do(func() {
		n.Tree.Close()
		n.close()
	})
	return nil
}
