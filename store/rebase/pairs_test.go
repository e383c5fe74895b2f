package rebase_test

import (
	"strings"
	"testing"

	"narbor/store"
	"narbor/store/rebase"
)

// infoOf reads a path and its references, "PATH REF REF". Hash parts are short: they are filled up with zeros.
func infoOf(tb testing.TB, text string) store.Info {
	tb.Helper()
	var info store.Info
	for i, field := range strings.Fields(text) {
		hash, name, _ := strings.Cut(field, "-")
		p := path(tb, hash+strings.Repeat("0", 32-len(hash))+"-"+name)
		if i == 0 {
			info.Path = p
		} else {
			info.References = append(info.References, p)
		}
	}
	info.References = store.SortPaths(info.References)
	return info
}

func short(p store.Path) string {
	return strings.TrimRight(string(p.HashPart()), "0") + "-" + p.Name()
}

func TestPairsPairsReferences(t *testing.T) {
	for _, c := range []struct{ name, old, wanted, want string }{
		{"no references", "a-foo", "b-foo", "a-foo>b-foo"},
		{"self-reference", "a-foo a-foo", "b-foo b-foo", "a-foo>b-foo"},
		{"the same path", "a-foo c-x", "a-foo c-x", ""},
		{"equal names", "a-foo c-x d-y", "b-foo 1-y 2-x", "a-foo>b-foo c-x>2-x d-y>1-y"},
		{"a reference that stays", "a-foo c-x d-y", "b-foo c-x 1-y", "a-foo>b-foo d-y>1-y"},
		{"a reference that stays beside another of its name", "a-foo c-x d-x", "b-foo 1-x d-x", "a-foo>b-foo c-x>1-x"},
		{"another version of the path", "a-foo-1.0", "b-foo-1.1", "a-foo-1.0>b-foo-1.1"},
		{"another version of a reference", "a-foo c-x-1.0", "b-foo d-x-2.3", "a-foo>b-foo c-x-1.0>d-x-2.3"},
		{"another version of a letter", "a-foo c-openssl-1.1.1v", "b-foo d-openssl-1.1.1w",
			"a-foo>b-foo c-openssl-1.1.1v>d-openssl-1.1.1w"},
		{"another version of the same length with other dots", "a-foo c-x-1.10", "b-foo d-x-10.1", "a-foo>b-foo c-x-1.10>d-x-10.1"},
		{"another version, with outputs", "a-foo c-x-1.0-bin d-x-1.0-dev f-x-1.0", "b-foo 1-x-1.1-dev 2-x-1.1-bin 3-x-1.1",
			"a-foo>b-foo f-x-1.0>3-x-1.1 c-x-1.0-bin>2-x-1.1-bin d-x-1.0-dev>1-x-1.1-dev"},
		{"an output, and others that stay", "a-foo c-x-1.0-bin d-x-1.0-man f-y-1.0-lib", "b-foo d-x-1.0-man 1-x-1.2-bin 2-y-9.0-lib",
			"a-foo>b-foo c-x-1.0-bin>1-x-1.2-bin f-y-1.0-lib>2-y-9.0-lib"},
		{"equal names go before equal versions", "a-foo c-x-1.0 d-x-2.0", "b-foo 1-x-2.0 2-x-3.0",
			"a-foo>b-foo d-x-2.0>1-x-2.0 c-x-1.0>2-x-3.0"},
		{"digits go before letters", "a-foo c-x-1.0a d-x-1.0b", "b-foo 1-x-1.1b 2-x-1.00",
			"a-foo>b-foo d-x-1.0b>1-x-1.1b c-x-1.0a>2-x-1.00"},
		{"two versions rise", "a-foo c-x-1.0 d-x-2.0", "b-foo 1-x-2.1 2-x-1.1", "a-foo>b-foo c-x-1.0>2-x-1.1 d-x-2.0>1-x-2.1"},
		{"two references of one name", "a-foo c-x d-x", "b-foo 1-x 2-x", "a-foo>b-foo c-x>1-x d-x>2-x"},
		{"two references became one", "a-foo c-x d-x", "b-foo 1-x", "a-foo>b-foo c-x>1-x d-x>1-x"},
		{"three references became one", "a-foo c-x d-x f-x", "b-foo 1-x", "a-foo>b-foo c-x>1-x d-x>1-x f-x>1-x"},
		{"a reference became one that stays", "a-foo c-x d-x", "b-foo c-x", "a-foo>b-foo d-x>c-x"},
		{"two versions became one", "a-foo c-x-1.0 d-x-1.1", "b-foo 1-x-1.1", "a-foo>b-foo d-x-1.1>1-x-1.1 c-x-1.0>1-x-1.1"},
		{"two versions became a third", "a-foo c-x-1.0 d-x-1.1", "b-foo 1-x-1.2", "a-foo>b-foo c-x-1.0>1-x-1.2 d-x-1.1>1-x-1.2"},
		{"a reference to an older version of itself became itself", "a-foo a-foo c-foo", "b-foo b-foo", "a-foo>b-foo c-foo>b-foo"},
		{"a reference that is the wanted path, and stays", "a-foo a-foo b-foo", "b-foo b-foo", "a-foo>b-foo"},
		{"a reference that is the wanted path", "a-foo a-foo b-foo", "b-foo b-foo c-foo", "a-foo>b-foo b-foo>c-foo"},
		{"a wanted reference that is the old path", "b-foo b-foo c-foo", "a-foo a-foo b-foo", "b-foo>a-foo c-foo>b-foo"},
		{"a name that begins with a digit", "a-foo c-7zip-1", "b-foo d-7zip-2", "a-foo>b-foo c-7zip-1>d-7zip-2"},
		{"a dash at the end", "a-foo c-x-", "b-foo d-x-", "a-foo>b-foo c-x->d-x-"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pairs, err := rebase.Pairs(infoOf(t, c.old), infoOf(t, c.wanted))
			var got []string
			for _, p := range pairs {
				got = append(got, short(p.Old)+">"+short(p.New))
			}
			if text := strings.Join(got, " "); err != nil || text != c.want {
				t.Errorf("Pairs(%s, %s) =\n%s, %v, want\n%s", c.old, c.wanted, text, err, c.want)
			}
		})
	}
}

