package stats

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"narbor/store"
	"narbor/trust"
	"narbor/trust/trusttest"

	"go.uber.org/zap"
)

func TestAccountsSayWhatPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New()
		m := trusttest.TextMapping(t, "firefox-141.0", strings.Repeat("x", 1000))
		size := m.NarSize()
		a.Begin()
		a.Received(store.FromNeighbours, m, "peer-a", int(size)-100)
		time.Sleep(2 * time.Second)
		a.Received(store.FromNeighbours, m, "peer-b", 100)
		if now := a.Account().Now; len(now) != 1 || !now[0].Incoming || now[0].Bytes != size || now[0].Seconds != 2 ||
			!slices.Equal(now[0].Peers, []string{"peer-a", "peer-b"}) || now[0].Origin != store.FromNeighbours {
			t.Errorf("while it is received, Now = %+v", now)
		}
		a.Fetched(m, store.FromNeighbours, nil)
		a.Served(m, size, 3*time.Second, true)
		a.End()
		a.Sent(m.Path(), size, "peer-c", 50)

		got := a.Account()
		sum := got.Sum(1)
		if sum.Received[store.FromNeighbours] != size || sum.Sent != 50 || sum.NARs != 1 || sum.Seconds != 2 || sum.Saved() != size ||
			sum.SavedOf() != size {
			t.Errorf("Sum(1) = %+v", sum)
		}
		if q := got.Quarters[quarters-1]; len(got.Quarters) != quarters || q.Saved() != size || q.Sent != 50 {
			t.Errorf("the last of %d quarters = %+v", len(got.Quarters), q)
		}
		if len(got.Names) != 1 || got.Names[0].Name != "firefox" || got.Names[0].Received != size || got.Names[0].Sent != 50 {
			t.Errorf("Names = %+v", got.Names)
		}
		if len(got.Peers) != 3 || got.Peers[0].Name != "peer-a" || got.Peers[0].Received != size-100 || got.Peers[2].Sent != 50 {
			t.Errorf("Peers = %+v", got.Peers)
		}
		want := Request{Time: time.Now(), Path: m.Path().Base(), Result: ResultHit, Count: 1, Bytes: size, Seconds: 3,
			Origin: store.FromNeighbours, From: []string{"peer-a", "peer-b"}}
		if len(got.Requests) != 1 || fmt.Sprint(got.Requests[0]) != fmt.Sprint(want) {
			t.Errorf("Requests = %+v, want %+v", got.Requests, want)
		}
		if len(got.Now) != 1 || got.Now[0].Incoming || got.Now[0].Bytes != 50 {
			t.Errorf("Now = %+v, want what is being sent", got.Now)
		}
		time.Sleep(passingIdle + time.Second)
		if now := a.Account().Now; len(now) != 0 {
			t.Errorf("Now = %+v after a while", now)
		}
	})
}

func TestRequestsAlikeAreOneEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New()
		m := trusttest.TextMapping(t, "found", "x")
		for range 1000 {
			a.NotFound("0jqd0rlxzra1rs38rdxl43yh6rxchgc6", store.ErrNotFound)
			a.Found(m.Path())
			a.NotFound("1jqd0rlxzra1rs38rdxl43yh6rxchgc6", fmt.Errorf("%w: %w", store.ErrNotFound, trust.ErrUntrusted))
			time.Sleep(time.Millisecond)
		}
		got := a.Account()
		if len(got.Requests) != 3 || got.Requests[0].Count != 1000 || got.Requests[0].Result != ResultRejected ||
			got.Requests[2].Result != ResultMiss {
			t.Errorf("Requests = %+v, want three of 1000", got.Requests)
		}
		if sum := got.Sum(0); sum.Missed != 2000 || sum.Found != 1000 {
			t.Errorf("Sum = %+v", sum)
		}
		time.Sleep(alikeFor)
		a.Found(m.Path())
		for i := range 2 * maxRequests {
			a.Served(m, int64(i), 0, true)
		}
		if got := a.Account().Requests; len(got) != maxRequests || got[0].Bytes != 2*maxRequests-1 ||
			got[maxRequests-1].Bytes != maxRequests {
			t.Errorf("%d requests are remembered, from %+v to %+v", len(got), got[0], got[len(got)-1])
		}
	})
}

