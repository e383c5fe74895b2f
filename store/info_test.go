package store_test

import (
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"narbor/store"
	"narbor/store/storetest"
)

// narinfoText is what `nix copy --to file://DIR` of Nix 2.8 writes, with a second signature added.
const narinfoText = `StorePath: /nix/store/syd87l2rxw8cbsxmxl853h0r6pdwhwjr-curl-7.82.0-bin
URL: nar/05ra3y72i3qjri7xskf9qj8kb29r6naqy1sqpbs3azi3xcigmj56.nar.xz
Compression: xz
FileHash: sha256:05ra3y72i3qjri7xskf9qj8kb29r6naqy1sqpbs3azi3xcigmj56
FileSize: 68852
NarHash: sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0
NarSize: 196040
References: 0jqd0rlxzra1rs38rdxl43yh6rxchgc6-curl-7.82.0 6w8g7njm4mck5dmjxws0z1xnrxvl81xa-glibc-2.34-115
Deriver: 5rwxzi7pal3qhpsyfc16gzkh939q1np6-curl-7.82.0.drv
Sig: cache.nixos.org-1:TsTTb3WGTZKphvYdBHXwo6weVILmTytUjLB+vcX89fOjjRicCHmKA4RCPMVLkj6TMJ4GMX3HPVWRdD1hkeKZBQ==
Sig: test1:519iiVLx/c4Rdt5DNt6Y2Jm6hcWE9+XY69ygiWSZCNGVcmOcyL64uVAJ3cV8vaTusIZdbTnYo9Y7vDNeTmmMBQ==
`

func TestInfoSurvivesPrinting(t *testing.T) {
	info, err := store.ParseInfo(narinfoText)
	if err != nil {
		t.Fatal(err)
	}
	again, err := store.ParseInfo(info.String())
	if err != nil || !reflect.DeepEqual(again, info) {
		t.Errorf("ParseInfo(%q) = %+v, %v, want %+v", info, again, err, info)
	}
	if len(info.References) != 2 || len(info.Signatures) != 2 || info.NarSize != 196040 {
		t.Errorf("ParseInfo = %+v: lost something", info)
	}
}

// TestNarinfoHasReferencesWithoutAny reads a narinfo without the line, which Nix accepts, too.
func TestNarinfoHasReferencesWithoutAny(t *testing.T) {
	text, err := os.ReadFile("testdata/narinfo-without-references.narinfo")
	storetest.Must(t, err)
	info, err := store.ParseInfo(string(text))
	if err != nil || len(info.References) != 0 {
		t.Fatalf("ParseInfo = %+v, %v, want no references", info, err)
	}
	const want = `StorePath: /nix/store/lllr7wi039bd69ihd6vfarlcz5j7v52d-emptydir
NarHash: sha256:0sjjj9z1dhilhpc8pq4154czrb79z9cm044jvn75kxcjv6v5l2m5
NarSize: 96
` + "References: " + `
URL: nar/x.nar
Compression: none
FileHash: sha256:0sjjj9z1dhilhpc8pq4154czrb79z9cm044jvn75kxcjv6v5l2m5
FileSize: 96
`
	if got := info.Narinfo("nar/x.nar"); got != want {
		t.Errorf("Narinfo =\n%s\nwant\n%s", got, want)
	}
}

// TestNamesAreNixs reads the table that the newest Nix has made; the tests of package integration compare it with that.
func TestNamesAreNixs(t *testing.T) {
	text, err := os.ReadFile("testdata/names")
	storetest.Must(t, err)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) < 100 {
		t.Fatalf("%d names, want a hundred", len(lines))
	}
	for _, line := range lines {
		verdict, quoted, _ := strings.Cut(line, " ")
		name, err := strconv.Unquote(quoted)
		storetest.Must(t, err)
		_, err = store.ParsePathName("syd87l2rxw8cbsxmxl853h0r6pdwhwjr-" + name)
		if got := map[bool]string{true: "good", false: "bad"}[err == nil]; got != verdict {
			t.Errorf("ParsePathName(…-%s): %s (%v), Nix says %s", name, got, err, verdict)
		}
	}
}

