package ask

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/peers"
	"narbor/p2p/secrets"
	"narbor/store"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// newOffering returns lookups that may offer what a signer has signed, with one neighbour.
func newOffering(s trusttest.Signer) *Lookups {
	ls := newTestLookups(s.Keys)
	ls.Secrets = secrets.New(secrets.Config{Trusted: s.Keys, Shared: s.Keys})
	ls.Sharing = func() bool { return true }
	ls.Neighbours.Add(newTestNeighbour(ls, "a"))
	ls.offers.running = true
	return ls
}

// A fetch waits for an offer that is under way, and no longer than a lookup waits for a neighbour.
func TestFetchWaitsAMomentForAnOffer(t *testing.T) {
	s := trusttest.NewSigner(t)
	_, m := s.SignSize(t, "wanted", 1000)
	synctest.Test(t, func(t *testing.T) {
		ls := newOffering(s)
		start := time.Now()
		ls.offers.await(t.Context(), m)
		if took := time.Since(start); took != 0 {
			t.Errorf("without an offer the fetch waited %s", took)
		}
		ls.Offer(m)
		ls.offers.await(t.Context(), m)
		if took := time.Since(start); took != offerPatience {
			t.Errorf("the fetch waited %s for an offer without an answer, want %s", took, offerPatience)
		}
		ls.offers.await(t.Context(), m)
		if took := time.Since(start); took != offerPatience {
			t.Errorf("it waited twice: %s", took)
		}
		(<-ls.offers.queue).finish()
		time.Sleep(offerAgain)
		ls.Offer(m)
		next := <-ls.offers.queue
		go func() {
			time.Sleep(time.Millisecond)
			next.finish()
		}()
		start = time.Now()
		ls.offers.await(t.Context(), m)
		if took := time.Since(start); took != time.Millisecond {
			t.Errorf("the fetch waited %s for an answer after a millisecond", took)
		}
	})
}

func TestOffersAreFew(t *testing.T) {
	s := trusttest.NewSigner(t)
	synctest.Test(t, func(t *testing.T) {
		ls := newOffering(s)
		_, m := s.SignSize(t, "again", 1000)
		for range 3 {
			ls.Offer(m)
		}
		if n := len(ls.offers.queue); n != 1 {
			t.Errorf("one mapping is offered %d times at once", n)
		}
		for i := range 2 * offerQueue {
			_, m := s.SignSize(t, fmt.Sprint("many-", i), 1000)
			ls.Offer(m)
		}
		if n := len(ls.offers.queue); n != offerQueue {
			t.Errorf("%d offers wait, want %d", n, offerQueue)
		}
		if batch := ls.offers.batch(<-ls.offers.queue); len(batch) != offersAtOnce {
			t.Errorf("%d are sent together, want %d", len(batch), offersAtOnce)
		}
		for range maxVain - 1 {
			ls.offers.answered("a", false)
		}
		ls.offers.answered("a", true)
		for range maxVain - 1 {
			ls.offers.answered("a", false)
		}
		if !ls.offers.mayOffer("a", time.Now()) {
			t.Error("a neighbour that takes some offers gets none")
		}
		ls.offers.answered("a", false)
		if ls.offers.mayOffer("a", time.Now()) {
			t.Errorf("a neighbour that has taken none of %d offers gets more", maxVain)
		}
		time.Sleep(vainPause + time.Second)
		if !ls.offers.mayOffer("a", time.Now()) {
			t.Error("it gets none after a while either")
		}
	})
}