// All that others can make grow stays within its bounds, and so does the file.
func TestAccountsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "account.json")
		a, err := Open(file)
		if err != nil {
			t.Fatal(err)
		}
		for day := range maxDays + 50 {
			for i := range 20 {
				m := trusttest.TextMapping(t, fmt.Sprintf("%s%c%c", strings.Repeat("n", 190), 'a'+day%26, 'a'+i), "x")
				a.Received(store.FromNeighbours, m, fmt.Sprintf("peer-%d-%d", day, i), day+1)
				a.Fetched(m, store.FromNeighbours, nil)
				a.Served(m, int64(day), time.Second, true)
				a.Sent(m.Path(), m.NarSize(), fmt.Sprintf("other-%d-%d", day, i), 1)
			}
			for i := range 2 * maxPassing {
				a.Sent(trusttest.TextMapping(t, "same", "x").Path(), 1, fmt.Sprintf("crowd-%d", i), 0)
			}
			if len(a.transfers.passing) > maxPassing {
				t.Fatalf("%d transfers are known to be under way", len(a.transfers.passing))
			}
			time.Sleep(24 * time.Hour)
		}
		got := a.Account()
		if len(got.Days) != maxDays || len(got.Peers) > maxPeers || len(got.Names) > maxNames || len(got.Now) > maxPassing ||
			len(a.shares.peers) > 2*maxPeers || len(a.shares.names) > 2*maxNames || len(a.history.quarters) > quarters {
			t.Errorf("%d days, %d peers, %d names, %d under way", len(got.Days), len(a.shares.peers), len(a.shares.names), len(got.Now))
		}
		if got.Peers[0].Received != int64(maxDays+50) {
			t.Errorf("the peer that gave most is %+v", got.Peers[0])
		}
		if err := a.Save(); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(file); err != nil || fi.Size() > maxAccountsFile/4 {
			t.Errorf("the file: %v, %v", fi.Size(), err)
		}
	})
}

