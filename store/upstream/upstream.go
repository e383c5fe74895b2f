// Package upstream asks binary caches on the internet, or wherever HTTP reaches, as Nix does: for narinfos, and for archives
// that are decompressed as they arrive.
//
// A [Cache] remembers what it was told, keeps on disk the narinfos that its caller has checked, resumes archives over
// connections that break, and bounds the memory that unpacking takes. A cache that does not answer costs one wait; it is
// probed in the background until it does, which [Cache.Close] ends. All methods may be called concurrently.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"narbor/store"
	"narbor/store/nar"
)

const (
	// upstreamInfoTimeout bounds a question about a path, connecting included: three round trips over the slowest
	// satellite, and more than a line needs with queues that downloads have filled. Without narbor Nix would wait for 300 s.
	upstreamInfoTimeout = 5 * time.Second
	// upstreamDialTimeout bounds each of connecting and the TLS handshake.
	upstreamDialTimeout = 4 * time.Second
	// upstreamHeaderTimeout bounds the wait for an archive to begin: a cache may have to get it from slow storage.
	upstreamHeaderTimeout = 15 * time.Second
	// upstreamIdle is how long a connection is kept: less than what servers grant.
	upstreamIdle = 50 * time.Second
	// upstreamConns bounds the connections to one upstream over HTTP/1.1: Nix makes 25 (http-connections).
	upstreamConns = 40
	// upstreamMissTTL is how long an upstream's "not found" is relied on, and upstreamMisses how many of those are kept.
	upstreamMissTTL, upstreamMisses = 60 * time.Second, 16 << 10
	// upstreamPages bounds the narinfos that are remembered in memory: a large closure's, between Nix's question and
	// its download.
	upstreamPages = 4096
	// upstreamProbe is the file that every cache has, and maxUpstreamProbe bounds its length: it has three short lines.
	upstreamProbe, maxUpstreamProbe = "nix-cache-info", 64 << 10
	// maxRedirects is how often an upstream may send us elsewhere.
	maxRedirects = 5
)

// A Cache is a binary cache on the internet, or wherever HTTP reaches. Of [store.Source]'s methods it has Info. Instead of
// NAR, which returns an archive with random access, it has [Cache.Stream]. All methods may be called concurrently.
//
// Proxies are taken from the environment. A cache that does not answer costs one wait of 5 s; from then on all methods
// fail at once, until the cache answers a probe in the background.
type Cache struct {
	base    *url.URL // ends in a slash
	agent   string
	client  *http.Client
	kept    *keptInfos
	breaker breaker
	streams chan struct{} // one for each archive under way
	memory  *semaphore.Weighted
	bytes   atomic.Int64 // of archives, as they came
	flights singleflight.Group
	pages   *lru.Cache[store.HashPart, page]
	misses  *lru.Cache[store.HashPart, time.Time]
	refused refusals

	life    context.Context // of the background work; ended by closing
	closing context.CancelFunc

	mu     sync.Mutex // guards closed, and that probe grows no more once it is set
	closed bool
	probe  sync.WaitGroup
}

// Config says which cache a [Cache] is.
type Config struct {
	URL   string // http or https; what follows a question mark, as in Nix's configuration, is ignored
	Agent string // how the program calls itself to it
	Kept  string // directory that keeps what [Cache.Keep] is told; "" is none
	// Memory is what unpacking takes, in bytes, of [MaxUnpackMemory] that caches share; nil is as much for this one.
	Memory *semaphore.Weighted
}

// A page is a narinfo: the claim, and where its archive is.
type page struct {
	store.Archive
	info store.Info
	text string
}

// Open returns the cache; it asks it nothing yet. The caller closes it.
func Open(cfg Config) (*Cache, error) {
	base, err := parseUpstream(cfg.URL)
	if err != nil {
		return nil, err
	}
	u := &Cache{base: base, agent: cfg.Agent, client: newUpstreamClient(), streams: make(chan struct{}, maxUpstreamStreams),
		memory: cfg.Memory}
	if u.memory == nil {
		u.memory = semaphore.NewWeighted(MaxUnpackMemory)
	}
	if cfg.Kept != "" {
		if u.kept, err = openKeptInfos(cfg.Kept); err != nil {
			return nil, err
		}
	}
	if u.pages, err = lru.New[store.HashPart, page](upstreamPages); err != nil {
		return nil, err
	}
	if u.refused.paths, err = lru.New[store.HashPart, refusal](upstreamPages); err != nil {
		return nil, err
	}
	if u.misses, err = lru.New[store.HashPart, time.Time](upstreamMisses); err != nil {
		return nil, err
	}
	u.life, u.closing = context.WithCancel(context.Background())
	return u, nil
}

