package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"narbor/store"
	"narbor/store/nixstore"
)

// nixRetry is the time between two attempts to open a Nix store that was missing at the start: it may be installed, or
// its daemon may start, later than narbor.
const nixRetry = 5 * time.Second

// nixTimeout bounds an attempt to open the store. The attempt goes on after the caller's deadline, since later callers
// use its result.
const nixTimeout = 2 * time.Second

// A lateNix is this machine's Nix store, whether it is there already or not. It is a [store.Source].
type lateNix struct {
	log *zap.Logger

	mu    sync.Mutex      // guards the rest; held while connecting, which others wait for
	nix   *nixstore.Store // nil while there is none
	err   error           // why; it wraps [store.ErrNotFound], for the store is like an empty one
	tried time.Time
	quiet bool // the error has been told
}

// open returns the store, connecting to it unless that has failed a moment ago.
func (l *lateNix) open(ctx context.Context) (*nixstore.Store, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.nix != nil || time.Since(l.tried) < nixRetry {
		return l.nix, l.err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), nixTimeout)
	defer cancel()
	l.nix, l.err = nixstore.Open(ctx, nixstore.Config{})
	l.tried = time.Now()
	switch {
	case l.err == nil && l.quiet:
		l.log.Info("the Nix store is there now, and shared")
	case l.err != nil && !errors.Is(l.err, nixstore.ErrNoNix) && !l.quiet:
		l.log.Warn("the Nix store cannot be asked, so it is not shared until it can be", zap.Error(l.err))
	}
	l.quiet = l.err != nil
	if l.err != nil {
		l.err = fmt.Errorf("%w: %w", store.ErrNotFound, l.err)
	}
	return l.nix, l.err
}

// here reports whether the store is there, as far as is known.
func (l *lateNix) here() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nix != nil
}

// problem returns the reason why an existing store cannot be queried; "" if it can, or there is none.
func (l *lateNix) problem() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil || errors.Is(l.err, nixstore.ErrNoNix) {
		return ""
	}
	return strings.TrimPrefix(l.err.Error(), store.ErrNotFound.Error()+": ")
}

// Info implements [store.Source].
func (l *lateNix) Info(ctx context.Context, hp store.HashPart) (store.Info, error) {
	nix, err := l.open(ctx)
	if err != nil {
		return store.Info{}, err
	}
	return nix.Info(ctx, hp)
}

// NAR implements [store.Source].
func (l *lateNix) NAR(ctx context.Context, info store.Info) (store.NAR, error) {
	nix, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	return nix.NAR(ctx, info)
}

func (l *lateNix) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.nix != nil {
		l.nix.Close()
	}
}
