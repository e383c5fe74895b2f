package dashboard_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"narbor/cmd/narbor/dashboard"
	"narbor/narserve/stats"
	"narbor/store"
)

// pageOf returns the page of a machine that has transferred these amounts today, and others on earlier days, the latest
// first.
func pageOf(t *testing.T, facts dashboard.Facts, today stats.Amounts, earlier ...stats.Day) string {
	t.Helper()
	days := append([]stats.Day{{Date: time.Now().Format(time.DateOnly), Amounts: today}}, earlier...)
	slices.Reverse(days)
	return pageOfAccount(t, facts, stats.Account{Schema: 1, Since: time.Now(), Days: days})
}

func pageOfAccount(t *testing.T, facts dashboard.Facts, account stats.Account) string {
	t.Helper()
	text, err := json.Marshal(account)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "account.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	accounts, err := stats.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	return get(t, dashboard.New(func() dashboard.Facts { return facts }, accounts), "/").Text
}

// The large figure is a share only where there is one: a machine that only gives is told what it gave.
func TestLargeFigureIsNeverZero(t *testing.T) {
	facts := evilFacts([]string{"name"})
	got := map[store.Origin]int64{store.FromNeighbours: 1 << 20}
	for name, c := range map[string]struct {
		today stats.Amounts
		want  string
	}{
		"gives only":            {stats.Amounts{Sent: 3 << 30}, `<p class="big word">3.0 GiB</p>`},
		"gives and downloads":   {stats.Amounts{Sent: 3 << 30, ByNix: 1 << 30}, `<p class="big word">3.0 GiB</p>`},
		"downloads only":        {stats.Amounts{ByNix: 1 << 30}, `<p class="big word">Ready</p>`},
		"receives little":       {stats.Amounts{Sent: 1, ByNix: 1 << 40, Received: got}, `<p class="big">&lt;1<small> %</small></p>`},
		"receives all":          {stats.Amounts{Sent: 1, Received: got}, `<p class="big">100<small> %</small></p>`},
		"nothing has moved yet": {stats.Amounts{}, `<p class="big word">Ready</p>`},
	} {
		if page := pageOf(t, facts, c.today); !strings.Contains(page, c.want) || strings.Contains(page, `"big">0`) {
			t.Errorf("%s: the page lacks %s:\n%s", name, c.want, page)
		}
	}
}

func TestPausedPageDoesNotSayThatNeighboursGetSomething(t *testing.T) {
	facts := evilFacts([]string{"name"})
	facts.ShareKeys, facts.PrivateKeys, facts.Store = []string{"public-1"}, []string{"private-1"}, "/nix/store"
	says := []string{"or neighbours from here", "signed, to", "Read from", "share pause"}
	page := pageOf(t, facts, stats.Amounts{})
	for _, text := range says {
		if !strings.Contains(page, text) {
			t.Errorf("while it shares, the page does not say %q", text)
		}
	}
	facts.Sharing = "none"
	page = pageOf(t, facts, stats.Amounts{})
	for _, text := range says {
		if strings.Contains(page, text) {
			t.Errorf("while it is paused, the page says %q", text)
		}
	}
	if !strings.Contains(page, "narbor share resume") {
		t.Error("while it is paused, the page does not say how to end that")
	}
}

// The graph of 30 days has a bar for each day at its place, and none for a day before.
func TestMonthGraphHasEachDayAtItsPlace(t *testing.T) {
	page := pageOf(t, evilFacts([]string{"name"}), stats.Amounts{Sent: 1 << 30}, stats.Day{
		Date: time.Now().AddDate(0, 0, -29).Format(time.DateOnly), Amounts: stats.Amounts{Sent: 1 << 29}}, stats.Day{
		Date: time.Now().AddDate(0, 0, -30).Format(time.DateOnly), Amounts: stats.Amounts{Sent: 1 << 40}})
	_, graph, _ := strings.Cut(page, `id="m-t"`)
	graph, _, _ = strings.Cut(graph, "</svg>")
	for _, want := range []string{`<rect class="out" x="0" y="68" width="8" height="32"/>`,
		`<rect class="out" x="290" y="68" width="8" height="64"/>`} {
		if !strings.Contains(graph, want) || strings.Count(graph, "<rect") != 2 {
			t.Errorf("the graph lacks %s, or has more than two bars:\n%s", want, graph)
		}
	}
}

func TestPageNamesPeersThatAreNotHere(t *testing.T) {
	facts := evilFacts([]string{"name"})
	page := pageOfAccount(t, facts, stats.Account{Schema: 1, Peers: []stats.Share{{Name: "name", Last: time.Now()},
		{Name: "<b>away", Last: time.Now().Add(-3 * time.Hour)}}})
	if want := `Not here now: <span title="&lt;b&gt;away">&lt;b&gt;away</span> (last transfer 3 h ago)</p>`; !strings.Contains(page, want) {
		t.Errorf("the page lacks %s:\n%s", want, page)
	}
}

func TestPageSaysThatNothingIsUnderWayOnlyIfNothingMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const nothing = "Nothing is under way"
		accounts := stats.New()
		page := dashboard.New(func() dashboard.Facts { return evilFacts([]string{"name"}) }, accounts)
		if text := get(t, page, "/").Text; !strings.Contains(text, nothing) {
			t.Errorf("the page of an idle machine lacks %q:\n%s", nothing, text)
		}
		path, err := store.ParsePathName("0jqd0rlxzra1rs38rdxl43yh6rxchgc6-x")
		if err != nil {
			t.Fatal(err)
		}
		accounts.Sent(path, 1<<20, "peer", 1<<20)
		time.Sleep(4 * time.Second) // longer than a transfer without a block counts as under way
		if text := get(t, page, "/").Text; strings.Contains(text, nothing) || !strings.Contains(text, "/s to neighbours") {
			t.Errorf("just after a transfer the page is\n%s", text)
		}
	})
}