func TestParseInfoRefuses(t *testing.T) {
	swap := func(from, to string) string { return strings.Replace(narinfoText, from, to, 1) }
	for name, text := range map[string]string{
		"no final line feed":   strings.TrimSuffix(narinfoText, "\n"),
		"carriage returns":     strings.ReplaceAll(narinfoText, "\n", "\r\n"),
		"NUL":                  swap("unknown", "\x00") + "X: \x00\n",
		"empty line":           narinfoText + "\n",
		"no key":               narinfoText + ": value\n",
		"no store path":        swap("StorePath", "Store"),
		"other store":          swap("/nix/store/", "/gnu/store/"),
		"path below":           swap("curl-7.82.0-bin", "curl/bin"),
		"no NarHash":           swap("NarHash", "Hash"),
		"md5 NarHash":          swap("sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0", "md5:d41d8cd98f00b204e9800998ecf8427e"),
		"short NarHash":        swap("sha256:1b4s", "sha256:"),
		"no NarSize":           swap("NarSize", "Size"),
		"NarSize 0":            swap("196040", "0"),
		"negative NarSize":     swap("196040", "-1"),
		"NarSize with a sign":  swap("196040", "+196040"),
		"NarSize with a zero":  swap("196040", "0196040"),
		"huge NarSize":         swap("196040", "99999999999999999999"),
		"StorePath twice":      narinfoText + "StorePath: /nix/store/syd87l2rxw8cbsxmxl853h0r6pdwhwjr-curl\n",
		"References twice":     narinfoText + "References: \n",
		"no space after colon": swap("NarSize: ", "NarSize:"),
		"no value at all":      narinfoText + "System:\n",
		"tab in references":    swap("curl-7.82.0 ", "curl-7.82.0\t"),
		"empty deriver":        swap("5rwxzi7pal3qhpsyfc16gzkh939q1np6-curl-7.82.0.drv", ""),
		"reference of slashes": swap("References: ", "References: ../x "),
		"too many signatures":  narinfoText + strings.Repeat("Sig: a:b\n", 64),
		"too long":             narinfoText + "X: " + strings.Repeat("x", store.MaxInfoLen) + "\n",
	} {
		if info, err := store.ParseInfo(text); err == nil {
			t.Errorf("%s: ParseInfo = %+v, want an error", name, info)
		}
	}
}

func TestParseInfoSortsReferences(t *testing.T) {
	const a, b = "0jqd0rlxzra1rs38rdxl43yh6rxchgc6-curl-7.82.0", "6w8g7njm4mck5dmjxws0z1xnrxvl81xa-glibc-2.34-115"
	want, err := store.ParseInfo(narinfoText)
	if err != nil {
		t.Fatal(err)
	}
	got, err := store.ParseInfo(strings.Replace(narinfoText, a+" "+b, b+"  "+a+" "+b, 1))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ParseInfo of shuffled references = %+v, %v, want %+v", got, err, want)
	}
}

func TestParsePathRefuses(t *testing.T) {
	const hp = "syd87l2rxw8cbsxmxl853h0r6pdwhwjr"
	for _, s := range []string{
		"", "/nix/store", "/nix/store/", "/nix/store/" + hp, "/nix/store/" + hp + "-", "/nix/store/" + hp + "x-a",
		"/nix/store/" + hp + "-.-hidden", "/nix/store/" + hp + "-a/b", "/nix/store/" + hp + "-a b", "/tmp/" + hp + "-a",
		"/nix/store/" + hp + "-ä", "/nix/store/" + hp + "-" + strings.Repeat("a", 212), "/nix/store//" + hp + "-a",
		"/nix/store/" + strings.Replace(hp, "s", "e", 1) + "-a", // e is not in the alphabet
	} {
		if p, err := store.ParsePath(s); err == nil {
			t.Errorf("ParsePath(%q) = %v, want an error", s, p)
		}
	}
}

func TestHashRoundTrips(t *testing.T) {
	info, err := store.ParseInfo(narinfoText)
	if err != nil {
		t.Fatal(err)
	}
	h := info.NarHash
	for _, s := range []string{h.String(), "sha256:" + h.CID().Hash().HexString()[4:], h.CID().Hash().HexString()[4:]} {
		if got, err := store.ParseHash(s); err != nil || got != h {
			t.Errorf("ParseHash(%q) = %v, %v, want %v", s, got, err, h)
		}
	}
	hp := info.Path.HashPart()
	if got := store.HashPartFromBytes(hp.Bytes()); got != hp {
		t.Errorf("HashPartFromBytes(Bytes(%v)) = %v", hp, got)
	}
}

func FuzzParseInfo(f *testing.F) {
	f.Add(narinfoText)
	f.Add("StorePath: x\nReferences:\nSig: \n")
	f.Fuzz(func(t *testing.T, text string) {
		info, err := store.ParseInfo(text)
		if err != nil {
			return
		}
		again, err := store.ParseInfo(info.String())
		if err != nil || !reflect.DeepEqual(again, info) {
			t.Errorf("ParseInfo accepted %q but not what it prints, %q: %v", text, info, err)
		}
	})
}
