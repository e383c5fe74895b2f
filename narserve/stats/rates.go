package stats

import "time"

// ratesOver is over how many whole seconds the current rates are taken.
const ratesOver = 5

// Rates are the bytes of NARs in a second, over the last seconds.
type Rates struct {
	Network  int64 `json:"network"`  // from neighbours, what they downloaded included
	Internet int64 `json:"internet"` // downloaded by narbor here
	Sent     int64 `json:"sent"`     // to neighbours
}

func (r *Rates) add(b Rates) {
	r.Network += b.Network
	r.Internet += b.Internet
	r.Sent += b.Sent
}

// meter has the bytes that moved in the last seconds. The caller of its methods holds the lock of the accounts.
type meter [ratesOver + 1]second

type second struct {
	at int64 // Unix time
	Rates
}

func (m *meter) move(now time.Time, what Rates) {
	at := now.Unix()
	s := &m[at%int64(len(m))]
	if s.at != at {
		*s = second{at: at}
	}
	s.add(what)
}

// rates returns the rates of the last whole seconds.
func (m *meter) rates(now time.Time) (r Rates) {
	at := now.Unix()
	for _, s := range m {
		if s.at < at && s.at >= at-ratesOver {
			r.add(s.Rates)
		}
	}
	return Rates{r.Network / ratesOver, r.Internet / ratesOver, r.Sent / ratesOver}
}
