// Package upstream asks binary caches on the internet, or wherever HTTP reaches, as Nix does: for narinfos, and for
// archives that are decompressed as they arrive.
//
// A [Cache] remembers what it was told, keeps on disk the narinfos that its caller has checked, resumes archives over
// connections that break, and bounds the memory that unpacking takes. A cache that does not answer costs one wait; it
// is probed in the background until it does, which [Cache.Close] ends. All methods may be called concurrently.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"narbor/store"
	"narbor/store/lru"
)

const (
	// missTTL is how long an upstream's "not found" is relied on, and maxMisses how many of those are kept.
	missTTL, maxMisses = 60 * time.Second, 16 << 10
	// maxPages bounds the narinfos that are remembered in memory: a large closure's, between Nix's question and
	// its download.
	maxPages = 4096
	// probeFile is the file that every cache has, and maxProbeLen bounds its length: it has three short lines.
	probeFile, maxProbeLen = "nix-cache-info", 64 << 10
	// maxStreams bounds the archives that one cache sends at a time: Nix fetches 16, neighbours may want as many,
	// and each takes the memory of its compressor's window.
	maxStreams = 32
	// rateBurst is the most that is read at once where there is a limit of bytes in a second, so that it holds in each
	// second.
	rateBurst = 16 << 10
	// MaxUnpackMemory bounds the bytes that unpacking archives of upstreams takes, so that narbor stays below 160 MiB:
	// eight of Nix's at once, with dictionaries of 8 MiB, and any number of small ones.
	MaxUnpackMemory = 66 << 20
)

// A Cache is a binary cache on the internet, or wherever HTTP reaches. Of [store.Source]'s methods it has Info. Instead
// of NAR, which returns an archive with random access, it has [Cache.Stream]. All methods may be called concurrently.
//
// Proxies are taken from the environment. A cache that does not answer costs one wait of 5 s; from then on all methods
// fail at once, until the cache answers a probe in the background.
type Cache struct {
	site
	answers
	breaker breaker
	streams chan struct{} // one for each archive under way
	memory  *semaphore.Weighted
	rate    *rate.Limiter // nil is no limit
	bytes   atomic.Int64  // of archives, as they came
	flights singleflight.Group

	background background
}

// Config says which cache a [Cache] is.
type Config struct {
	URL   string // http or https; what follows a question mark, as in Nix's configuration, is ignored
	Agent string // how the program calls itself to it
	Kept  string // directory that keeps what [Cache.Keep] is told; "" is none
	// Memory is what unpacking takes, in bytes, of [MaxUnpackMemory] that caches share; nil is as much for this one.
	Memory *semaphore.Weighted
	// Rate bounds the bytes of archives that come in a second, from all caches that share it; nil is no limit. See
	// [NewRate].
	Rate *rate.Limiter
}

// NewRate returns a limit for caches: bytes of archives in a second, as they come.
func NewRate(bytesPerSecond int64) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(bytesPerSecond), rateBurst)
}

// Open returns the cache; it asks it nothing yet. The caller closes it.
func Open(cfg Config) (*Cache, error) {
	base, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	u := &Cache{site: site{base, cfg.Agent, newClient()}, streams: make(chan struct{}, maxStreams),
		memory: cfg.Memory, rate: cfg.Rate}
	if u.memory == nil {
		u.memory = semaphore.NewWeighted(MaxUnpackMemory)
	}
	if cfg.Kept != "" {
		if u.kept, err = openKeptInfos(cfg.Kept); err != nil {
			return nil, err
		}
	}
	u.pages = lru.New[store.HashPart, page](maxPages)
	u.refused.paths = lru.New[store.HashPart, refusal](maxPages)
	u.misses = lru.New[store.HashPart, time.Time](maxMisses)
	return u, nil
}

// Private says whether the URL holds a user or a password: some of what it has may be for this user alone.
func (u *Cache) Private() bool { return u.base.User != nil }

// Down says whether the cache is taken not to answer, so that every question fails at once.
func (u *Cache) Down() bool { return u.breaker.isOpen() }

// Received is how many bytes of archives have come, compressed as they were.
func (u *Cache) Received() int64 { return u.bytes.Load() }

// Close ends the background work, and closes idle connections.
func (u *Cache) Close() error {
	u.background.close()
	u.client.CloseIdleConnections()
	return u.kept.close()
}

// Info is as in [store.Source]. An answer that was kept, or given a moment ago, is returned from memory; concurrent
// calls for one path share one request. The error wraps ErrNotFound if the cache says so, or has the archive only in a
// form that narbor does not read.
func (u *Cache) Info(ctx context.Context, hp store.HashPart) (store.Info, error) {
	p, err := u.page(ctx, hp)
	info := p.info
	info.References, info.Signatures = append([]store.Path(nil), info.References...), append([]string(nil), info.Signatures...)
	return info, err
}

