package main

import (
	"context"

	"narbor/store"
)

// A simLibrary is the store paths that the liars have.
type simLibrary struct{ w *simWorld }

func (l simLibrary) of(hp store.HashPart) *store.Mem {
	if _, err := l.w.liarsOwn.Info(context.Background(), hp); err == nil {
		return l.w.liarsOwn
	}
	return l.w.shared
}

func (l simLibrary) Info(ctx context.Context, hp store.HashPart) (store.Info, error) {
	return l.of(hp).Info(ctx, hp)
}

func (l simLibrary) NAR(ctx context.Context, info store.Info) (store.NAR, error) {
	return l.of(info.Path.HashPart()).NAR(ctx, info)
}

func (l simLibrary) AllValidPaths(context.Context) (all []store.Path, _ error) {
	for _, p := range l.w.paths {
		all = append(all, p.info.Path)
	}
	return all, nil
}
