package nixstore

import (
	"bufio"
	"cmp"
	"context"
	"io"
	"net"

	"narbor/store"
	"narbor/store/nar"
)

// ReadPathInfo reads what a daemon sends after a request for the path's metadata.
func ReadPathInfo(answer io.Reader, version uint64, path string) (store.Info, error) {
	p, err := store.ParsePath(path)
	if err != nil {
		return store.Info{}, err
	}
	r := wireReader{r: bufio.NewReader(answer)}
	r.skipMessages(version)
	var info store.Info
	if r.bool() {
		info = r.pathInfo(p)
		return info, r.err
	}
	return store.Info{}, cmp.Or(r.err, store.ErrNotFound)
}

// NewNixOn returns a store that reaches its daemon by dial.
func NewNixOn(dial func() net.Conn) *Store {
	d := newDaemon(func(context.Context) (rwc, error) { return dial(), nil })
	return &Store{daemon: d, roots: newTempRoots(d), layouts: nar.NewLayouts(),
		names: newStoreNames("/nonexistent")}
}

// Hold keeps p from being collected until [Store.Release].
func (n *Store) Hold(ctx context.Context, p store.Path) error { return n.roots.hold(ctx, p) }

// Release undoes [Store.Hold].
func (n *Store) Release(p store.Path) { n.roots.release(p) }
