package stats

import "time"

const (
	// paceLeast is the time that must have been measured before a pace is used for an estimate.
	paceLeast = 5
	// paceMemory is after how many seconds the earlier half of a measurement counts half as much: the line may be another.
	paceMemory = 600
	// paceGap is the longest time between two pieces of archives that counts. After more the machine was asleep.
	paceGap = 10 * time.Second
	// ratesOver is over how many whole seconds the current rates are taken.
	ratesOver = 5
)

// A Pace is how fast narbor's own downloads from the internet were of late. Only the time is counted in which at least one of
// them was under way, from its first piece on.
type Pace struct {
	Bytes   int64   `json:"bytes"` // of NARs
	Seconds float64 `json:"seconds"`
}

// add counts the n bytes that arrived in the time since the last ones.
func (p *Pace) add(since time.Duration, n int) {
	if since < 0 || since > paceGap {
		return
	}
	p.Bytes += int64(n)
	p.Seconds += since.Seconds()
	if p.Seconds > paceMemory {
		p.Bytes, p.Seconds = p.Bytes/2, p.Seconds/2
	}
}

// time returns the seconds that n bytes take at this pace; 0 if too little was measured.
func (p Pace) time(n int64) float64 {
	if p.Seconds < paceLeast || p.Bytes <= 0 {
		return 0
	}
	return float64(n) / (float64(p.Bytes) / p.Seconds)
}

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

// meters measure what moves. The caller of their methods holds the lock of the accounts.
type meters struct {
	limited bool // narbor's downloads are limited, so their pace is not the line's
	pace    Pace
	last    time.Time // the last piece of a download from the internet; zero if none is under way
	seconds [ratesOver + 1]second
}

// A second has what moved in one.
type second struct {
	at int64 // Unix time
	Rates
}

// download records n bytes from the internet.
func (m *meters) download(now time.Time, n int) {
	if !m.last.IsZero() && !m.limited {
		m.pace.add(now.Sub(m.last), n)
	}
	m.last = now
}

// move records what moved now.
func (m *meters) move(now time.Time, what Rates) {
	at := now.Unix()
	s := &m.seconds[at%int64(len(m.seconds))]
	if s.at != at {
		*s = second{at: at}
	}
	s.add(what)
}

// rates returns the rates of the last whole seconds.
func (m *meters) rates(now time.Time) (r Rates) {
	at := now.Unix()
	for _, s := range m.seconds {
		if s.at < at && s.at >= at-ratesOver {
			r.add(s.Rates)
		}
	}
	return Rates{r.Network / ratesOver, r.Internet / ratesOver, r.Sent / ratesOver}
}
