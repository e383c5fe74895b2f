package rebase_test

import (
	"slices"
	"strings"
	"testing"

	"narbor/store"
	"narbor/store/rebase"
)

// FuzzPairs is about two claims: with the pairs, the references of one are those of the other.
func FuzzPairs(f *testing.F) {
	f.Fuzz(func(t *testing.T, olds, wanteds string) {
		old, wanted := claimOf(olds), claimOf(wanteds)
		if old.Path.IsZero() || wanted.Path.IsZero() {
			return
		}
		pairs, err := rebase.Pairs(old, wanted)
		if err != nil {
			return
		}
		becomes := map[store.Path]store.Path{}
		for _, p := range pairs {
			if _, twice := becomes[p.Old]; twice || p.Old == p.New || len(p.Old.Base()) != len(p.New.Base()) {
				t.Errorf("%s became %s", p.Old, p.New)
			}
			becomes[p.Old] = p.New
		}
		var refs []store.Path
		for _, r := range old.References {
			if n, ok := becomes[r]; ok {
				r = n
			}
			refs = append(refs, r)
		}
		if refs = store.SortPaths(refs); !slices.Equal(refs, wanted.References) {
			t.Errorf("the references %v became %v, want %v", old.References, refs, wanted.References)
		}
	})
}

// claimOf reads a claim: the first line is the path, the others are its references. The first byte of a line is the
// last of the hash part.
func claimOf(text string) (info store.Info) {
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" {
			continue
		}
		p, err := store.ParsePathName(strings.Repeat("0", 31) + line[:1] + "-" + line[1:])
		switch {
		case err != nil:
		case info.Path.IsZero():
			info.Path = p
		default:
			info.References = append(info.References, p)
		}
	}
	info.References = store.SortPaths(info.References)
	return info
}

// FuzzWriter makes a text of what it is given, in which a byte below 16 stands for something that is hard to find by
// chance: a base name, a hash part, pieces of them. The cuts are the lengths of the writes, in turn.
func FuzzWriter(f *testing.F) {
	clean := hash1 + "-foo-1.0>" + new1 + "-foo-1.1 " + hash2 + "-bar>" + new2 + "-bar " + hash3 + "-" + strings.Repeat("n", 211) +
		">" + new3 + "-" + strings.Repeat("m", 211)
	nasty := strings.Repeat("a", 32) + "-x>" + strings.Repeat("b", 32) + "-y " + strings.Repeat("b", 32) + "-x>" + hash1 + "-x " +
		hash1 + "-" + hash2 + "-foo>" + hash2 + "-" + hash1 + "-foo " + hash2 + "-foo>" + strings.Repeat("a", 32) + "-foo"
	words := []string{hash1, hash1 + "-foo-1.0", hash1 + "-foo-1", hash2, hash2 + "-bar", hash2 + "-foo",
		hash3 + "-" + strings.Repeat("n", 211), hash3 + "-" + strings.Repeat("n", 200), hash1[:31], hash1[1:],
		strings.Repeat("a", 31), strings.Repeat("b", 33), "nnnnnnnnnnn", hash1 + "-" + hash2, "/nix/store/", strings.Repeat("\x00", 40)}
	f.Fuzz(func(t *testing.T, text, cuts string) {
		if len(text) > 1<<8 {
			return
		}
		var b strings.Builder
		for _, c := range []byte(text) {
			if int(c) < len(words) {
				b.WriteString(words[c])
			} else {
				b.WriteByte(c)
			}
		}
		in := b.String()
		for _, spec := range []string{clean, nasty, ""} {
			pairs := pairsOf(t, spec)
			got, want := rewrite(t, pairs, pieces(in, cuts)...), slow(pairs, in)
			if got != want {
				t.Fatalf("%q cut by %q became\n%q, want\n%q", in, cuts, got, want)
			}
			if spec == clean && !hasNew(pairs, in) {
				if back := rewrite(t, inverse(pairs), pieces(got, cuts)...); back != in {
					t.Fatalf("%q became %q, and back\n%q", in, got, back)
				}
			}
		}
	})
}

// pieces cuts the text into pieces of these lengths, in turn.
func pieces(text, cuts string) (out []string) {
	for i := 0; text != ""; i++ {
		n := len(text)
		if cuts != "" {
			n = min(n, int(cuts[i%len(cuts)])+1)
		}
		out = append(out, text[:n])
		text = text[n:]
	}
	return out
}

// hasNew returns whether a new hash part stands in the text, or a new name that is not the old one.
func hasNew(pairs []rebase.Pair, text string) bool {
	for _, p := range pairs {
		if strings.Contains(text, string(p.New.HashPart())) || p.New.Name() != p.Old.Name() && strings.Contains(text, p.New.Name()) {
			return true
		}
	}
	return false
}

func inverse(pairs []rebase.Pair) (back []rebase.Pair) {
	for _, p := range pairs {
		back = append(back, rebase.Pair{Old: p.New, New: p.Old})
	}
	return back
}
