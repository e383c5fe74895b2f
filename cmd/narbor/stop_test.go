package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"narbor/narserve"
	"narbor/narserve/stats"
	"narbor/store"
	"narbor/store/offered"
	"narbor/store/spool"
	"narbor/trust"

	"go.uber.org/zap"
)

// A slowSource has one path, and fetches it until its context ends.
type slowSource struct {
	m        trust.Mapping
	fetching chan struct{}
}

func (s slowSource) Lookup(context.Context, store.HashPart) (trust.Mapping, error) { return s.m, nil }

func (s slowSource) Fetch(ctx context.Context, _ trust.Mapping) (*spool.NAR, error) {
	s.fetching <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestRequestThatOutlastsTheDrainGets404(t *testing.T) {
	for name, late := range map[string]bool{"at once": false, "after a redirect": true} {
		t.Run(name, func(t *testing.T) { outlastsTheDrain(t, late) })
	}
}

// outlastsTheDrain stops narbor while a request waits for a NAR that does not come, if late once that was redirected.
func outlastsTheDrain(t *testing.T, late bool) {
	info, key := makeClosure(t, t.TempDir())
	keys := new(trust.Keys)
	if err := keys.Replace([]string{key}); err != nil {
		t.Fatal(err)
	}
	m, err := keys.Check(info)
	if err != nil {
		t.Fatal(err)
	}
	accounts, err := stats.Open(filepath.Join(t.TempDir(), "account.json"))
	if err != nil {
		t.Fatal(err)
	}
	src := slowSource{m, make(chan struct{}, 1)}
	server := narserve.New(narserve.Config{Sources: []narserve.Source{src}, Keys: keys, Accounts: accounts,
		Stalled: func() time.Duration { return time.Second }})
	serving, endFetches := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(serving) }()
	nix := httptest.NewUnstartedServer(nil)
	nix.Config = server.HTTPServer()
	nix.Start()
	url := nix.URL + "/" + regexp.MustCompile("nar/[^\n]+").FindString(get(t, nix.URL+"/"+string(info.Path.HashPart())+".narinfo"))
	answer := make(chan int, 1)
	go func() {
		resp, err := http.Get(url)
		if err != nil {
			t.Errorf("GET %s = %v, want 404", url, err)
			answer <- 0
			return
		}
		resp.Body.Close()
		answer <- resp.StatusCode
	}()
	<-src.fetching
	eventually(t, "redirecting", func() bool { return !late || server.Redirecting() })
	stopServing(nix.Config, server.Redirecting, stopTimes{time.Millisecond, atMost(10 * time.Second)}, endFetches)
	if got := <-answer; got != http.StatusNotFound {
		t.Errorf("GET %s = %d, want 404", url, got)
	}
	endFetches()
	<-ended
	if got := accounts.Account().Requests; len(got) == 0 || got[0].Reason != "narbor was stopping" { // the latest is the first
		t.Errorf("the requests are recorded as %+v, want that the stop has ended the latest", got)
	}
}

// An offer may be answered until the last part has ended.
func TestOfferOfTheLastMomentIsSaved(t *testing.T) {
	file := filepath.Join(t.TempDir(), "offered.json")
	book, err := offered.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	info, _ := makeClosure(t, t.TempDir())
	if err := book.Keep(info, info.Signatures, "peer"); err != nil {
		t.Fatal(err)
	}
	s := parts{log: logs{Logger: zap.NewNop()}, accounts: stats.New(), shares: &shares{offered: book}}
	s.saveLast()
	again, err := offered.Open(file)
	if _, ok := again.Of(info); !ok || err != nil {
		t.Errorf("the record is lost: %v", err)
	}
}
