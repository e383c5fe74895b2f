package stats

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"narbor/store"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// give has Nix fetch a NAR, which takes a minute.
func give(a *Accounts, m trust.Mapping, from store.Origin) {
	a.Found(m.Path())
	a.Begin()
	a.Received(from, m, "peer-a", int(m.NarSize()))
	a.Fetched(m, from, nil)
	time.Sleep(time.Minute)
	a.Served(m, m.NarSize(), time.Minute, true)
	a.End()
}

func TestLastUpdateIsWhatNixGotWithoutAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const missed, later = store.HashPart("0jqd0rlxzra1rs38rdxl43yh6rxchgc6"), store.HashPart("1jqd0rlxzra1rs38rdxl43yh6rxchgc6")
		small, large := trusttest.TextMapping(t, "small-1", "x"), trusttest.TextMapping(t, "large-1", strings.Repeat("x", 1000))
		file := filepath.Join(t.TempDir(), "account.json")
		a, err := Open(file)
		if err != nil {
			t.Fatal(err)
		}
		if u := a.Account().LastUpdate; u != nil {
			t.Errorf("before any request the last update is %+v", u)
		}
		give(a, small, store.FromNeighbours)
		time.Sleep(updatePause + time.Second)
		start := time.Now()
		a.NotFound(missed, store.ErrNotFound)
		time.Sleep(updatePause - time.Second)
		give(a, large, store.FromRebuild)
		give(a, small, store.FromNeighbours)
		end := time.Now()
		want := func(name string, a *Accounts, byNix int64) {
			t.Helper()
			u := a.Account().LastUpdate
			if u == nil || !u.Start.Equal(start) || !u.End.Equal(end) || u.NARs != 2 || u.Received[store.FromRebuild] != large.NarSize() ||
				u.Received[store.FromNeighbours] != small.NarSize() || u.Seconds != 120 || u.ByNix != byNix {
				t.Errorf("%s the last update is %+v", name, u)
			}
		}
		want("at its end", a, 0)
		time.Sleep(2*updatePause + time.Second)
		a.NotFound(later, store.ErrNotFound) // Nix got nothing, so that is no update
		time.Sleep(updatePause + time.Second)
		a.NotFound(later, store.ErrNotFound)
		want("after a question", a, 0)
		a.looked(missed, 500)
		want("when it is known what Nix fetched itself", a, 500)
		if err := a.Save(); err != nil {
			t.Fatal(err)
		}
		b, err := Open(file)
		if err != nil {
			t.Fatal(err)
		}
		want("after a restart", b, 500)
		a.looked(later, 70)
		if u := a.Account().LastUpdate; u.ByNix != 70 || u.NARs != 0 || !u.Start.After(end) {
			t.Errorf("after Nix has fetched one path itself, the last update is %+v", u)
		}
	})
}

// Paths that Nix fetched between two updates are in neither.
func TestUpdateLeavesOutWhatItsRequestsWereNotAbout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const between = store.HashPart("0jqd0rlxzra1rs38rdxl43yh6rxchgc6")
		a := New()
		give(a, trusttest.TextMapping(t, "small-1", "x"), store.FromNeighbours)
		time.Sleep(2 * updatePause)
		a.NotFound(between, store.ErrNotFound)
		time.Sleep(2 * updatePause)
		a.NotFound("1jqd0rlxzra1rs38rdxl43yh6rxchgc6", store.ErrNotFound)
		a.looked(between, 500)
		if u := a.Account().LastUpdate; u.ByNix != 0 {
			t.Errorf("the last update is %+v", u)
		}
	})
}

// A NAR that takes an hour does not end the update.
func TestLongNARDoesNotEndAnUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, m := New(), trusttest.TextMapping(t, "long-1", "x")
		start := time.Now()
		a.Begin()
		time.Sleep(time.Hour)
		a.Served(m, m.NarSize(), time.Hour, true)
		a.End()
		give(a, trusttest.TextMapping(t, "small-1", "x"), store.FromNeighbours)
		if u := a.Account().LastUpdate; u.NARs != 2 || !u.Start.Equal(start) {
			t.Errorf("the last update is %+v", u)
		}
	})
}

