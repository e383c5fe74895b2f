package stats

import (
	"fmt"
	"testing"
	"time"
)

func TestAwayArePeersOfLateThatAreNotHere(t *testing.T) {
	now := time.Now()
	a := Account{Peers: []Share{{Name: "here", Last: now}, {Name: "old", Last: now.Add(-awayFor)}, {Name: upstreamName, Last: now},
		{Name: "", Last: now}, {Name: "b", Last: now.Add(-2 * time.Hour)}, {Name: "a", Last: now.Add(-time.Hour)}}}
	here := func(id string) bool { return id == "here" }
	if got := a.Away(here, now); len(got) != 2 || got[0].Name != "a" || got[1].Name != "b" {
		t.Errorf("away are %+v", got)
	}
	for i := range 2 * maxAway {
		a.Peers = append(a.Peers, Share{Name: fmt.Sprint(i), Last: now})
	}
	if got := a.Away(here, now); len(got) != maxAway {
		t.Errorf("%d are away, want %d at most", len(got), maxAway)
	}
}
