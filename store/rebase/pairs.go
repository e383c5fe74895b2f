package rebase

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"narbor/store"
)

// A Pair is a store path of the old archive's closure, and the path that stands in its place in the wanted archive. The
// base names have equal length.
type Pair struct{ Old, New store.Path }

// Pairs pairs the old path with the wanted one, and the references of the old one with those of the wanted one. A
// reference that both have is left out, for it stays. The others are paired
//
//  1. by equal names,
//  2. then, of those that are left, by names that differ only in digits of their version,
//  3. then by names that are equal without their version, and have the same length.
//
// Old references that are left became one with another: by the same rules each is paired with a wanted reference that
// stays, or that has a partner already.
//
// Several references that a rule cannot tell apart are paired in the order of their names, then of their hash parts.
// With equal names that is a guess, and right for one in two such pairs.
//
// It fails if a reference on either side has no partner, as where one reference became two, if one path refers to
// itself and the other does not, or if the two paths differ in the length of their names: then no replacement makes the
// wanted archive. The error names the path.
func Pairs(old, wanted store.Info) ([]Pair, error) {
	if len(old.Path.Base()) != len(wanted.Path.Base()) {
		return nil, fmt.Errorf("%s has a name of another length than %s", old.Path.Base(), wanted.Path.Base())
	}
	if a, b := refersTo(old, old.Path), refersTo(wanted, wanted.Path); a != b {
		return nil, fmt.Errorf("only one of %s and %s refers to itself", old.Path.Base(), wanted.Path.Base())
	}
	var pairs []Pair
	if old.Path != wanted.Path {
		pairs = append(pairs, Pair{old.Path, wanted.Path})
	}
	olds, news := others(old, wanted), others(wanted, old)
	keys := []func(store.Path) string{store.Path.Name, withoutDigits, withoutVersion}
	var found []Pair
	for _, key := range keys {
		found, olds, news = pairBy(key, olds, news)
		pairs = append(pairs, found...)
	}
	for _, key := range keys {
		found, olds = joinBy(key, olds, wanted.References)
		pairs = append(pairs, found...)
	}
	if len(olds) > 0 {
		return nil, fmt.Errorf("the old path's reference %s has no partner", olds[0].Base())
	}
	if len(news) > 0 {
		return nil, fmt.Errorf("the wanted path's reference %s has no partner", news[0].Base())
	}
	return pairs, nil
}

// others returns the references of a path without those that the other path has too, and without the path itself, in
// the order of their names, then of their hash parts. A reference to the other path stays: that one refers to itself.
func others(of, not store.Info) []store.Path {
	same := make(map[store.Path]bool, len(not.References))
	for _, r := range not.References {
		same[r] = r != not.Path
	}
	refs := slices.DeleteFunc(slices.Clone(of.References), func(r store.Path) bool { return r == of.Path || same[r] })
	slices.SortFunc(refs, func(a, b store.Path) int {
		return cmp.Or(strings.Compare(a.Name(), b.Name()), strings.Compare(a.Base(), b.Base()))
	})
	return refs
}

func refersTo(info store.Info, p store.Path) bool { return slices.Contains(info.References, p) }

// pairBy pairs the paths that have equal keys, in order, and returns those that are left.
func pairBy(key func(store.Path) string, olds, news []store.Path) (pairs []Pair, oldsLeft, newsLeft []store.Path) {
	waiting := map[string][]store.Path{}
	for _, n := range news {
		waiting[key(n)] = append(waiting[key(n)], n)
	}
	paired := map[store.Path]bool{}
	for _, o := range olds {
		same := waiting[key(o)]
		if len(same) == 0 {
			oldsLeft = append(oldsLeft, o)
			continue
		}
		pairs = append(pairs, Pair{o, same[0]})
		paired[same[0]] = true
		waiting[key(o)] = same[1:]
	}
	return pairs, oldsLeft, slices.DeleteFunc(news, func(n store.Path) bool { return paired[n] })
}

// joinBy pairs each old path with the first of refs that has its key, and returns the old ones that are left.
func joinBy(key func(store.Path) string, olds, refs []store.Path) (pairs []Pair, left []store.Path) {
	for _, o := range olds {
		i := slices.IndexFunc(refs, func(r store.Path) bool { return key(r) == key(o) })
		if i < 0 {
			left = append(left, o)
			continue
		}
		if refs[i] != o { // the wanted path
			pairs = append(pairs, Pair{o, refs[i]})
		}
	}
	return pairs, left
}

// withoutDigits returns a path's name with each digit of its version replaced by the same one.
func withoutDigits(p store.Path) string {
	name, version := splitVersion(p.Name())
	return name + "\x00" + strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return '0'
		}
		return r
	}, version)
}

// withoutVersion returns a path's name without its version, with the length that it has with it.
func withoutVersion(p store.Path) string {
	name, _ := splitVersion(p.Name())
	return fmt.Sprintf("%s\x00%d", name, len(p.Name()))
}

// splitVersion splits a name as Nix does: the version begins after the first dash that something else than a letter
// follows.
func splitVersion(name string) (string, string) {
	for i := range len(name) - 1 {
		if c := name[i+1] | 0x20; name[i] == '-' && (c < 'a' || c > 'z') {
			return name[:i], name[i+1:]
		}
	}
	return name, ""
}
