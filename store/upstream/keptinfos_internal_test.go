package upstream

import (
	"strings"
	"testing"

	"narbor/store"
)

func TestLongNarinfoIsNotKept(t *testing.T) {
	k, err := openKeptInfos(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	for _, n := range []int{maxKeptInfo, maxKeptInfo + 1} {
		hp := store.HashPartFromBytes([20]byte{byte(n)})
		if err := k.put(hp, strings.Repeat("x", n)); err != nil {
			t.Fatal(err)
		}
		if text, ok := k.get(hp); ok != (n == maxKeptInfo) || ok && len(text) != n {
			t.Errorf("a narinfo of %d bytes: kept is %v, with %d bytes", n, ok, len(text))
		}
	}
}
