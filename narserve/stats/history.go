package stats

import (
	"cmp"
	"slices"
	"time"
)

// A history has amounts by time. The caller of its methods holds the lock of the accounts.
type history struct {
	since    time.Time
	days     []Day
	quarters []Quarter
	total    Amounts   // since the start of the program
	until    time.Time // days[today] is today until then
	today    int
}

// book adds amounts to today and to this quarter of an hour.
func (h *history) book(now time.Time, amounts Amounts) {
	h.total.Add(amounts)
	if !now.Before(h.until) || now.Before(h.until.AddDate(0, 0, -1)) {
		h.turnDay(now)
	}
	h.days[h.today].Add(amounts)
	start := now.Truncate(quarter)
	if n := len(h.quarters); n == 0 || !h.quarters[n-1].Start.Equal(start) {
		old := func(q Quarter) bool { return start.Sub(q.Start) >= quarters*quarter || !q.Start.Before(start) }
		h.quarters = append(slices.DeleteFunc(h.quarters, old), Quarter{Start: start}) // later ones are from a wrong clock
	}
	h.quarters[len(h.quarters)-1].Add(amounts)
}

func (h *history) turnDay(now time.Time) {
	year, month, day := now.Date()
	h.until = time.Date(year, month, day+1, 0, 0, 0, 0, now.Location())
	date := now.Format(time.DateOnly)
	at, found := slices.BinarySearchFunc(h.days, date, func(d Day, date string) int { return cmp.Compare(d.Date, date) })
	if !found {
		h.days = slices.Insert(h.days, at, Day{Date: date})
	}
	for ; len(h.days) > maxDays && at > 0; at-- {
		h.days = h.days[1:]
	}
	h.days = h.days[:min(len(h.days), maxDays)]
	h.today = at
}

// listDays returns a copy of the days, the oldest first.
func (h *history) listDays() []Day {
	days := make([]Day, len(h.days))
	for i, d := range h.days {
		days[i] = Day{d.Date, d.clone()}
	}
	return days
}

// listQuarters returns the quarters of the last 24 hours, the oldest first, empty ones too.
func (h *history) listQuarters(now time.Time) []Quarter {
	list := make([]Quarter, quarters)
	first := now.Truncate(quarter).Add(-(quarters - 1) * quarter)
	for i := range list {
		list[i] = Quarter{Start: first.Add(time.Duration(i) * quarter), Amounts: Amounts{}.clone()}
	}
	for _, q := range h.quarters {
		if i := int(q.Start.Sub(first) / quarter); q.Start.Compare(first) >= 0 && i < quarters {
			list[i].Amounts = q.clone()
		}
	}
	return list
}
