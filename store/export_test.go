package store

import (
	"bufio"
	"cmp"
	"context"
	"io"
	"net"
)

// OpenLayout lays out the archive of root and opens it, without a daemon.
func OpenLayout(ctx context.Context, root string, size int64) (NAR, error) {
	l, err := newLayout(ctx, root, size)
	if err != nil {
		return nil, err
	}
	return newLayoutNAR(l, root), nil
}

// LayoutBytes is what the layout of root takes in memory.
func LayoutBytes(ctx context.Context, root string, size int64) (int64, error) {
	l, err := newLayout(ctx, root, size)
	if err != nil {
		return 0, err
	}
	return l.bytes(), nil
}

// ReadPathInfo reads what a daemon sends after a request for the path's metadata.
func ReadPathInfo(answer io.Reader, version uint64, path string) (Info, error) {
	p, err := ParsePath(path)
	if err != nil {
		return Info{}, err
	}
	r := wireReader{r: bufio.NewReader(answer)}
	r.skipMessages(version)
	var info Info
	if r.bool() {
		info = r.pathInfo(p)
		return info, r.err
	}
	return Info{}, cmp.Or(r.err, ErrNotFound)
}

// AskNix asks the nix that is installed, and does not fall back to reading the files.
func AskNix(ctx context.Context) (NixSettings, error) {
	return runNix(ctx, "nix", []string{"show-config", "--json", "--extra-experimental-features", "nix-command"})
}

// NewNixOn returns a store that reaches its daemon by dial.
func NewNixOn(dial func() net.Conn) *Nix {
	d := newDaemon(func(context.Context) (rwc, error) { return dial(), nil })
	return &Nix{daemon: d, roots: newTempRoots(d), layouts: newLayoutCache(maxLayoutBytes),
		names: newStoreNames("/nonexistent")}
}

// Hold keeps p from being collected until [Nix.Release].
func (n *Nix) Hold(ctx context.Context, p Path) error { return n.roots.hold(ctx, p) }

// Release undoes [Nix.Hold].
func (n *Nix) Release(p Path) { n.roots.release(p) }

// LayoutCache is the cache of layouts.
type LayoutCache struct{ *layoutCache }

// NewLayoutCache returns a cache of limit bytes.
func NewLayoutCache(limit int64) LayoutCache { return LayoutCache{newLayoutCache(limit)} }

// Get makes or finds the layout of the path that info describes, and says where in memory that is.
func (c LayoutCache) Get(ctx context.Context, storeDir string, info Info) (any, error) {
	return c.get(ctx, storeDir, info)
}

// Held returns how many layouts are remembered, and their size.
func (c LayoutCache) Held() (n int, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lru.Len(), c.bytes
}
