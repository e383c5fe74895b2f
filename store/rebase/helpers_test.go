package rebase_test

import (
	"bytes"
	"strings"
	"testing"

	"narbor/store"
	"narbor/store/rebase"
)

// The hash parts of these tests. None begins with the end of another one or of itself, so two of them cannot overlap.
const (
	hash1 = "1bcdfghijklmnpqrsvwxyz0000000000"
	hash2 = "2bcdfghijklmnpqrsvwxyz0000000000"
	hash3 = "4bcdfghijklmnpqrsvwxyz0000000000"
	new1  = "6bcdfghijklmnpqrsvwxyz0000000000"
	new2  = "8bcdfghijklmnpqrsvwxyz0000000000"
	new3  = "abcdfghijklmnpqrsvwxyz0000000000"
)

func path(tb testing.TB, base string) store.Path {
	tb.Helper()
	p, err := store.ParsePathName(base)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// pairsOf reads pairs of base names, "OLD>NEW OLD>NEW".
func pairsOf(tb testing.TB, text string) (pairs []rebase.Pair) {
	tb.Helper()
	for field := range strings.FieldsSeq(text) {
		old, wanted, _ := strings.Cut(field, ">")
		pairs = append(pairs, rebase.Pair{Old: path(tb, old), New: path(tb, wanted)})
	}
	return pairs
}

// rewrite returns what a Writer makes of the pieces.
func rewrite(tb testing.TB, pairs []rebase.Pair, pieces ...string) string {
	tb.Helper()
	var out bytes.Buffer
	w := rebase.NewWriter(&out, pairs)
	for _, p := range pieces {
		if n, err := w.Write([]byte(p)); n != len(p) || err != nil {
			tb.Fatalf("Write(%d bytes) = %d, %v", len(p), n, err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatalf("Close() = %v", err)
	}
	return out.String()
}

// slow returns the text with the pairs replaced, as the package comment states it, place by place.
func slow(pairs []rebase.Pair, text string) string {
	var out strings.Builder
next:
	for i := 0; i < len(text); {
		for _, p := range pairs {
			for _, n := range []int{len(p.Old.Base()), len(p.Old.HashPart())} {
				if strings.HasPrefix(text[i:], p.Old.Base()[:n]) {
					out.WriteString(p.New.Base()[:n])
					i += n
					continue next
				}
			}
		}
		out.WriteByte(text[i])
		i++
	}
	return out.String()
}