func TestPairsFailsWithoutPartner(t *testing.T) {
	for _, c := range []struct{ name, old, wanted, want string }{
		{"an old reference", "a-foo c-x d-y", "b-foo 1-x", "d00"},
		{"a wanted reference", "a-foo c-x", "b-foo 1-x 2-y", "200"},
		{"names that differ", "a-foo c-x", "b-foo c-y", "c00"},
		{"versions of unequal length", "a-foo c-x-1.9", "b-foo 1-x-1.10", "c00"},
		{"names without version of unequal length", "a-foo c-xy-1.9", "b-foo 1-x-1.10", "c00"},
		{"a letter behind the first dash", "a-foo c-x-b", "b-foo 1-x-c", "c00"},
		{"one old reference, two wanted of its name", "a-foo c-x", "b-foo 1-x 2-x", "200"},
		{"two old references that would become one of another length", "a-foo c-x-1.9 d-x-1.8", "b-foo 1-x-1.10", "d00"},
		{"only the old path refers to itself", "a-foo a-foo", "b-foo", "a00"},
		{"only the wanted path refers to itself", "a-foo", "b-foo b-foo", "b00"},
		{"paths of unequal length", "a-foo", "b-fooo", "a00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pairs, err := rebase.Pairs(infoOf(t, c.old), infoOf(t, c.wanted))
			if err == nil || pairs != nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Pairs(%s, %s) = %v, %v, want an error that names %s…", c.old, c.wanted, pairs, err, c.want)
			}
		})
	}
}

func TestPairsLeavesTheClaimsAsTheyAre(t *testing.T) {
	old, wanted := infoOf(t, "a-foo c-x d-b"), infoOf(t, "b-foo 1-b 2-x")
	before := old.String() + wanted.String()
	if _, err := rebase.Pairs(old, wanted); err != nil || old.String()+wanted.String() != before {
		t.Errorf("Pairs changed the claims to %v %v: %v", old, wanted, err)
	}
}
