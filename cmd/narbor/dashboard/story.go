package dashboard

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"narbor/narserve/stats"
	"narbor/store"
)

// UpdateText returns one update in words, with its sources, the largest part first. The name of a neighbour is what
// name returns of its ID.
func UpdateText(u stats.Update, now time.Time, name func(id string) string) string {
	type part struct {
		bytes int64
		what  string
	}
	parts := []part{{u.Received[store.FromRebuild], "rebuilt here"}, {u.Received[store.FromNeighbours], "from " + givers(u.From, name)},
		{u.Received[store.FromOthers], "from the internet by neighbours"}, {u.Received[store.FromInternet], "from the internet"},
		{u.Received[store.FromStore], "from this machine's store"}, {u.ByNix, "from the internet by Nix, as far as is known"}}
	slices.SortStableFunc(parts, func(a, b part) int { return cmp.Compare(b.bytes, a.bytes) })
	sum := u.SavedOf() + u.Received[store.FromStore]
	var shares []string
	for _, p := range parts {
		if p.bytes > 0 {
			shares = append(shares, share(p.bytes, sum)+" "+p.what)
		}
	}
	text := fmt.Sprintf("%s: %s, %s", day(u.Start.Local(), now.Local()), Plural(int(u.NARs+u.ByNixPaths), "path"), Amount(sum))
	if len(shares) > 0 {
		text += ": " + strings.Join(shares, ", ")
	}
	if u.Seconds > 0 {
		text += ", in " + tookText(u.Seconds)
	}
	return text
}

// share returns a part of a sum, rounded.
func share(part, of int64) string {
	if 100*part < of {
		return "less than 1 %"
	}
	return fmt.Sprintf("%d %%", (200*part+of)/(2*of))
}

// givers names the neighbours that gave something, the two with the most bytes if there are more.
func givers(ids []string, name func(string) string) string {
	switch n := len(ids); n {
	case 0:
		return "neighbours"
	case 1:
		return name(ids[0])
	case 2:
		return name(ids[0]) + " and " + name(ids[1])
	default:
		return fmt.Sprintf("%s, %s and %s", name(ids[0]), name(ids[1]), Plural(n-2, "other"))
	}
}

// day is a day and a time: the day's name in the last six days, then its date.
func day(t, now time.Time) string {
	if age := now.Sub(t); age >= 0 && age < 6*24*time.Hour {
		return t.Format("Monday 15:04")
	}
	return t.Format("2 January 2006 15:04")
}

// MonthText says how much of what Nix needed in 30 days came from the network: a part, and the rest of the sentence.
// The part is "" if nothing did.
func MonthText(month stats.Amounts) (part, rest string) {
	saved, of := month.Saved(), month.SavedOf()
	if saved <= 0 {
		return "", ""
	}
	part = fmt.Sprintf("%d %%", percent(saved, of))
	if percent(saved, of) == 0 {
		part = "Less than 1 %"
	}
	rest = "came from your network"
	if month.Received[store.FromRebuild] > 0 {
		rest += " or was rebuilt here"
	}
	return part + " of the last 30 days", fmt.Sprintf("%s: %s not downloaded", rest, Amount(saved))
}

// RatesText says how much moves in a second; "" if nothing does.
func RatesText(r stats.Rates) string {
	var moves []string
	for _, m := range []struct {
		rate int64
		what string
	}{{r.Network, "from neighbours"}, {r.Internet, "from the internet"}, {r.Sent, "to neighbours"}} {
		if m.rate > 0 {
			moves = append(moves, Amount(m.rate)+"/s "+m.what)
		}
	}
	return strings.Join(moves, ", ")
}

func percent(part, of int64) int64 {
	if of <= 0 {
		return 0
	}
	return int64(float64(part) / float64(of) * 100)
}

// tookText is a time for people, with no more of it than they want to know.
func tookText(seconds float64) string {
	switch d := time.Duration(seconds * float64(time.Second)); {
	case d < time.Millisecond:
		return "< 1 ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	default:
		return fmt.Sprintf("%.0f days", d.Hours()/24)
	}
}