func TestUpdateNamesFewGivers(t *testing.T) {
	var u updates
	for i := range 3 * maxPeers {
		u.gave(Provenance{store.FromNeighbours, []string{string(rune('A' + i))}}, int64(i))
	}
	u.gave(Provenance{store.FromInternet, []string{"upstream"}}, 1<<40)
	u.last.Start = time.Now()
	if got := u.copy().From; len(u.givers) != maxPeers || len(got) != maxFrom || got[0] != string(rune('A'+maxPeers-1)) {
		t.Errorf("of %d givers %q are named", len(u.givers), got)
	}
}

// Neighbours that download for this machine are another part of the update, and an upstream is no neighbour.
func TestUpdateNamesNeighboursForTheirOwnNARsAlone(t *testing.T) {
	u := updates{last: Update{Start: time.Now()}}
	u.gave(Provenance{store.FromOthers, []string{"proxy"}}, 100)
	u.gave(Provenance{store.FromNeighbours, []string{upstreamName, "", "second", "first"}}, 1)
	u.gave(Provenance{store.FromNeighbours, []string{"first"}}, 10)
	u.gave(Provenance{store.FromNeighbours, []string{upstreamName}}, 1000)
	if got := u.copy().From; !slices.Equal(got, []string{"first", "second"}) {
		t.Errorf("it came from %q", got)
	}
}

// Both the bytes and the time of an update are those of this moment, although the time is booked at the end.
func TestUpdateUnderWaySaysItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "account.json")
		a, err := Open(file)
		if err != nil {
			t.Fatal(err)
		}
		m := trusttest.TextMapping(t, "small-1", "x")
		want := func(when string, a *Accounts, seconds float64) {
			t.Helper()
			if u := a.Account().LastUpdate; u.Seconds != seconds {
				t.Errorf("%s it took %v s, want %v", when, u.Seconds, seconds)
			}
		}
		give(a, m, store.FromNeighbours)
		time.Sleep(time.Second)
		a.Begin()
		time.Sleep(10 * time.Second)
		want("before Nix got more,", a, 60)
		a.Begin()
		a.Served(m, m.NarSize(), 10*time.Second, true)
		a.End()
		want("while another NAR is awaited", a, 70)
		if err := a.Save(); err != nil {
			t.Fatal(err)
		}
		b, err := Open(file)
		if err != nil {
			t.Fatal(err)
		}
		want("in the file", b, 60)
		time.Sleep(5 * time.Second)
		want("a while later", a, 75)
		a.End()
		time.Sleep(time.Second)
		want("at its end", a, 75)
	})
}

func TestUpdateKeepsItsGiversOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "account.json")
		a, err := Open(file)
		if err != nil {
			t.Fatal(err)
		}
		give(a, trusttest.TextMapping(t, "small-1", "x"), store.FromNeighbours) // of peer-a
		if err := a.Save(); err != nil {
			t.Fatal(err)
		}
		if a, err = Open(file); err != nil {
			t.Fatal(err)
		}
		from := func(id string) {
			m := trusttest.TextMapping(t, "other-1", id)
			a.Begin()
			a.Received(store.FromNeighbours, m, id, int(m.NarSize()))
			a.Fetched(m, store.FromNeighbours, nil)
			a.Served(m, m.NarSize(), time.Second, true)
			a.End()
		}
		for _, id := range []string{"peer-b", "peer-a"} {
			from(id)
			if got := a.Account().LastUpdate.From; !slices.Equal(got, []string{"peer-a", "peer-b"}) {
				t.Errorf("after a restart and a NAR of %s it came from %q", id, got)
			}
		}
		for i := range maxFrom {
			from(string(rune('A' + i)))
		}
		if got := a.Account().LastUpdate.From; len(got) != maxFrom || got[0] != "peer-a" {
			t.Errorf("of more givers %q are named", got)
		}
		time.Sleep(2 * updatePause)
		a.noteRequest(time.Now())
		from("peer-b")
		if got := a.Account().LastUpdate.From; !slices.Equal(got, []string{"peer-b"}) {
			t.Errorf("the next update came from %q", got)
		}
	})
}