// parseUpstream accepts the URL of a cache as Nix has it among its substituters.
func parseUpstream(s string) (*url.URL, error) {
	base, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("an upstream that is no URL: give one such as https://cache.nixos.org") // s may hold a password
	}
	if base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("upstream %s: only http:// and https:// caches can be asked; a directory is shared by --cache-dir",
			unnamed(base))
	}
	base.RawQuery, base.Fragment = "", ""
	base.Path = strings.TrimSuffix(base.Path, "/") + "/"
	base.RawPath = ""
	return base, nil
}

func newUpstreamClient() *http.Client {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: upstreamDialTimeout}).DialContext,
		TLSHandshakeTimeout:   upstreamDialTimeout,
		ResponseHeaderTimeout: upstreamHeaderTimeout,
		IdleConnTimeout:       upstreamIdle,
		MaxIdleConns:          upstreamConns,
		MaxIdleConnsPerHost:   upstreamConns,
		MaxConnsPerHost:       upstreamConns,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // archives are compressed already, and a Range is of what the server has
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second},
	}
	return &http.Client{Transport: t, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return fmt.Errorf("more than %d redirections", maxRedirects)
		}
		if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
			return errors.New("a redirection from https to " + req.URL.Scheme)
		}
		return nil
	}}
}

// String returns the URL, without a user and a password.
func (u *Cache) String() string { return unnamed(u.base) }

// unnamed is a URL that has xxxxx where it has a user and a password: some caches take a token as the one, some as the
// other.
func unnamed(u *url.URL) string {
	c := *u
	if c.User != nil {
		c.User = url.User("xxxxx")
	}
	return c.String()
}

// Private says whether the URL holds a user or a password: what it opens to us is not everybody's.
func (u *Cache) Private() bool { return u.base.User != nil }

// Down says whether the cache is taken not to answer, so that every question fails at once.
func (u *Cache) Down() bool { return u.breaker.isOpen() }

// Received is how many bytes of archives have come, compressed as they were.
func (u *Cache) Received() int64 { return u.bytes.Load() }

// Close ends the background work, and closes idle connections.
func (u *Cache) Close() error {
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	u.closing()
	u.probe.Wait()
	u.client.CloseIdleConnections()
	return u.kept.close()
}

// Info is as in [store.Source]. An answer that was kept, or given a moment ago, is returned from memory; concurrent calls for
// one path share one request. The error wraps ErrNotFound if the cache says so, or has the archive only in a form that
// narbor does not read.
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
	if at, ok := u.misses.Get(hp); ok && time.Since(at) < upstreamMissTTL {
		return page{}, fmt.Errorf("upstream %s: %s: %w", u, hp, store.ErrNotFound)
	}
	if err := u.Ready(); err != nil {
		return page{}, err
	}
	done := u.flights.DoChan(string(hp), func() (any, error) {
		ctx, cancel := context.WithTimeout(u.life, upstreamInfoTimeout)
		defer cancel()
		return u.ask(ctx, hp)
	})
	select {
	case r := <-done:
		p, _ := r.Val.(page)
		return p, r.Err
	case <-ctx.Done():
		return page{}, ctx.Err()
	}
}

// recall returns a narinfo that is remembered, or kept.
func (u *Cache) recall(hp store.HashPart) (page, bool) {
	if p, ok := u.pages.Get(hp); ok {
		return p, true
	}
	text, ok := u.kept.get(hp)
	if !ok {
		return page{}, false
	}
	p, err := parsePage(hp, text)
	if err != nil {
		u.kept.forget(hp)
		return page{}, false
	}
	u.pages.Add(hp, p)
	return p, true
}