// A neighbour that has come since an offer gets it at once, one that was too busy to answer gets it again soon, and
// those that have answered do not.
func TestOffersOfOneMapping(t *testing.T) {
	s := trusttest.NewSigner(t)
	synctest.Test(t, func(t *testing.T) {
		ls := newOffering(s)
		ls.Neighbours.Add(newTestNeighbour(ls, "busy"))
		info, m := s.SignSize(t, "again", 1000)
		wantOffered := func(when string, want ...string) {
			t.Helper()
			ls.Offer(m)
			var got []string
			select {
			case o := <-ls.offers.queue:
				for _, nb := range ls.Neighbours.All() {
					lacking := ls.offers.lacking([]offered{{o, info}}, nb.ID)
					if len(lacking) > 0 {
						got = append(got, string(nb.ID))
					}
					if nb.ID == "busy" {
						ls.offers.unanswered(lacking, nb.ID)
					}
				}
				o.finish()
			default:
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s it is offered to %q, want %q", when, got, want)
			}
		}
		first := time.Now()
		wantOffered("at first", "a", "busy")
		time.Sleep(offerRetry - 1)
		wantOffered("a moment later")
		ls.Neighbours.Add(newTestNeighbour(ls, "new"))
		wantOffered("when a neighbour has come", "new")
		time.Sleep(offerRetry - 1)
		wantOffered("a moment after that")
		time.Sleep(time.Nanosecond)
		wantOffered("when the busy one may be asked again", "busy")
		time.Sleep(time.Until(first.Add(offerAgain - 1)))
		wantOffered("later", "busy")
		time.Sleep(time.Nanosecond)
		wantOffered("when all may be asked again", "a", "busy", "new")
	})
}

// A neighbour that is not asked, because it is late or takes no offers, gets the offer later; one that may not hear of
// the path does not.
func TestOfferThatIsNotSent(t *testing.T) {
	s := trusttest.NewSigner(t)
	info, m := s.SignSize(t, "later", 1000)
	info.Ultimate = true
	mem := new(store.Mem)
	mem.Add(info, nil)
	for name, c := range map[string]struct {
		given func(*Lookups, *peers.Neighbour)
		again bool
	}{
		"the neighbour is late": {func(_ *Lookups, nb *peers.Neighbour) { nb.Late.Store(1) }, true},
		"it takes no offers": {func(ls *Lookups, nb *peers.Neighbour) {
			for range maxVain {
				ls.offers.answered(nb.ID, false)
			}
		}, true},
		"the path was built here": {func(ls *Lookups, _ *peers.Neighbour) {
			ls.Secrets = secrets.New(secrets.Config{Trusted: s.Keys, Shared: s.Keys, Sources: []store.Source{mem}})
		}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			ls := newOffering(s)
			c.given(ls, ls.Neighbours.Get("a"))
			ls.Offer(m)
			ls.offers.send(t.Context(), ls.offers.batch(<-ls.offers.queue))
			time.Sleep(offerRetry - 1)
			if ls.Offer(m); len(ls.offers.queue) != 0 {
				t.Errorf("%s: it is offered again at once", name)
			}
			time.Sleep(time.Nanosecond)
			if ls.Offer(m); (len(ls.offers.queue) == 1) != c.again {
				t.Errorf("%s: it is offered %d times after %s, want again: %t", name, len(ls.offers.queue), offerRetry, c.again)
			}
		})
	}
}

// remember makes a neighbour a holder, by what it has said before.
func (ls *Lookups) remember(m trust.Mapping, id peer.ID) {
	f := &Finding{Mapping: m, found: time.Now()}
	f.add(id, false)
	ls.findings.Add(m.Path().HashPart(), f)
}

// A holder that is still a neighbour makes an offer unnecessary, and one that has left does not.
func TestOfferAfterTheHoldersHaveLeft(t *testing.T) {
	s := trusttest.NewSigner(t)
	_, m := s.SignSize(t, "held", 1000)
	for holder, want := range map[peer.ID]int{"a": 0, "gone": 1} {
		ls := newOffering(s)
		ls.remember(m, holder)
		if ls.Offer(m); len(ls.offers.queue) != want {
			t.Errorf("with the holder %q the mapping is offered %d times, want %d", string(holder), len(ls.offers.queue), want)
		}
	}
}

