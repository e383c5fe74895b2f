package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/nix-community/go-nix/pkg/wire"
)

// ErrNoNix says that this machine has no Nix store.
var ErrNoNix = errors.New("no Nix store on this machine")

// NixStoreConfig says where the Nix store is.
type NixStoreConfig struct {
	// Root is what the paths of a chroot store are below; "" means that /nix/store itself is the store.
	Root string
	// Socket is the daemon's. "" means NIX_DAEMON_SOCKET_PATH, or Nix's default below Root if the variable is not
	// set or Root is.
	Socket string
}

// Nix is this machine's Nix store, a [Source]: the paths that are valid in the Nix daemon's database, with their
// contents read from the files on disk. It needs no privileges beyond a connection to the daemon.
type Nix struct {
	storeDir string // where the files are
	daemon   *daemon
	roots    *tempRoots
	layouts  *Layouts
	names    *storeNames
}

// OpenNix connects to the daemon of the store. The error wraps [ErrNoNix] if there is no store at all; any other
// means that there is one, and it cannot be asked.
func OpenNix(ctx context.Context, cfg NixStoreConfig) (*Nix, error) {
	place := cfg.place()
	_, socketErr := os.Stat(place.socket)
	_, dbErr := os.Stat(place.db)
	if errors.Is(socketErr, fs.ErrNotExist) && errors.Is(dbErr, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: neither %s nor %s exists", ErrNoNix, place.socket, place.db)
	}
	storeDir := filepath.Join(cfg.Root, Dir)
	if _, err := os.Stat(storeDir); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoNix, err)
	}
	d := newDaemon(place.dial)
	n := &Nix{storeDir: storeDir, daemon: d, roots: newTempRoots(d), layouts: NewLayouts(),
		names: newStoreNames(storeDir)}
	c, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	d.put(c)
	return n, nil
}

func (cfg NixStoreConfig) place() nixPlace {
	state, socket := "/nix/var/nix", cfg.Socket
	if cfg.Root == "" {
		state = cmp.Or(os.Getenv("NIX_STATE_DIR"), state)
		socket = cmp.Or(socket, os.Getenv("NIX_DAEMON_SOCKET_PATH"))
	}
	state = filepath.Join(cfg.Root, state)
	return nixPlace{root: cfg.Root, socket: cmp.Or(socket, filepath.Join(state, "daemon-socket/socket")),
		db: filepath.Join(state, "db/db.sqlite")}
}

// Close ends the connections. Archives that are open stay readable, but nothing keeps them from being collected.
func (n *Nix) Close() error {
	n.roots.close()
	n.daemon.close()
	return nil
}

// Info implements [Source]: it returns what Nix's database says. About a hash part that no file begins with, the
// database is asked only until many such questions in a row pay for reading the names of all files.
func (n *Nix) Info(ctx context.Context, hp HashPart) (Info, error) {
	if n.names.lack(hp) {
		return Info{}, ErrNotFound
	}
	var found string
	err := n.daemon.call(ctx, daemonRequest{
		op:    opQueryPathFromHashPart,
		args:  func(w io.Writer, _ uint64) { _ = wire.WriteString(w, string(hp)) },
		reply: func(r *wireReader) { found = r.string(maxWireString) },
	})
	if err != nil {
		return Info{}, err
	}
	if found == "" {
		n.names.missed()
		return Info{}, ErrNotFound
	}
	p, err := ParsePath(found)
	if err != nil || p.HashPart() != hp {
		return Info{}, fmt.Errorf("nix daemon says that %s is %.80q", hp, found)
	}
	return n.pathInfo(ctx, p)
}

// pathInfo returns what the database says of p, or ErrNotFound if p is not valid.
func (n *Nix) pathInfo(ctx context.Context, p Path) (Info, error) {
	var info Info
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
		err = ErrNotFound
	}
	if err != nil {
		return Info{}, fmt.Errorf("%s: %w", p, err)
	}
	return info, nil
}

func (r *wireReader) pathInfo(p Path) Info {
	info := Info{Path: p}
	deriver, hash := r.string(maxWireString), r.string(maxWireString)
	refs := r.strings(maxWireItems)
	r.uint64() // registration time
	size := r.uint64()
	info.Ultimate = r.bool()
	sigs := r.strings(maxWireItems)
	info.CA = r.string(maxWireString)
	if r.err != nil {
		return Info{}
	}
	var err error
	if info.NarHash, err = ParseHash(hash); err != nil {
		r.fail(fmt.Errorf("%s: %w", p, err))
	}
	if size < 1 || size > MaxNarSize {
		r.fail(fmt.Errorf("%s: NAR size %d, want 1 to %d", p, size, int64(MaxNarSize)))
	}
	info.NarSize = int64(min(size, MaxNarSize))
	for _, ref := range refs {
		q, err := ParsePath(ref)
		if err != nil {
			r.fail(fmt.Errorf("%s: reference: %w", p, err))
			break
		}
		info.References = append(info.References, q)
	}
	info.References = SortPaths(info.References)
	info.Deriver, _ = ParsePath(deriver) // unsigned and of no use to us: what Nix allows and we do not is unknown
	info.Signatures = sigs[:min(len(sigs), maxSignatures)]
	return info
}

// ValidPaths returns those of paths that are valid.
func (n *Nix) ValidPaths(ctx context.Context, paths []Path) ([]Path, error) {
	return n.paths(ctx, daemonRequest{op: opQueryValidPaths, args: func(w io.Writer, version uint64) {
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
func (n *Nix) AllValidPaths(ctx context.Context) ([]Path, error) {
	return n.paths(ctx, daemonRequest{op: opQueryAllValidPaths, args: func(io.Writer, uint64) {}})
}

// paths completes and runs a request for a list of paths. It leaves out names that only newer versions of Nix allow: no
// claim could have them.
func (n *Nix) paths(ctx context.Context, req daemonRequest) ([]Path, error) {
	var found []string
	req.reply = func(r *wireReader) { found = r.strings(maxWirePaths) }
	if err := n.daemon.call(ctx, req); err != nil {
		return nil, err
	}
	paths := make([]Path, 0, len(found))
	for _, s := range found {
		if p, err := ParsePath(s); err == nil {
			paths = append(paths, p)
		}
	}
	return SortPaths(paths), nil
}

// NAR implements [Source]. The path is a temporary root of the garbage collector's while the archive is open.
func (n *Nix) NAR(ctx context.Context, info Info) (NAR, error) {
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
func (n *Nix) openRooted(ctx context.Context, info Info) (NAR, error) {
	now, err := n.pathInfo(ctx, info.Path)
	if err != nil {
		return nil, err
	}
	if now.NarHash != info.NarHash {
		return nil, fmt.Errorf("%s: NAR %s has made way for %s: %w", info.Path, info.NarHash, now.NarHash, ErrNotFound)
	}
	tree, err := n.layouts.Open(ctx, n.storeDir, info)
	if err != nil {
		return nil, err
	}
	return &nixNAR{Tree: tree, close: func() { n.roots.release(info.Path) }}, nil
}

// A nixNAR releases its path's root when it is closed.
type nixNAR struct {
	*Tree
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