// Recall returns what the cache has said about a hash part before, as far as that is remembered or kept. Nothing is sent.
func (u *Cache) Recall(hp store.HashPart) (store.Info, bool) {
	if _, err := store.ParseHashPart(string(hp)); err != nil {
		return store.Info{}, false
	}
	p, ok := u.recall(hp)
	return p.info, ok
}

// ask puts a question to the cache.
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

// parsePage reads a narinfo. The error wraps ErrNotFound if its archive is of no use, and ErrCorrupt if it is none.
func parsePage(hp store.HashPart, text string) (p page, err error) {
	p.text = text
	if p.info, p.Archive, err = store.ParseNarinfo(hp, text); err != nil {
		return p, err
	}
	if !nar.Unpackable(p.Compression) {
		return p, fmt.Errorf("%w: %w: compression %.40q, and not none, xz or zstd", store.ErrNotFound, store.ErrUnreadable, p.Compression)
	}
	ref, err := url.Parse(p.URL)
	if err != nil || p.URL == "" || ref.IsAbs() || ref.Host != "" || strings.HasPrefix(ref.Path, "/") || path.Clean(ref.Path) != ref.Path ||
		strings.HasPrefix(ref.Path, "..") {
		return p, fmt.Errorf("%w: %w: its URL %.80q is not below the cache's own", store.ErrNotFound, store.ErrUnreadable, p.URL)
	}
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

// Ready fails if the cache is down, and then starts a probe of the cache if one is due.
func (u *Cache) Ready() error {
	ask, probe := u.breaker.allows()
	if probe {
		u.mu.Lock()
		if !u.closed {
			u.probe.Go(u.test)
		}
		u.mu.Unlock()
	}
	if !ask {
		return fmt.Errorf("upstream %s: it did not answer a moment ago", u)
	}
	return nil
}

// test probes a cache that was down with a request for the file that every cache has.
func (u *Cache) test() {
	ctx, cancel := context.WithTimeout(u.life, upstreamInfoTimeout)
	defer cancel()
	_, err := u.get(ctx, upstreamProbe, maxUpstreamProbe)
	u.breaker.probed(isAnswer(err))
}

// closes reports the result of a request to the breaker: any response counts as an answer, unless it says that the cache
// cannot answer.
func (u *Cache) closes(ctx context.Context, err error) {
	if errors.Is(err, context.Canceled) || errors.Is(ctx.Err(), context.Canceled) {
		return // that was us
	}
	u.breaker.answered(isAnswer(err))
}

// A statusError is an answer of a server that is no file.
type statusError int

func (e statusError) Error() string { return strconv.Itoa(int(e)) + " " + http.StatusText(int(e)) }

// isAnswer says whether an error, or none, comes from a server that is well.
func isAnswer(err error) bool {
	status, ok := errors.AsType[statusError](err)
	busy := status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status >= 500
	return err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt) || ok && !busy
}

// get fetches a small file.
func (u *Cache) get(ctx context.Context, name string, limit int64) (string, error) {
	resp, err := u.do(ctx, name, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%w: more than %d bytes", store.ErrCorrupt, limit)
	}
	if err != nil {
		return "", fmt.Errorf("upstream %s: %s: %w", u, name, err)
	}
	return string(b), nil
}

// do asks for a file, and fails unless the cache sends it, or the part of it that header asks for. The caller closes
// the body.
func (u *Cache) do(ctx context.Context, name string, header http.Header) (*http.Response, error) {
	ref, err := url.Parse(name)
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w", u, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.base.ResolveReference(ref).String(), nil)
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w", u, err)
	}
	for key, values := range header {
		req.Header[key] = values
	}
	req.Header.Set("User-Agent", u.agent)
	resp, err := u.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w", u, plain(err))
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
		if err := decodeContent(resp); err != nil {
			resp.Body.Close()
			return nil, fmt.Errorf("upstream %s: %s: %w", u, name, err)
		}
		return resp, nil
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // so that the connection can be used again
	resp.Body.Close()
	err = fmt.Errorf("upstream %s: %s: %w", u, name, statusError(resp.StatusCode))
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusForbidden, http.StatusGone: // as Nix takes them
		err = fmt.Errorf("%w: %w", store.ErrNotFound, err)
	}
	return nil, err
}

// plain removes the URL, which may hold a password, that [http.Client] adds to an error.
func plain(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