// A kept claim counts if a neighbour says, after the offer, that it has the NAR, and can send it in time.
func TestKeptClaimNeedsAHolderNow(t *testing.T) {
	s := trusttest.NewSigner(t)
	info, m := s.SignSize(t, "kept", 1<<20)
	nothing := func(*Lookups, *peers.Neighbour) {}
	for name, c := range map[string]struct {
		given      func(*Lookups, *peers.Neighbour) // what was before
		has, takes bool                             // the neighbour has the path at first, and once it was offered
		want       bool
	}{
		"a neighbour takes the offer":          {nothing, false, true, true},
		"a neighbour has the path":             {nothing, true, false, true},
		"no neighbour has it":                  {nothing, false, false, false},
		"a neighbour that has left had it":     {func(ls *Lookups, _ *peers.Neighbour) { ls.remember(m, "gone") }, false, false, false},
		"it has left, another takes the offer": {func(ls *Lookups, _ *peers.Neighbour) { ls.remember(m, "gone") }, false, true, true},
		"a neighbour had it a moment ago":      {func(ls *Lookups, nb *peers.Neighbour) { ls.remember(m, nb.ID) }, false, false, false},
		"a neighbour has it, and is too slow":  {func(_ *Lookups, nb *peers.Neighbour) { nb.Rated(2000, time.Now()) }, true, false, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			ls := newOffering(s)
			nb := ls.Neighbours.Get("a")
			c.given(ls, nb)
			offers := 0
			go func() {
				for has := c.has; ; {
					select {
					case o := <-ls.offers.queue:
						offers++
						has = has || c.takes
						o.finish()
					case q := <-nb.Asks:
						r := peers.Reply{From: nb}
						if has {
							r.Text = info.String()
						}
						q.Answer(r)
					case <-t.Context().Done():
						return
					}
				}
			}()
			if got := ls.OfferNow(t.Context(), m); got != c.want {
				t.Errorf("%s: OfferNow = %t, want %t", name, got, c.want)
			}
			if synctest.Wait(); offers != 1 {
				t.Errorf("%s: the claim is offered %d times, want once", name, offers)
			}
		})
	}
}

// No neighbour hears of a kept claim about a path that was built here.
func TestKeptClaimOfAnOwnBuildIsNotAskedFor(t *testing.T) {
	s := trusttest.NewSigner(t)
	info, m := s.SignSize(t, "built", 1000)
	info.Ultimate = true
	mem := new(store.Mem)
	mem.Add(info, nil)
	synctest.Test(t, func(t *testing.T) {
		ls := newOffering(s)
		ls.Secrets = secrets.New(secrets.Config{Trusted: s.Keys, Shared: s.Keys, Sources: []store.Source{mem}})
		if ls.OfferNow(t.Context(), m) {
			t.Error("it counts")
		}
		if n := len(ls.Neighbours.Get("a").Asks); n != 0 {
			t.Errorf("the neighbour is asked %d times", n)
		}
	})
}

// A claim that is offered has the signatures of public keys alone, and is not long.
func TestOfferedClaim(t *testing.T) {
	s, private := trusttest.NewSigner(t), trusttest.NewSigner(t)
	ls := newOffering(s)
	_, theirs := private.SignSize(t, "private", 1000)
	ls.Offer(theirs)
	if n := len(ls.offers.queue); n != 0 {
		t.Error("what no public key has signed is offered")
	}
	info, m := s.SignSize(t, "public", 1000)
	claim, err := ls.offers.claim(context.Background(), m)
	if err != nil || claim.String() != info.String() {
		t.Errorf("the claim is %v, %v, want %v", claim, err, info)
	}
	built := info
	built.Ultimate = true
	mem := new(store.Mem)
	mem.Add(built, nil)
	ls.Secrets = secrets.New(secrets.Config{Trusted: s.Keys, Shared: s.Keys, Sources: []store.Source{mem}})
	if claim, err := ls.offers.claim(context.Background(), m); err == nil {
		t.Errorf("what was built here is offered: %v", claim)
	}
	for name, edit := range map[string]func(*Lookups){
		"sharing is off":     func(ls *Lookups) { ls.Sharing = func() bool { return false } },
		"sharing is unknown": func(ls *Lookups) { ls.Sharing = nil },
		"it does not run":    func(ls *Lookups) { ls.offers.end() },
	} {
		ls := newOffering(s)
		edit(ls)
		if ls.Offer(m); len(ls.offers.queue) != 0 {
			t.Errorf("%s, and the path is offered", name)
		}
	}
}
