package fetch

import (
	"context"
	"strings"
	"testing"
	"time"

	"narbor/store"
	"narbor/store/upstream"
)

// A trial goes through what the neighbour says and sends, second by second.
func TestProxyIsJudgedByAllItReceives(t *testing.T) {
	const mega = 1 << 20
	type second struct {
		got  int64 // what it says to have received, in all
		come int   // blocks of the NAR that have come
	}
	grow := func(step int64) func(s int) second {
		return func(s int) second { return second{got: int64(s) * step} }
	}
	for name, tt := range map[string]struct {
		at      func(s int) second
		heard   func(s int) bool // whether a block of another NAR has come from it
		own     int64
		pace    int64
		limit   int // seconds that Nix waits; 0 is for ever
		wantFor int // it is judged then, in seconds; 0 is never
		want    string
	}{
		"fast":  {at: func(s int) second { return second{int64(s) * mega, 2 * s} }, pace: mega, own: mega},
		"stuck": {at: func(s int) second { return second{got: mega} }, wantFor: 7, want: "it has received nothing"},
		"busy with other NARs": {at: func(s int) second { return second{int64(s) * mega, s / 5} },
			heard: func(s int) bool { return s%9 == 0 }, pace: 300e3, own: 300e3},
		"passes nothing on":           {at: grow(2 * mega), pace: mega, wantFor: 11, want: "nothing has come from it"},
		"the same, and tells no pace": {at: grow(2 * mega), wantFor: 11, want: "nothing has come from it"},
		"the same on a slow line":     {at: grow(1000), pace: 40e3, own: 40e3, wantFor: 27, want: "nothing has come from it"},
		"the same on the slowest":     {at: grow(1000), pace: 10e3, own: 10e3, wantFor: 61, want: "nothing has come from it"},
		"passes on a block in 9 s": {at: func(s int) second { return second{int64(s) * mega, s / 9} }, pace: mega, own: mega,
			wantFor: 21, want: "and it has passed on"},
		"much slower": {at: func(s int) second { return second{int64(s), s} }, pace: 90e3, own: 300e3, wantFor: 6,
			want: "brings it"},
		"a little slower":              {at: func(s int) second { return second{int64(s), s} }, pace: 110e3, own: 300e3},
		"slow, and we have no measure": {at: func(s int) second { return second{int64(s), s} }, pace: 30e3, wantFor: 6, want: "brings it"},
		"too late for Nix": {at: func(s int) second { return second{int64(s) * mega, s} }, limit: 100, wantFor: 51,
			want: "may take"},
		"just in time for Nix": {at: func(s int) second { return second{int64(s) * mega, 3 * s} }, limit: 100},
		"trickles a block in 9 s": {at: func(s int) second { return second{int64(s), s / 9} }, limit: 240, wantFor: 121,
			want: "may take"},
	} {
		const blocks = 250
		start := time.Unix(1e9, 0)
		tr := newProxyWatch(start, blocks)
		tr.until = start.Add(time.Hour)
		if tt.limit > 0 {
			tr.until = start.Add(time.Duration(tt.limit) * time.Second)
		}
		heard, come := start, 0
		for s := 1; s <= 125; s++ {
			now := start.Add(time.Duration(s) * time.Second)
			at := tt.at(s)
			if at.come >= blocks {
				break
			}
			if at.come > come || tt.heard != nil && tt.heard(s) {
				heard, come = now, at.come
			}
			tr.answer(now, at.got, tt.pace)
			tr.received(heard, blocks-at.come)
			err := tr.problem(now, tt.own)
			if err == nil && s == tt.wantFor {
				t.Errorf("%s: waited for after %d s, want an end", name, s)
			}
			if err != nil {
				if s != tt.wantFor || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%s: not waited for after %d s: %v; want that after %d s", name, s, err, tt.wantFor)
				}
				break
			}
		}
	}
	tr := newProxyWatch(time.Unix(0, 0), 1)
	tr.answer(time.Unix(1, 0), 1, 0)
	if err := tr.problem(time.Unix(7, 0), 0); err == nil {
		t.Error("waited for after 6 s without an answer")
	}
}

// Downloads that share a line go at the same pace, however many of them each machine has.
func TestPaceIsThatOfOneDownload(t *testing.T) {
	p := Throughput{}
	for range 4 {
		p.begin()
	}
	p.mu.Lock()
	p.since = p.since.Add(-time.Second)
	p.mu.Unlock()
	p.add(4000)
	if got := p.Rate(); got < 900 || got > 1000 {
		t.Errorf("four downloads that bring 4,000 bytes a second together: %d each, want 1,000", got)
	}
}

func TestAnUpstreamIsAskedWhereHoldersCrawl(t *testing.T) {
	const blocks = 100
	m := testMapping(t, "large", make([]byte, blocks*store.BlockSize))
	for _, tt := range []struct {
		ago      time.Duration
		done     int
		own      int64
		upstream bool
		want     bool
	}{
		{11 * time.Second, 10, 0, true, true},
		{11 * time.Second, 10, 0, false, false},
		{9 * time.Second, 9, 0, true, false},
		{11 * time.Second, 60, 0, true, false},                   // done in time
		{11 * time.Second, 10, 3 * store.BlockSize, true, true},  // 33 s for all, instead of 99 s for the rest
		{11 * time.Second, 10, 2 * store.BlockSize, true, false}, // 50 s are not half of that
	} {
		of := &Deps{Throughput: &Throughput{}}
		if tt.upstream {
			of.Upstreams = []*upstream.Cache{nil}
		}
		if tt.own > 0 {
			of.Throughput.begin()
			of.Throughput.since = of.Throughput.since.Add(-10 * time.Second)
			of.Throughput.end()
			of.Throughput.add(int(10 * tt.own))
		}
		d := &download{Deps: of, Wanted: m, plan: &plan{picker: picker{left: blocks - tt.done}}}
		s := round{Session: &Session{download: d}, began: time.Now().Add(-tt.ago), blocks: blocks}
		if got := s.crawls(); got != tt.want {
			t.Errorf("%+v: crawls is %v, want %v", tt, got, tt.want)
		}
	}
}

func TestASlowUpstreamDoesNotEndWhatNeighboursDeliver(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	defer cancel()
	const blocks = 400
	for left, want := range map[int]bool{300: false, blocks - 3: true} { // 100 have come in 20 s; or 3
		f := &supply{download: &download{plan: &plan{picker: picker{left: left}}}}
		if err := f.hopeless(ctx, time.Now().Add(-20*time.Second), 2, blocks); err != nil != want {
			t.Errorf("%d of %d blocks missing after 20 s: %v, want an error: %v", left, blocks, err, want)
		}
	}
}