// page returns the narinfo for a hash part, unless its archive is known to be of no use.
func (u *Cache) page(ctx context.Context, hp store.HashPart) (page, error) {
	p, err := u.anyPage(ctx, hp)
	if err == nil {
		err = u.refused.reason(p.info)
	}
	if errors.Is(err, store.ErrUnreadable) {
		err = fmt.Errorf("upstream %s: %w", u, err)
	}
	return p, err
}

func (u *Cache) anyPage(ctx context.Context, hp store.HashPart) (page, error) {
	if err := ctx.Err(); err != nil {
		return page{}, err
	}
	hp, err := store.ParseHashPart(string(hp)) // it becomes part of a URL
	if err != nil {
		return page{}, fmt.Errorf("%w: %w", store.ErrNotFound, err)
	}
	if p, ok := u.recall(hp); ok {
		return p, nil
	}
	if at, ok := u.misses.Get(hp); ok && time.Since(at) < missTTL {
		return page{}, fmt.Errorf("upstream %s: %s: %w", u, hp, store.ErrNotFound)
	}
	if err := u.Ready(); err != nil {
		return page{}, err
	}
	done := u.flights.DoChan(string(hp), func() (p any, err error) {
		u.background.do(func(ctx context.Context) { p, err = u.ask(ctx, hp) })
		return p, err
	})
	select {
	case r := <-done:
		p, _ := r.Val.(page)
		return p, r.Err
	case <-ctx.Done():
		return page{}, ctx.Err()
	}
}

// Recall returns what the cache has said about a hash part before, as far as that is remembered or kept. Nothing is
// sent.
func (u *Cache) Recall(hp store.HashPart) (store.Info, bool) {
	if _, err := store.ParseHashPart(string(hp)); err != nil {
		return store.Info{}, false
	}
	p, ok := u.recall(hp)
	return p.info, ok
}

func (u *Cache) ask(ctx context.Context, hp store.HashPart) (page, error) {
	text, err := u.get(ctx, string(hp)+".narinfo", store.MaxInfoLen)
	if u.closes(ctx, err); err != nil {
		if errors.Is(err, store.ErrNotFound) {
			u.misses.Add(hp, time.Now())
		}
		return page{}, err
	}
	p, err := parsePage(hp, text)
	if err != nil {
		return page{}, fmt.Errorf("upstream %s: %s.narinfo: %w", u, hp, err)
	}
	u.misses.Remove(hp)
	u.pages.Add(hp, p)
	return p, nil
}

// Keep stores the narinfo on disk, so that it outlives this program, if the cache has sent it lately. The caller must
// have checked it.
func (u *Cache) Keep(info store.Info) error {
	hp := info.Path.HashPart()
	p, ok := u.pages.Peek(hp)
	if !ok || p.info.NarHash != info.NarHash {
		return nil
	}
	return u.kept.put(hp, p.text)
}

// Forget makes the next question about a path go to the cache, because the remembered answer was wrong.
func (u *Cache) Forget(hp store.HashPart) {
	u.pages.Remove(hp)
	u.kept.forget(hp)
}

// Wrong records that the cache has sent another archive than the one it has signed. The first time, its narinfo is
// asked for again; if that does not help, the path counts as not found for an hour.
func (u *Cache) Wrong(info store.Info) {
	u.Forget(info.Path.HashPart())
	u.refused.add(info, false, fmt.Errorf("%s: %w: %w: it sends another archive than it has signed", info.Path, store.ErrNotFound,
		store.ErrUnreadable))
}

// Ready fails if the cache is down, and then starts a probe of the cache if one is due.
func (u *Cache) Ready() error {
	ask, probe := u.breaker.allows()
	if probe {
		ctx, end := u.background.begin()
		go func() {
			defer end()
			u.test(ctx)
		}()
	}
	if !ask {
		return fmt.Errorf("upstream %s: it did not answer a moment ago", u)
	}
	return nil
}

// test probes a cache that was down with a request for the file that every cache has.
func (u *Cache) test(ctx context.Context) {
	_, err := u.get(ctx, probeFile, maxProbeLen)
	u.breaker.probed(isAnswer(err))
}

// closes reports the result of a request to the breaker: any response counts as an answer, unless it says that the
// cache cannot answer.
func (u *Cache) closes(ctx context.Context, err error) {
	if errors.Is(err, context.Canceled) || errors.Is(ctx.Err(), context.Canceled) {
		return // that was us
	}
	u.breaker.answered(isAnswer(err))
}
