package discovery

import (
	"errors"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
	"narbor/p2p/p2ptest"
)

// newTestCandidates returns candidates of a machine that is connected to none.
func newTestCandidates(t *testing.T) *candidates {
	t.Helper()
	return newCandidates(p2ptest.NewPeer(t), func(peer.ID) bool { return false }, 0, firstLook{start: time.Now()})
}

func announcementOf(t *testing.T, expiry time.Time, addrs ...string) announcement {
	t.Helper()
	a := announcement{id: p2ptest.NewPeer(t), expiry: expiry, via: viaMDNS}
	for _, s := range addrs {
		a.addrs = append(a.addrs, ma.StringCast(s))
	}
	return a
}

func TestAnnouncementsAreBounded(t *testing.T) {
	k := newTestCandidates(t)
	now := time.Now()
	first := announcementOf(t, now.Add(time.Hour), "/ip4/10.0.0.1/tcp/1")
	k.announce(first, now)
	for range maxKnown {
		k.announce(announcementOf(t, now.Add(time.Hour), "/ip4/10.0.0.1/tcp/1"), now)
	}
	if len(k.peers) != maxKnown {
		t.Errorf("%d machines known, want %d", len(k.peers), maxKnown)
	}

	dialled := 0
	for at := now; at.Before(now.Add(10 * time.Second)); at = at.Add(100 * time.Millisecond) {
		due, _ := k.step(at)
		if len(due) > maxDials {
			t.Fatalf("%d dials at once, want at most %d", len(due), maxDials)
		}
		for _, info := range due {
			k.finished(info.ID, errors.New("no answer"), true, at)
		}
		dialled += len(due)
	}
	if limit := dialBudget + 10*dialRate + 1; dialled > limit || dialled < dialBudget {
		t.Errorf("%d dials in 10 s, want at most %d", dialled, limit)
	}

	honest := announcementOf(t, now.Add(time.Hour), "/ip4/10.0.0.2/tcp/1")
	k.announce(honest, now)
	if k.via(honest.id) == "" {
		t.Error("unreachable machines do not make room for a new one")
	}
	if len(k.peers) > maxKnown {
		t.Errorf("%d machines known, want at most %d", len(k.peers), maxKnown)
	}

	for i := range 3 * netmon.MaxAddrs {
		m := ma.StringCast("/ip4/10.0.0.2/tcp/" + string(rune('1'+i%9)) + "000")
		k.announce(announcement{honest.id, []ma.Multiaddr{m}, now.Add(time.Hour), viaMDNS}, now)
	}
	if n := len(k.peers[honest.id].addrs); n > netmon.MaxAddrs {
		t.Errorf("%d addresses of one machine, want at most %d", n, netmon.MaxAddrs)
	}
}

func TestNewMachineIsDialledBeforeFailedOnes(t *testing.T) {
	k := newTestCandidates(t)
	now := time.Now()
	for range maxKnown - 1 {
		k.announce(announcementOf(t, now.Add(time.Hour), "/ip4/10.0.0.1/tcp/6273"), now)
	}
	for at := now; at.Before(now.Add(time.Minute)); at = at.Add(100 * time.Millisecond) { // each has failed by then
		due, _ := k.step(at)
		for _, info := range due {
			k.finished(info.ID, errors.New("no answer"), true, at)
		}
	}
	now = now.Add(2 * time.Minute) // all are due again
	honest := announcementOf(t, now.Add(time.Hour), "/ip4/10.0.0.2/tcp/6273")
	k.announce(honest, now)
	due, _ := k.step(now.Add(yield))
	if len(due) == 0 || due[0].ID != honest.id {
		t.Errorf("of %d dials the new machine's is not the first", len(due))
	}
}

func TestExpiredMachineIsForgotten(t *testing.T) {
	k := newTestCandidates(t)
	now := time.Now()
	a := announcementOf(t, now.Add(time.Minute), "/ip4/10.0.0.1/tcp/1")
	k.announce(a, now)
	k.step(now.Add(59 * time.Second)) // it is being dialled
	k.finished(a.id, errors.New("no answer"), true, now.Add(59*time.Second))
	if k.via(a.id) == "" {
		t.Error("forgotten too early")
	}
	k.step(now.Add(61 * time.Second))
	if k.via(a.id) != "" {
		t.Error("not forgotten")
	}
}

