package stats

import (
	"testing"
	"testing/synctest"
	"time"

	"narbor/store"
	"narbor/trust/trusttest"
)

func TestRatesAreOfTheLastSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, m := New(), trusttest.TextMapping(t, "small-1", "x")
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
