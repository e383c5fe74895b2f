package ask

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"narbor/p2p/secrets"
	"narbor/p2p/wire"
	"narbor/store"
)

// newOffering returns lookups that may offer what a signer has signed, with one neighbour.
func newOffering(s signer) *Lookups {
	ls := newTestLookups(s.Keys)
	ls.Secrets = secrets.New(secrets.Config{Trusted: s.Keys, Shared: s.Keys})
	ls.Sharing = func() bool { return true }
	ls.Neighbours.Add(newTestNeighbour(ls, "a"))
	ls.offers.running = true
	return ls
}

// A fetch waits for an offer that is under way, and no longer than a lookup waits for a neighbour.
func TestFetchWaitsAMomentForAnOffer(t *testing.T) {
	s := newSigner(t)
	_, m := s.Sign(t, "wanted", 1000)
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
	s := newSigner(t)
	synctest.Test(t, func(t *testing.T) {
		ls := newOffering(s)
		_, m := s.Sign(t, "again", 1000)
		for range 3 {
			ls.Offer(m)
		}
		if n := len(ls.offers.queue); n != 1 {
			t.Errorf("one mapping is offered %d times at once", n)
		}
		for i := range 2 * offerQueue {
			_, m := s.Sign(t, fmt.Sprint("many-", i), 1000)
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

// A neighbour that was too busy to answer an offer gets it again soon, and those that have answered do not.
func TestUnansweredOfferIsMadeAgain(t *testing.T) {
	s := newSigner(t)
	synctest.Test(t, func(t *testing.T) {
		ls := newOffering(s)
		_, m := s.Sign(t, "again", 1000)
		queued := func() *offer {
			ls.Offer(m)
			select {
			case o := <-ls.offers.queue:
				o.finish()
				return o
			default:
				return nil
			}
		}
		first := queued()
		if first == nil || first.to != nil {
			t.Fatalf("the mapping is offered as %+v, want to all", first)
		}
		if time.Sleep(offerRetry); queued() != nil {
			t.Errorf("an offer that was answered is made again after %s", offerRetry)
		}
		ls.offers.unanswered(first, "busy")
		again := queued()
		if again == nil || len(again.to) != 1 || !again.to["busy"] {
			t.Fatalf("an offer that one neighbour has not answered is made again as %+v", again)
		}
		ls.offers.unanswered(again, "busy")
		if time.Sleep(offerRetry - 1); queued() != nil {
			t.Errorf("an offer without an answer is made again before %s", offerRetry)
		}
		if time.Sleep(offerAgain - 2*offerRetry + 1); queued() == nil {
			t.Fatal("the offer is not made again")
		} else if all := queued(); all != nil {
			t.Errorf("it is made again at once: %+v", all)
		}
	})
}

// A claim that is offered has the signatures of public keys alone, and is not long.
func TestOfferedClaim(t *testing.T) {
	s, private := newSigner(t), newSigner(t)
	ls := newOffering(s)
	_, theirs := private.Sign(t, "private", 1000)
	ls.Offer(theirs)
	if n := len(ls.offers.queue); n != 0 {
		t.Error("what no public key has signed is offered")
	}
	info, m := s.Sign(t, "public", 1000)
	claim, err := ls.offers.claim(context.Background(), m)
	if err != nil || claim.String() != info.String() || !wire.IsOffer(claim) {
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
