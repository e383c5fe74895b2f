package narserve

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"narbor/trust/trusttest"
)

// TestExpectationsAreBounded has Nix ask for more narinfos than are remembered, and then for others, later.
func TestExpectationsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAhead(1<<30, nil)
		for i := range maxMappings + 10 {
			a.expect(trusttest.TextMapping(t, fmt.Sprintf("path-%d", i), "x"))
		}
		if len(a.plan.expected) != maxMappings {
			t.Errorf("%d NARs are expected, want %d", len(a.plan.expected), maxMappings)
		}
		time.Sleep(aheadFresh + time.Second)
		a.expect(trusttest.TextMapping(t, "later", "x"))
		if len(a.plan.expected) != 1 {
			t.Errorf("%d NARs are expected when the others are old, want 1", len(a.plan.expected))
		}
	})
}