func TestAccountsOutlastTheProgram(t *testing.T) {
	file := filepath.Join(t.TempDir(), "account.json")
	a, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	m := trusttest.TextMapping(t, "kept-1", "x")
	a.Received(store.FromNeighbours, m, "peer-a", 113)
	a.Fetched(m, store.FromNeighbours, nil)
	a.Served(m, 113, time.Second, true)
	a.NotFound("0jqd0rlxzra1rs38rdxl43yh6rxchgc6", store.ErrNotFound)
	if err := a.Save(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := a.Save(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("it is written again though nothing has changed")
	}
	a.Found(m.Path())
	if err := a.Save(); err != nil {
		t.Fatal(err)
	}
	b, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	want, got := a.Account(), b.Account()
	if fmt.Sprint(want.Sum(0)) != fmt.Sprint(got.Sum(0)) || len(got.Requests) != 3 || len(got.Peers) != 1 || len(got.Names) != 1 ||
		!got.Since.Equal(want.Since) {
		t.Errorf("read again:\n%+v\nwritten:\n%+v", got, want)
	}
	b.Found(m.Path())
	if sum := b.Account().Sum(1); sum.Found != 2 {
		t.Errorf("counting goes on at %+v", sum)
	}
}

// TestMissesOutlastTheProgram has a path that Nix fetches elsewhere while narbor is restarted.
func TestMissesOutlastTheProgram(t *testing.T) {
	const hp = store.HashPart("0jqd0rlxzra1rs38rdxl43yh6rxchgc6")
	file := filepath.Join(t.TempDir(), "account.json")
	a, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	a.NotFound(hp, store.ErrNotFound)
	if err := a.Save(); err != nil {
		t.Fatal(err)
	}
	b, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	if due := b.missed.due(time.Now().Add(missCheckAfter(0))); len(due) != 1 || due[0] != hp || len(b.missed.added) != 1 {
		t.Errorf("after a restart %v are looked for, want %s; Run is woken %d times", due, hp, len(b.missed.added))
	}
	b.looked(hp, 1000)
	if sum := b.Account().Sum(1); sum.ByNix != 1000 {
		t.Errorf("%d bytes were fetched by Nix, want 1000", sum.ByNix)
	}
	if err := b.Save(); err != nil {
		t.Fatal(err)
	}
	c, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	if due := c.missed.due(time.Now().Add(time.Hour)); len(due) != 0 {
		t.Errorf("%v are looked for again", due)
	}
}

func TestDamagedAccountsBeginAnew(t *testing.T) {
	good := `{"schema":1,"days":[{"date":"2020-01-01","received":{"neighbours":5}},{"date":"2020-01-02"}]}`
	if a, err := parseAccount([]byte(good), time.Now()); err != nil || a.Sum(0).Saved() != 5 {
		t.Fatalf("parseAccount(%s) = %+v, %v", good, a, err)
	}
	for _, text := range []string{
		"", "{", "null", good + "x", good + good, good[:len(good)-1], strings.Replace(good, `"schema":1`, `"schema":2`, 1),
		strings.Replace(good, "2020-01-01", "2020-01-03", 1), strings.Replace(good, "2020-01-01", "yesterday", 1),
		strings.Replace(good, ":5", ":-5", 1), strings.Replace(good, ":5", `:"5"`, 1),
		strings.Replace(good, `"days"`, `"lastUpdate":{"start":"2020-01-01T00:00:00Z","nars":-1},"days"`, 1),
		`{"schema":1,"days":[` + strings.Repeat(`{},`, 400) + `{}]}`,
		`{"schema":1,"missed":[` + strings.Repeat(`{},`, maxMissChecks) + `{}]}`, good + strings.Repeat(" ", maxAccountsFile),
	} {
		file := filepath.Join(t.TempDir(), "account.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := Open(file)
		if err == nil || !strings.Contains(a.Account().Note, "begins anew") || len(a.Account().Days) != 0 {
			t.Errorf("OpenAccounts of %.60q = %v, %+v: want empty ones that say so", text, err, a.Account().Days)
			continue
		}
		if strings.Count(err.Error(), file) != 1 {
			t.Errorf("Open = %v, want the file to be named once", err)
		}
		if err := a.Save(); err != nil {
			t.Error(err)
		}
		if _, err := Open(file); err != nil {
			t.Errorf("after that, OpenAccounts = %v", err)
		}
	}
	future := strings.Replace(good, "2020-01-02", "2999-01-02", 1)
	if a, err := parseAccount([]byte(future), time.Now()); err != nil || len(a.Days) != 1 {
		t.Errorf("a day of a wrong clock: %+v, %v", a.Days, err)
	}
}

func FuzzParseAccount(f *testing.F) {
	f.Add(`{"schema":1,"days":[{"date":"2020-01-01","received":{"neighbours":5}}],"requests":[{"path":"x"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		a, err := parseAccount([]byte(text), time.Now())
		if err == nil && (a.Sum(0).Saved() < 0 || len(a.Days) > maxDays) {
			t.Errorf("parseAccount accepts %q", text)
		}
	})
}

func TestWhatNixFetchesItselfIsCountedAsInternet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hp = store.HashPart("0jqd0rlxzra1rs38rdxl43yh6rxchgc6")
		a := New()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		var asked atomic.Int64
		go func() {
			defer close(ended)
			a.Run(ctx, func(context.Context, store.HashPart) int64 {
				asked.Add(1)
				return 0
			}, zap.NewNop())
		}()
		a.NotFound(hp, store.ErrNotFound)
		time.Sleep(3 * time.Hour)
		if sum := a.Account().Sum(0); sum.ByNix != 0 || asked.Load() != missTries {
			t.Errorf("a path that stays absent counts: %+v; it was looked for %d times, want %d", sum, asked.Load(), missTries)
		}
		a.NotFound(hp, store.ErrNotFound)
		a.looked(hp, 0)
		a.looked(hp, 500)
		a.looked(hp, 500)
		if sum := a.Account().Sum(0); sum.ByNix != 500 || sum.ByNixPaths != 1 || sum.SavedOf() != 500 {
			t.Errorf("Sum(0) after Nix has fetched 500 bytes = %+v", sum)
		}
		cancel()
		<-ended
	})
}

func TestPackageName(t *testing.T) {
	for in, want := range map[string]string{
		"firefox-141.0": "firefox", "gcc-wrapper-13.2.0": "gcc-wrapper", "nss-cacert-3.98": "nss-cacert", "hello": "hello",
		"python3.11-numpy-1.26": "python3.11-numpy", "a-": "a", "x-y": "x-y", "glibc-2.39-bin": "glibc",
	} {
		p, err := store.ParsePathName(strings.Repeat("a", 32) + "-" + in)
		if err != nil {
			t.Fatal(err)
		}
		if got := packageName(p); got != want {
			t.Errorf("packageName(%s) = %q, want %q", in, got, want)
		}
	}
}
