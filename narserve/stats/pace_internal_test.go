package stats

import (
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"narbor/store"
)

// The pace of the internet is measured while something is downloaded, and not between downloads.
func TestPaceIsThatOfDownloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "account.json")
		a, err := Open(file)
		if err != nil {
			t.Fatal(err)
		}
		m, other := textMapping(t, "large-1", "x"), textMapping(t, "other-1", "x")
		for range 3 {
			a.Received(store.FromInternet, m, "upstream", 1000)
			a.Received(store.FromInternet, other, "upstream", 1000) // at the same time
			for range 2 {
				time.Sleep(time.Second)
				a.Received(store.FromInternet, m, "upstream", 500)
				a.Received(store.FromInternet, other, "upstream", 500)
				a.Received(store.FromNeighbours, m, "peer", 1<<20)
			}
			a.Fetched(m, store.FromInternet, nil)
			a.Fetched(other, store.FromInternet, nil)
			time.Sleep(paceGap)
		}
		// The second archive's first piece came when the first was under way already.
		if got, want := a.Account().Pace, (Pace{Bytes: 3 * 3000, Seconds: 6}); got != want {
			t.Errorf("the pace is %+v, want %+v", got, want)
		}
		if err := a.Save(); err != nil {
			t.Fatal(err)
		}
		b, err := Open(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.Account().Pace.time(3000); got != 2 {
			t.Errorf("after a restart 3,000 bytes take %v s, want 2", got)
		}
		b.LimitDownloads()
		b.Received(store.FromInternet, m, "upstream", 1000)
		time.Sleep(time.Second)
		b.Received(store.FromInternet, m, "upstream", 1000)
		if got := b.Account().Pace; got != (Pace{}) {
			t.Errorf("with limited downloads the pace is %+v", got)
		}
	})
}

func TestPaceNeedsAMeasurement(t *testing.T) {
	for _, c := range []struct {
		pace Pace
		want float64
	}{{Pace{}, 0}, {Pace{1000, paceLeast - 1}, 0}, {Pace{0, 60}, 0}, {Pace{1000, 10}, 10}} {
		if got := c.pace.time(1000); got != c.want {
			t.Errorf("at %+v 1,000 bytes take %v s, want %v", c.pace, got, c.want)
		}
	}
	p := Pace{}
	p.add(paceGap+1, 1000)
	p.add(-1, 1000)
	if p != (Pace{}) {
		t.Errorf("after a sleep the pace is %+v", p)
	}
	p = Pace{6000, paceMemory}
	p.add(time.Second, 0)
	if p.Bytes != 3000 {
		t.Errorf("the pace does not forget: %+v", p)
	}
}

func TestUpdateSaysWhatTheInternetWouldHaveTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, m := New(), textMapping(t, "small-1", "x")
		give(a, m, store.FromNeighbours)
		if u := a.Account().LastUpdate; u.AloneSeconds != 0 {
			t.Errorf("with nothing measured it says %v s", u.AloneSeconds)
		}
		a.updates.last.ByNix = 1 << 30 // of which the time is not known
		a.transfers.meters.pace = Pace{Bytes: m.NarSize(), Seconds: paceLeast}
		if u := a.Account().LastUpdate; u.AloneSeconds != paceLeast {
			t.Errorf("it says %v s, want %v", u.AloneSeconds, paceLeast)
		}
		if u := a.Account().LastUpdate; len(u.From) != 1 || u.From[0] != "peer-a" {
			t.Errorf("it came from %q", u.From)
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

func TestRatesAreOfTheLastSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, m := New(), textMapping(t, "small-1", "x")
		for range 20 {
			a.Received(store.FromNeighbours, m, "peer", 1000)
			a.Received(store.FromOthers, m, "peer", 500)
			a.Received(store.FromInternet, m, "upstream", 70)
			a.Received(store.FromRebuild, m, "", 1<<30)
			a.Sent(m.Path(), m.NarSize(), "peer", 300)
			time.Sleep(time.Second)
		}
		if got, want := a.Account().Rates, (Rates{1500, 70, 300}); got != want {
			t.Errorf("the rates are %+v, want %+v", got, want)
		}
		time.Sleep((ratesOver + 1) * time.Second)
		if got := a.Account().Rates; got != (Rates{}) {
			t.Errorf("when nothing moves the rates are %+v", got)
		}
	})
}
