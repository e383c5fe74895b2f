package receive

import (
	"fmt"
	"sync"
	"testing"

	"narbor/p2p/fetch"
	"narbor/p2p/p2ptest"
	"narbor/store/spool"
	"narbor/store/storetest"
	"narbor/trust/trusttest"
)

// Neighbours ask for arriving NARs all the time, also at the moment of their arrival.
func TestArrivedNARIsFoundDespiteConcurrentQuestions(t *testing.T) {
	signer := trusttest.NewSigner(t)
	spool, err := spool.Open(spool.Config{Dir: t.TempDir(), MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	nar := storetest.FileNAR(p2ptest.Random(1000))
	_, first := signer.Sign(t, "first", nar)
	draft, err := spool.Create(first.NarHash(), first.NarSize())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := draft.WriteAt(nar, 0); err != nil {
		t.Fatal(err)
	}
	sp, err := draft.Commit(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	f := NewFetched(spool, nil)
	for i := range 500 {
		_, m := signer.Sign(t, fmt.Sprintf("p%d", i), nar)
		hp := m.Path().HashPart()
		arriving := new(fetch.Deps).NewSession(m, nil, m, true)
		f.begin(arriving)
		stop, missed := make(chan struct{}), 0
		var asking sync.WaitGroup
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if _, err := f.Info(t.Context(), hp); err != nil {
						missed++
					}
				}
			}
		})
		f.add(m)
		f.end(arriving)
		close(stop)
		asking.Wait()
		if _, err := f.Info(t.Context(), hp); err != nil || missed > 0 {
			t.Fatalf("Info of the %d. = %v, and %d times not found before", i, err, missed)
		}
	}
}
