package narserve_test

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"narbor/narserve"
	"narbor/narserve/stats"
	"narbor/store/spool"
)

// TestNarinfoOfWhatDoesNotFitIsNotFound has spools that are too small for a NAR: by their cap, and by the room on the
// disk.
func TestNarinfoOfWhatDoesNotFitIsNotFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			cfg              spool.Config
			tooLarge, noRoom bool
		}{
			"cap":  {spool.Config{MaxBytes: 1 << 20, MinFree: -1}, true, false},
			"disk": {spool.Config{MaxBytes: 1 << 30, MinFree: 1 << 60}, false, true},
		} {
			w := newWorld(t)
			large, _ := w.add(t, "large", 2<<20)
			c.cfg.Dir = t.TempDir()
			spool, err := spool.Open(c.cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer spool.Close()
			core, logs := observer.New(zap.WarnLevel)
			accounts := stats.New()
			s := narserve.New(narserve.Config{Sources: []narserve.Source{narserve.Local(w.mem, w.keys, spool)}, Keys: w.keys,
				Fits: spool.Fits, Accounts: accounts, Log: zap.New(core)})
			wantStatus(t, name+": narinfo", do(s, "GET", narinfoPath(large)), 404)
			if logs.Len() != 1 || logs.All()[0].ContextMap()["path"] != large.Path.String() {
				t.Errorf("%s: logged %v, want one warning with the path", name, logs.All())
			}
			if a, b := accounts.TooLarge(time.Hour), accounts.OutOfRoom(time.Hour); a != c.tooLarge || b != c.noRoom {
				t.Errorf("%s: too large is %v and out of room is %v, want %v and %v", name, a, b, c.tooLarge, c.noRoom)
			}
			if c.tooLarge {
				small, _ := w.add(t, "small", 1<<10)
				wantStatus(t, name+": narinfo of a small one", do(s, "GET", narinfoPath(small)), 200)
			}
		}
	})
}
