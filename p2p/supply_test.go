package p2p_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"narbor/p2p"
	"narbor/store"
	"narbor/store/spool"
	"narbor/store/upstream"
)

// A webCache is a binary cache over HTTP, and counts what it is asked.
type webCache struct {
	*httptest.Server
	up signer

	mu    sync.Mutex // guards the rest
	files map[string][]byte
	asked map[string]int
	hold  chan struct{} // archives wait for it to be closed; nil does not
	stuck string        // the agent to which archives begin, and never go on
}

func newWebCache(t testing.TB, up signer) *webCache {
	c := &webCache{up: up, files: map[string][]byte{}, asked: map[string]int{}}
	c.Server = httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(c.Close)
	return c
}

func (c *webCache) serve(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	file, ok := c.files[r.URL.Path]
	c.asked[r.URL.Path]++
	hold := c.hold
	if c.stuck != "" && c.stuck == r.UserAgent() {
		hold = make(chan struct{})
	}
	c.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	if !strings.HasPrefix(r.URL.Path, "/nar/") || hold == nil {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(file))) // it begins, and gets stuck
	w.Write(file[:1000])
	w.(http.Flusher).Flush()
	select {
	case <-hold:
		w.Write(file[1000:])
	case <-r.Context().Done():
	}
}

// add puts a path into the cache that is sent as it is.
func (c *webCache) add(t testing.TB, name string, nar []byte) store.Info {
	info := c.up.sign(t, name, nar)
	c.put(info, nar)
	return info
}

func (c *webCache) put(info store.Info, nar []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files["/"+string(info.Path.HashPart())+".narinfo"] = []byte(fmt.Sprintf("%sURL: nar/%s\nCompression: none\n", info, info.Path.Base()))
	c.files["/nar/"+info.Path.Base()] = nar
}

// requests is how often narinfos, and how often archives, were asked for.
func (c *webCache) requests() (infos, nars int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for path, n := range c.asked {
		if strings.HasPrefix(path, "/nar/") {
			nars += n
		} else {
			infos += n
		}
	}
	return infos, nars
}

// with makes a machine ask the cache, too.
func (c *webCache) with(t testing.TB) func(*p2p.Config) {
	return func(cfg *p2p.Config) {
		u, err := upstream.Open(upstream.Config{URL: c.URL, Agent: "test"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { u.Close() })
		cfg.Upstreams.Caches = append(cfg.Upstreams.Caches, u)
	}
}

func TestFetchesFromTheUpstreamWhatNoNeighbourHas(t *testing.T) {
	up := newUpstream(t)
	web := newWebCache(t, up)
	nar := noise(1, 5*store.BlockSize+1234)
	info := web.add(t, "far", nar)
	m := up.newMachineAs(t, spool.Config{}, nil, web.with(t))
	got, err := m.LookupUpstream(t.Context(), info.Path.HashPart())
	if err != nil || got.NarHash() != info.NarHash {
		t.Fatalf("LookupUpstream = %v, %v", got, err)
	}
	m.fetchMapped(t, got, nar)
	if s := m.Status(); s.Supplied != info.NarSize || s.Upstreams[0].WireReceived != info.NarSize {
		t.Errorf("Status has %d bytes from upstreams, %+v, want %d", s.Supplied, s.Upstreams, info.NarSize)
	}
	if _, err := m.LookupUpstream(t.Context(), store.HashPart(strings.Repeat("1", 32))); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("LookupUpstream(absent) = %v, want ErrNotFound", err)
	}
}

func TestUpstreamIsNotAskedForWhatANeighbourHas(t *testing.T) {
	up := newUpstream(t)
	web := newWebCache(t, up)
	nar := noise(1, 5*store.BlockSize)
	info := web.add(t, "near", nar)
	holder := up.newMachine(t, memWith([]store.Info{info}, [][]byte{nar}))
	m := up.newMachineAs(t, spool.Config{}, nil, web.with(t), holder)
	m.fetch(t, info, nar)
	if _, nars := web.requests(); nars != 0 {
		t.Errorf("%d archives from the upstream, want none", nars)
	}
}

func TestUpstreamsClaimsAreChecked(t *testing.T) {
	web := newWebCache(t, newUpstream(t))
	info := web.add(t, "theirs", noise(1, 1000))
	m := newUpstream(t).newMachineAs(t, spool.Config{}, nil, web.with(t))
	if got, err := m.LookupUpstream(t.Context(), info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("LookupUpstream of what another has signed = %v, %v, want ErrNotFound", got, err)
	}
}

func TestUpstreamThatSendsAnotherNARIsNoNeighbour(t *testing.T) {
	up := newUpstream(t)
	web := newWebCache(t, up)
	nar := noise(1, 5*store.BlockSize)
	info := up.sign(t, "wrong", nar)
	wrong := bytes.Clone(nar)
	wrong[3*store.BlockSize] ^= 1
	web.put(info, wrong)
	m := up.newMachineAs(t, spool.Config{}, nil, web.with(t))
	got, err := m.LookupUpstream(t.Context(), info.Path.HashPart())
	if err != nil {
		t.Fatal(err)
	}
	if sp, err := m.Fetch(t.Context(), got); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Fetch = %v, %v, want ErrNotFound", sp, err)
	}
	if _, nars := web.requests(); nars != 2 {
		t.Errorf("asked %d times for an archive that is wrong, want 2", nars)
	}
	if s := m.Status(); len(s.Banned) > 0 {
		t.Errorf("banned: %v", s.Banned)
	}
	if got, err := m.LookupUpstream(t.Context(), info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) ||
		!errors.Is(err, store.ErrUnreadable) {
		t.Errorf("LookupUpstream of what comes wrong = %v, %v, want ErrNotFound", got, err)
	}
	if sp, err := m.Fetch(t.Context(), got); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Fetch again = %v, %v, want ErrNotFound", sp, err)
	}
	if _, nars := web.requests(); nars != 2 {
		t.Errorf("asked %d times for an archive that was wrong twice, want 2", nars)
	}
}

func TestUpstreamTakesOverFromAHolderThatDies(t *testing.T) {
	up := newUpstream(t)
	web := newWebCache(t, up)
	nar := noise(1, 20*store.BlockSize)
	info := web.add(t, "both", nar)
	open := make(chan struct{})
	var asked sync.Once
	reading := make(chan struct{})
	holder := up.newMachine(t, liar{memWith([]store.Info{info}, [][]byte{nar}), func(int64, []byte) {
		asked.Do(func() { close(reading) })
		<-open
	}})
	m := up.newMachineAs(t, spool.Config{}, nil, web.with(t), holder)
	t.Cleanup(func() { close(open) })
	got, err := m.LookupUpstream(t.Context(), info.Path.HashPart())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		select {
		case <-reading:
			holder.stop()
		case <-t.Context().Done():
		}
	}()
	m.fetchMapped(t, got, nar)
	select {
	case <-reading:
	default:
		t.Error("the holder was not read")
	}
	if _, nars := web.requests(); nars == 0 {
		t.Error("the upstream was not asked")
	}
}
