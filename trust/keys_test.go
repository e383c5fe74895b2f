package trust_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"narbor/store"
	"narbor/trust"
)

// signer is a key made from a fixed seed, and the trusted-public-keys line that belongs to it.
type signer struct {
	name    string
	private ed25519.PrivateKey
}

func newSigner(name string) signer {
	return signer{name, ed25519.NewKeyFromSeed([]byte(fmt.Sprintf("%032s", name)))}
}

func (s signer) key() string {
	return s.name + ":" + base64.StdEncoding.EncodeToString(s.private.Public().(ed25519.PublicKey))
}

// sign returns info with a signature more.
func (s signer) sign(info store.Info) store.Info {
	refs := make([]string, len(info.References))
	for i, r := range info.References {
		refs[i] = r.String()
	}
	fp := fmt.Sprintf("1;%s;%s;%d;%s", info.Path, info.NarHash, info.NarSize, strings.Join(refs, ","))
	sig := s.name + ":" + base64.StdEncoding.EncodeToString(ed25519.Sign(s.private, []byte(fp)))
	info.Signatures = append(slices.Clone(info.Signatures), sig)
	return info
}

func parseKeys(t testing.TB, keys ...string) *trust.Keys {
	t.Helper()
	k, err := trust.ParseKeys(keys)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func parsePath(t testing.TB, base string) store.Path {
	t.Helper()
	p, err := store.ParsePathName(base)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func sampleInfo(t testing.TB) store.Info {
	return store.Info{
		Path: parsePath(t, "syd87l2rxw8cbsxmxl853h0r6pdwhwjr-curl-7.82.0-bin"), NarHash: store.Hash{1}, NarSize: 196040,
		References: []store.Path{
			parsePath(t, "0jqd0rlxzra1rs38rdxl43yh6rxchgc6-curl-7.82.0"), parsePath(t, "6w8g7njm4mck5dmjxws0z1xnrxvl81xa-glibc-2.34-115"),
		},
	}
}

func TestParseKeysRefuses(t *testing.T) {
	good := newSigner("upstream-1").key()
	_, bits, _ := strings.Cut(good, ":")
	for name, key := range map[string]string{
		"nothing":        "",
		"no name":        ":" + bits,
		"no key":         "upstream-1:",
		"no colon":       bits,
		"space in name":  "up stream:" + bits,
		"line in name":   "a\nDeriver: x:" + bits,
		"another line":   good + "\n",
		"no padding":     strings.TrimRight(good, "="),
		"too short":      "upstream-1:" + base64.StdEncoding.EncodeToString(make([]byte, 31)),
		"too long":       "upstream-1:" + base64.StdEncoding.EncodeToString(make([]byte, 33)),
		"secret key":     "upstream-1:" + base64.StdEncoding.EncodeToString(newSigner("x").private),
		"URL alphabet":   "upstream-1:" + base64.URLEncoding.EncodeToString(slices.Repeat([]byte{0xfb}, 32)),
		"trailing bits":  "upstream-1:" + bits[:42] + string(bits[42]+1) + "=",
		"second colon":   "upstream:1:" + bits,
		"non-canonical":  "upstream-1:" + base64.StdEncoding.EncodeToString(append(slices.Repeat([]byte{0xff}, 31), 0x7f)),
		"non-canonical0": "upstream-1:" + base64.StdEncoding.EncodeToString(slices.Concat([]byte{0xed}, slices.Repeat([]byte{0xff}, 31))),
	} {
		k := parseKeys(t, good)
		if err := k.Replace([]string{newSigner("other-1").key(), key}); err == nil {
			t.Errorf("%s: Replace(%q) succeeded", name, key)
		}
		if got := k.Names(); !slices.Equal(got, []string{"upstream-1"}) {
			t.Errorf("%s: after a failed Replace the keys are %q", name, got)
		}
	}
}

// TestWeakKeysAreForgeable makes a signature without any secret for each key of low order, to show that the guard
// is needed, and then that it is there.
func TestWeakKeysAreForgeable(t *testing.T) {
	forgery := append([]byte{1}, make([]byte, 63)...) // R is the neutral point, S is 0
	for _, y := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		key, err := hex.DecodeString(y)
		if err != nil {
			t.Fatal(err)
		}
		forged := false
		for i := 0; i < 256 && !forged; i++ {
			forged = ed25519.Verify(key, []byte{byte(i)}, forgery)
		}
		if !forged {
			t.Errorf("%s is not a weak key", y)
		}
		for _, sign := range []byte{0, 0x80} {
			key[31] |= sign
			if _, err := trust.ParseKeys([]string{"weak-1:" + base64.StdEncoding.EncodeToString(key)}); err == nil {
				t.Errorf("ParseKeys accepts the weak key %x", key)
			}
		}
	}
}

func TestFirstOfTwoKeysWithOneNameCounts(t *testing.T) {
	a, b := newSigner("upstream-1"), signer{"upstream-1", newSigner("other").private}
	k := parseKeys(t, a.key(), b.key())
	if _, err := k.Check(a.sign(sampleInfo(t))); err != nil {
		t.Errorf("Check of the first key's signature: %v", err)
	}
	if _, err := k.Check(b.sign(sampleInfo(t))); !errors.Is(err, trust.ErrUntrusted) {
		t.Errorf("Check of the second key's signature = %v, want ErrUntrusted: Nix does not know that key", err)
	}
}

func TestCheckTriesEverySignature(t *testing.T) {
	a := newSigner("upstream-1")
	good := a.sign(sampleInfo(t))
	other := sampleInfo(t)
	other.NarSize++
	bad := a.sign(other).Signatures[0]
	good.Signatures = []string{bad, "upstream-1:", "stranger-1:x", good.Signatures[0], good.Signatures[0]}
	m, err := parseKeys(t, a.key()).Check(good)
	if err != nil {
		t.Fatalf("Check with a bad signature before the good one: %v", err)
	}
	if got := m.Info().Signatures; !slices.Equal(got, good.Signatures[3:4]) || m.SignedBy() != "upstream-1" {
		t.Errorf("signed by %q with %q, want only the good signature", m.SignedBy(), got)
	}
	sig, err := signature.ParseSignature(bad)
	if err != nil || sig.Name != "upstream-1" {
		t.Errorf("the bad signature is not well-formed, so it proves nothing: %v", err)
	}
}

func TestCheckBoundsItsWork(t *testing.T) {
	a := newSigner("upstream-1")
	info := a.sign(sampleInfo(t))
	wrong := sampleInfo(t)
	wrong.NarSize++
	bad := a.sign(wrong).Signatures
	keys := parseKeys(t, a.key())
	good := info.Signatures
	for n, want := range map[int]bool{63: true, 64: false} {
		info.Signatures = slices.Concat(slices.Repeat([]string{"stranger-1:x"}, 1000), slices.Repeat(bad, n), good)
		if _, err := keys.Check(info); (err == nil) != want {
			t.Errorf("Check of a good signature after %d bad ones = %v, want it found: %v", n, err, want)
		}
	}
}

func TestCheckRefusesWhatIsNoClaim(t *testing.T) {
	a := newSigner("upstream-1")
	for _, size := range []int64{0, -1, store.MaxNarSize + 1} {
		info := sampleInfo(t)
		info.NarSize = size
		if m, err := parseKeys(t, a.key()).Check(a.sign(info)); !errors.Is(err, trust.ErrUntrusted) {
			t.Errorf("Check with NarSize %d = %+v, %v, want ErrUntrusted", size, m, err)
		}
	}
	if m, err := parseKeys(t, a.key()).Check(a.sign(store.Info{NarSize: 1})); !errors.Is(err, trust.ErrUntrusted) {
		t.Errorf("Check without a path = %+v, %v, want ErrUntrusted", m, err)
	}
}

func TestTrustsFollowsTheKeys(t *testing.T) {
	a, b := newSigner("upstream-1"), newSigner("other-1")
	k := parseKeys(t, a.key())
	m, err := k.Check(b.sign(a.sign(sampleInfo(t))))
	if err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		keys []string
		want bool
	}{
		{nil, false},
		{[]string{a.key()}, true},
		{[]string{signer{"upstream-1", b.private}.key()}, false},
		{[]string{b.key()}, false}, // its signature was not known to be good when m was made, and is not in m
		{[]string{b.key(), a.key()}, true},
	}
	if !k.Trusts(m) {
		t.Error("the keys do not trust what they have just checked")
	}
	for _, s := range steps {
		if err := k.Replace(s.keys); err != nil {
			t.Fatal(err)
		}
		if got := k.Trusts(m); got != s.want {
			t.Errorf("Trusts with keys %q = %v, want %v", s.keys, got, s.want)
		}
	}
	for name, k := range map[string]*trust.Keys{"zero": {}, "some": k} {
		if k.Trusts(trust.Mapping{}) {
			t.Errorf("%s keys trust the zero mapping", name)
		}
	}
	if got := new(trust.Keys).Trusts(m); got {
		t.Error("no keys trust a signed mapping")
	}
}

