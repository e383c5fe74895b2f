package trust_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"narbor/store"
	"narbor/trust"
	"narbor/trust/trusttest"
)

func FuzzCheck(f *testing.F) {
	keys := map[string]bool{}
	for _, v := range readVectors(f) {
		f.Add(v.narinfo)
		if v.accepted() {
			for _, k := range v.keys {
				keys[k] = true
			}
		}
	}
	var trusted []string
	for k := range keys {
		trusted = append(trusted, k)
	}
	k := parseKeys(f, trusted...)
	f.Fuzz(func(t *testing.T, text string) {
		info, err := store.ParseInfo(text)
		if err != nil {
			return
		}
		m, err := k.Check(info)
		if err != nil {
			if !errors.Is(err, trust.ErrUntrusted) {
				t.Errorf("Check(%q) = %v, want ErrUntrusted", text, err)
			}
			return
		}
		passed := m.Info().String()
		info, err = store.ParseInfo(passed)
		if err != nil {
			t.Fatalf("Check accepted %q, but ParseInfo refuses what it passes on, %q: %v", text, passed, err)
		}
		if again, err := k.Check(info); err != nil || !reflect.DeepEqual(again, m) || !k.Trusts(again) {
			t.Errorf("Check accepted %q as %+v, but what it passes on, %q, as %+v, %v", text, m, passed, again, err)
		}
	})
}

// plainFile is the archive of a file, written down from the format's description.
func plainFile(contents []byte) []byte {
	var b bytes.Buffer
	for _, s := range []string{"nix-archive-1", "(", "type", "regular", "contents", string(contents), ")"} {
		b.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(s))))
		b.WriteString(s)
		for b.Len()%8 != 0 {
			b.WriteByte(0)
		}
	}
	return b.Bytes()
}

// textClaim says that an archive is that of a text with these contents.
func textClaim(t testing.TB, contents, nar []byte) store.Info {
	info := trusttest.TextClaim(t, "a-text", string(contents))
	info.NarHash, info.NarSize = sha256.Sum256(nar), int64(len(nar))
	return info
}

func FuzzCheckNAR(f *testing.F) {
	for _, v := range readVectors(f) {
		if v.hasNAR && len(v.nar) > 0 {
			f.Add([]byte("one file\nof 19 bytes\n"), v.nar)
		}
	}
	f.Fuzz(func(t *testing.T, contents, nar []byte) {
		if len(nar) == 0 {
			return
		}
		m, err := new(trust.Keys).Check(textClaim(t, contents, nar))
		if err != nil {
			t.Fatalf("Check of a true text claim: %v", err)
		}
		want := bytes.Equal(nar, plainFile(contents))
		if err := m.CheckNAR(memNAR{bytes.NewReader(nar)}); (err == nil) != want || err != nil && !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("CheckNAR(%q) for contents %q = %v, want it accepted: %v", nar, contents, err, want)
		}
	})
}

func TestCheckNARComparesSizeOfSignedPaths(t *testing.T) {
	a := newSigner("upstream-1")
	info := sampleInfo(t)
	m, err := parseKeys(t, a.key()).Check(a.sign(info))
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int64]error{info.NarSize: nil, info.NarSize - 1: store.ErrCorrupt, info.NarSize + 1: store.ErrCorrupt} {
		if err := m.CheckNAR(memNAR{bytes.NewReader(make([]byte, n))}); !errors.Is(err, want) {
			t.Errorf("CheckNAR of %d bytes = %v, want %v", n, err, want)
		}
	}
}

// A shrunkNAR has fewer bytes than it says.
type shrunkNAR struct {
	memNAR
	size int64
}

func (s shrunkNAR) Size() int64 { return s.size }

func TestCheckNARNoticesShrunkArchives(t *testing.T) {
	contents := bytes.Repeat([]byte("x"), 1000)
	nar := plainFile(contents)
	m, err := new(trust.Keys).Check(textClaim(t, contents, nar))
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(nar) {
		err := m.CheckNAR(shrunkNAR{memNAR{bytes.NewReader(nar[:n])}, int64(len(nar))})
		if !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("CheckNAR of an archive that ends after %d of %d bytes = %v, want ErrCorrupt", n, len(nar), err)
		}
	}
}

// BenchmarkCheck checks one claim again and again, so its signature is verified once.
func BenchmarkCheck(b *testing.B) {
	a := newSigner("cache.example.org-1")
	info := sampleInfo(b)
	info.References = nil
	for i := range 20 {
		hp := store.HashPartFromBytes([20]byte{byte(i), 1, 2, 3})
		info.References = append(info.References, parsePath(b, fmt.Sprintf("%s-reference-%d", hp, i)))
	}
	store.SortPaths(info.References)
	info = a.sign(info)
	keys := parseKeys(b, a.key())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := keys.Check(info); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTrusts(b *testing.B) {
	a := newSigner("cache.example.org-1")
	keys := parseKeys(b, a.key())
	m, err := keys.Check(a.sign(sampleInfo(b)))
	if err != nil {
		b.Fatal(err)
	}
	again := parseKeys(b, a.key())
	for name, k := range map[string]*trust.Keys{"same": keys, "replaced": again} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if !k.Trusts(m) {
					b.Fatal("not trusted")
				}
			}
		})
	}
}

// FuzzParseKeys is about a line of trusted-public-keys: of each key there is one spelling.
func FuzzParseKeys(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		k, err := trust.ParseKeys([]string{s})
		if err != nil {
			return
		}
		name, text, _ := strings.Cut(s, ":")
		bits, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(bits) != ed25519.PublicKeySize || base64.StdEncoding.EncodeToString(bits) != text {
			t.Errorf("ParseKeys accepts %q, but its key is %x, %v", s, bits, err)
		}
		if got := k.Names(); len(got) != 1 || got[0] != name || strings.ContainsAny(name, " \t\r\n") {
			t.Errorf("ParseKeys(%q) is named %q", s, got)
		}
	})
}