func TestRedialBacksOff(t *testing.T) {
	k := newTestCandidates(t)
	now := time.Now()
	a := announcementOf(t, now.Add(time.Hour), "/ip4/10.0.0.1/tcp/1")
	k.announce(a, now)
	now = now.Add(yield)
	for i := range 10 {
		due, _ := k.step(now)
		if len(due) != 1 {
			t.Fatalf("failure %d: %d dials are due, want 1", i, len(due))
		}
		k.finished(a.id, errors.New("no answer"), true, now)
		wait := k.peers[a.id].due.Sub(now)
		full := min(redialMin<<i, redialMax)
		if wait < full/2 || wait > full+time.Millisecond {
			t.Errorf("pause after failure %d = %v, want %v to %v", i+1, wait, full/2, full)
		}
		now = now.Add(wait)
	}

	k.announce(announcement{a.id, []ma.Multiaddr{ma.StringCast("/ip4/10.0.0.7/tcp/1")}, a.expiry, viaMDNS}, now)
	if k.peers[a.id].due.After(now) {
		t.Error("a machine that announces a new address is not dialled at once")
	}

	due, _ := k.step(now)
	if len(due) != 1 || due[0].Addrs[0].String() != "/ip4/10.0.0.7/tcp/1" {
		t.Fatalf("dials %v, want the new address first", due)
	}
	k.finished(a.id, nil, true, now)
	k.lose(a.id, now.Add(time.Second))
	k.lose(a.id, now.Add(time.Second))
	if k.peers[a.id].failures != 2 || k.peers[a.id].due.Sub(now) < redialMin {
		t.Error("a connection that does not hold is dialled again without growing pauses")
	}
	now = now.Add(time.Hour)
	k.lose(a.id, now)
	if wait := k.peers[a.id].due.Sub(now); wait > redialMin+time.Millisecond {
		t.Errorf("pause after a connection that held = %v, want at most %v", wait, redialMin)
	}
	k.linksChanged(now)
	if k.peers[a.id].due.After(now) {
		t.Error("not dialled at once after the network changed")
	}
}

func TestSettling(t *testing.T) {
	start := time.Now()
	ms := func(n int) time.Time { return start.Add(time.Duration(n) * time.Millisecond) }
	for _, c := range []struct {
		name  string
		round firstLook
		at    int
		busy  bool
		want  bool
	}{
		{"links not looked at", firstLook{mdns: true}, 10, false, false},
		{"no link", firstLook{mdns: true, looked: true}, 10, false, true},
		{"no mDNS", firstLook{looked: true, linked: start}, 10, false, true},
		{"no mDNS, a named peer to try", firstLook{looked: true, untried: 1}, 10, false, false},
		{"first round", firstLook{mdns: true, looked: true, linked: start}, 900, false, false},
		{"first round over", firstLook{mdns: true, looked: true, linked: start}, 1000, false, true},
		{"a machine being dialled", firstLook{mdns: true, looked: true, linked: start}, 1000, true, false},
		{"a late answer", firstLook{mdns: true, looked: true, linked: start, newest: ms(900)}, 1100, false, false},
		{"after a late answer", firstLook{mdns: true, looked: true, linked: start, newest: ms(900)}, 1200, false, true},
		{"link up late", firstLook{mdns: true, looked: true, linked: ms(500)}, 1400, false, false},
		{"at the limit", firstLook{mdns: true, linked: ms(1900), newest: ms(1990), untried: 3}, 2000, true, true},
	} {
		c.round.start = start
		if got := c.round.over(ms(c.at), c.busy); got != c.want {
			t.Errorf("%s: over after %d ms = %v, want %v", c.name, c.at, got, c.want)
		}
	}
}

// Once, until a machine is reached, and not for machines that have merely left.
func TestUnreachableMachinesAreReportedOnce(t *testing.T) {
	k := newTestCandidates(t)
	now := time.Now()
	said := 0
	fail := func(id peer.ID) {
		for range 5 {
			k.dialing++
			if k.finished(id, errors.New("no answer"), true, now) {
				said++
			}
		}
	}
	first, second, left := announcementOf(t, now.Add(time.Hour), "/ip4/10.0.0.1/tcp/6273"),
		announcementOf(t, now.Add(time.Hour), "/ip4/10.0.0.2/tcp/6273"), announcementOf(t, now.Add(time.Hour), "/ip4/10.0.0.3/tcp/6273")
	for _, a := range []*announcement{&first, &second, &left} {
		a.via = viaMDNS
		k.announce(*a, now)
	}
	k.dialing++
	k.finished(left.id, nil, true, now)
	if fail(left.id); said != 0 {
		t.Error("it is said of a machine that has left")
	}
	if fail(first.id); said != 1 {
		t.Errorf("it is said %d times of the first, want once", said)
	}
	if fail(second.id); said != 1 {
		t.Errorf("it is said %d times, want once", said)
	}
}
