package nar

import (
	"context"
	"io"

	"narbor/store"
)

// OpenLayout lays out the archive of root and opens it, without a daemon.
func OpenLayout(ctx context.Context, root string, size int64) (store.NAR, error) {
	l, err := newLayout(ctx, root, size)
	if err != nil {
		return nil, err
	}
	return newTree(l, root), nil
}

// LayoutBytes is the memory that the layout of root takes.
func LayoutBytes(ctx context.Context, root string, size int64) (int64, error) {
	l, err := newLayout(ctx, root, size)
	if err != nil {
		return 0, err
	}
	return l.bytes(), nil
}

// LayoutCache is the cache of layouts.
type LayoutCache struct{ *Layouts }

// NewLayoutCache returns a cache of limit bytes.
func NewLayoutCache(limit int64) LayoutCache { return LayoutCache{newLayouts(limit)} }

// Get makes or finds the layout of the path that info describes, and says where in memory that is.
func (c LayoutCache) Get(ctx context.Context, storeDir string, info store.Info) (any, error) {
	return c.get(ctx, storeDir, info)
}

// Held returns how many layouts are remembered, and their size.
func (c LayoutCache) Held() (n int, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lru.Len(), c.bytes
}

// NewXZGuard passes an xz file on as long as it is not too greedy.
func NewXZGuard(r io.Reader, narSize int64) io.Reader { return newXZGuard(r, narSize) }
