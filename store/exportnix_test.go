package store

import (
	"bufio"
	"cmp"
	"context"
	"io"
	"net"
)

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

// NewNixOn returns a store that reaches its daemon by dial.
func NewNixOn(dial func() net.Conn) *Nix {
	d := newDaemon(func(context.Context) (rwc, error) { return dial(), nil })
	return &Nix{daemon: d, roots: newTempRoots(d), layouts: NewLayouts(),
		names: newStoreNames("/nonexistent")}
}

// Hold keeps p from being collected until [Nix.Release].
func (n *Nix) Hold(ctx context.Context, p Path) error { return n.roots.hold(ctx, p) }

// Release undoes [Nix.Hold].
func (n *Nix) Release(p Path) { n.roots.release(p) }
