package dashboard_test

import (
	"strings"
	"testing"
	"time"

	"narbor/cmd/narbor/dashboard"
	"narbor/narserve/stats"
	"narbor/store"
)

func TestUpdateIsAStory(t *testing.T) {
	start := time.Date(2026, 11, 24, 14, 2, 5, 0, time.Local) // a Tuesday
	u := stats.Update{Start: start, From: []string{"nas", "laptop"}, Amounts: stats.Amounts{NARs: 1156, Seconds: 41,
		Received: map[store.Origin]int64{store.FromRebuild: 61 << 20, store.FromNeighbours: 34 << 20, store.FromInternet: 5 << 20}}}
	tell := func(now time.Time) string { return dashboard.UpdateText(u, now, strings.ToUpper) }
	const parts = "1 156 paths, 100 MiB: 61 % rebuilt here, 34 % from NAS and LAPTOP, 5 % from the internet, in 41 s"
	if got, want := tell(start.Add(time.Hour)), "Tuesday 14:02: "+parts; got != want {
		t.Errorf("the story is\n%s\nwant\n%s", got, want)
	}
	if got, want := tell(start.AddDate(0, 0, 8)), "24 November 2026 14:02: "+parts; got != want {
		t.Errorf("the story is\n%s\nwant\n%s", got, want)
	}
	u.From = append(u.From, "desk", "attic")
	if got := tell(start); !strings.Contains(got, "from NAS, LAPTOP and 2 others") {
		t.Errorf("of four givers the story is %s", got)
	}
	u.From = nil
	if got := tell(start); !strings.Contains(got, "34 % from neighbours") {
		t.Errorf("without givers the story is %s", got)
	}
}

func TestRatesInWords(t *testing.T) {
	got := dashboard.RatesText(stats.Rates{Network: 3 << 20, Sent: 2048})
	if want := "3.0 MiB/s from neighbours, 2.0 KiB/s to neighbours"; got != want {
		t.Errorf("rates are %q, want %q", got, want)
	}
	if got := dashboard.RatesText(stats.Rates{}); got != "" {
		t.Errorf("nothing moves: %q", got)
	}
}