// A signature that was verified is remembered, for its claim and its key alone.
func TestVerifiedSignatureIsRememberedForItsClaimAndKey(t *testing.T) {
	signer, keys := newSigner("one"), new(trust.Keys)
	if err := keys.Replace([]string{signer.key()}); err != nil {
		t.Fatal(err)
	}
	info := signer.sign(sampleInfo(t))
	for range 2 {
		if _, err := keys.Check(info); err != nil {
			t.Fatal(err)
		}
	}
	changed := info
	changed.NarSize++
	for range 2 {
		if _, err := keys.Check(changed); !errors.Is(err, trust.ErrForged) {
			t.Errorf("Check of another claim with that signature = %v, want ErrForged", err)
		}
	}
	other := newSigner("two")
	if err := keys.Replace([]string{"one:" + strings.TrimPrefix(other.key(), "two:")}); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Check(info); !errors.Is(err, trust.ErrForged) {
		t.Errorf("Check with another key of that name = %v, want ErrForged", err)
	}
	if err := keys.Replace(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Check(info); !errors.Is(err, trust.ErrUntrusted) {
		t.Errorf("Check after the key was removed = %v, want ErrUntrusted", err)
	}
}

func TestCheckSortsReferences(t *testing.T) {
	a := newSigner("upstream-1")
	signed := a.sign(sampleInfo(t))
	shuffled := signed
	shuffled.References = []store.Path{signed.References[1], signed.References[0], signed.References[1]}
	before := slices.Clone(shuffled.References)
	m, err := parseKeys(t, a.key()).Check(shuffled)
	if err != nil || !reflect.DeepEqual(m.Info(), signed) {
		t.Errorf("Check of shuffled references = %+v, %v, want %+v", m.Info(), err, signed)
	}
	if !slices.Equal(shuffled.References, before) {
		t.Error("Check has changed its argument")
	}
}

func TestForgedIsNotMerelyUntrusted(t *testing.T) {
	a, b := newSigner("a-1"), newSigner("b-1")
	imposter := signer{a.name, b.private}
	info := sampleInfo(t)
	keys := parseKeys(t, a.key())
	for name, c := range map[string]struct {
		info   store.Info
		forged bool
	}{
		"unsigned":             {info, false},
		"by an unknown key":    {b.sign(info), false},
		"in a trusted name":    {imposter.sign(info), true},
		"of another path's":    {sampleOf(a.sign(store.Info{Path: info.Path, NarHash: store.Hash{2}, NarSize: 1}), info), true},
		"unknown and imposter": {imposter.sign(b.sign(info)), true},
	} {
		_, err := keys.Check(c.info)
		if !errors.Is(err, trust.ErrUntrusted) || errors.Is(err, trust.ErrForged) != c.forged {
			t.Errorf("%s: Check = %v, want ErrUntrusted, and ErrForged: %v", name, err, c.forged)
		}
	}
	if _, err := keys.Check(a.sign(imposter.sign(info))); err != nil {
		t.Errorf("Check of an imposter's signature beside a good one = %v", err)
	}
}

// sampleOf returns info with the signatures of another.
func sampleOf(other, info store.Info) store.Info {
	info.Signatures = other.Signatures
	return info
}
