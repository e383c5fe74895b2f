package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// signatureVectors leave the claim as it is, and change its signatures.
func signatureVectors(m material) []vector {
	var vs []vector
	v := func(name string, t text, want string, why ...string) {
		vs = append(vs, vector{name: name, base: m.lib, text: t, want: want, why: strings.Join(why, "")})
	}
	spellings(m, v)
	strangers(m, v)
	several(m, v)
	fingerprints(m, v)
	return append(vs, keyVectors(m)...)
}

// spellings are of one good signature; only Nix's own counts.
func spellings(m material, v adder) {
	sig := m.lib.field("Sig")
	name, b64, _ := strings.Cut(sig, ":")
	bits, err := base64.StdEncoding.DecodeString(b64)
	check(err)
	encode := func(b []byte) string { return name + ":" + base64.StdEncoding.EncodeToString(b) }
	flip := func(i int, mask byte) string {
		b := slices.Clone(bits)
		b[i] ^= mask
		return encode(b)
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	last := strings.IndexByte(alphabet, b64[85])
	const oneSpelling = "base64 has one spelling here"
	for _, x := range []struct{ name, sig, want, why string }{
		{"first bit flipped", flip(0, 1), untrusted, ""},
		{"last bit flipped", flip(63, 0x80), untrusted, ""},
		{"middle bit flipped", flip(32, 1), untrusted, ""},
		{"the group order added to S", encode(malleate(bits)), untrusted, ""},
		{"all zero", encode(make([]byte, 64)), untrusted, ""},
		{"63 bytes", encode(bits[:63]), untrusted, ""},
		{"65 bytes", encode(append(slices.Clone(bits), 0)), untrusted, ""},
		{"twice over", encode(append(slices.Clone(bits), bits...)), untrusted, ""},
		{"empty", name + ":", untrusted, ""},
		{"unused bits set", name + ":" + b64[:85] + alphabet[last|1:last|1+1] + "==", untrusted, oneSpelling},
		{"no padding", strings.TrimRight(sig, "="), untrusted, oneSpelling},
		{"half the padding", sig[:len(sig)-1], untrusted, oneSpelling},
		{"more padding", sig + "=", untrusted, oneSpelling},
		{"more after the padding", sig + "AAAA", untrusted, oneSpelling},
		{"a space in it", name + ":" + b64[:40] + " " + b64[40:], untrusted, ""},
		{"a carriage return in it", name + ":" + b64[:40] + "\r" + b64[40:], malformed, ""},
		{"URL alphabet", name + ":" + strings.NewReplacer("+", "-", "/", "_").Replace(b64), untrusted, ""},
		{"base 16", name + ":" + hex.EncodeToString(bits), untrusted, ""},
		{"SRI", name + "-" + b64, untrusted, ""},
		{"no name", b64, untrusted, ""},
		{"empty name", ":" + b64, untrusted, ""},
		{"name in capitals", "Upstream-1:" + b64, untrusted, ""},
		{"space after the name", name + " :" + b64, untrusted, ""},
		{"space after the colon", name + ": " + b64, untrusted, ""},
		{"two colons", name + "::" + b64, untrusted, ""},
		{"start of the name", name[:8] + ":" + b64, untrusted, ""},
		{"more than the name", name + "0:" + b64, untrusted, ""},
		{"another colon in the name", name + ":x:" + b64, untrusted, ""},
		{"the other name", m.other.name + ":" + b64, untrusted, ""},
		{"many signatures on one line", sig + " " + sig, untrusted, oneSpelling},
	} {
		v("spelling: "+x.name, m.lib.withSig(x.sig), x.want, x.why)
	}
}

// malleate returns another signature of the same message that a sloppy verifier takes: S plus the group's order.
func malleate(sig []byte) []byte {
	order, _ := new(big.Int).SetString("1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed", 16)
	s := slices.Clone(sig[32:])
	slices.Reverse(s)
	s = new(big.Int).Add(new(big.Int).SetBytes(s), order).FillBytes(make([]byte, 32))
	slices.Reverse(s)
	return append(slices.Clone(sig[:32]), s...)
}

func strangers(m material, v adder) {
	other := m.otherLib.field("Sig")
	v("stranger: alone", m.lib.withSig(other), untrusted)
	v("stranger: under the trusted name", m.lib.withSig(m.upstream.name+other[len(m.other.name):]), untrusted)
	v("stranger: of another path", m.lib.withSig(m.app.field("Sig")), untrusted)
	v("stranger: of a reference", m.lib.withSig(m.dep.field("Sig")), untrusted)
	v("stranger: both names exchanged", m.lib.withSig(m.upstream.name+other[len(m.other.name):]).
		add("Sig", m.other.name+m.lib.field("Sig")[len(m.upstream.name):]), untrusted)
	v("stranger: everything but the signature is another path's", text(strings.ReplaceAll(string(m.app.text),
		m.app.field("Sig"), m.lib.field("Sig"))), untrusted)
	v("stranger: the archive is another path's", m.lib.set("NarHash", m.dep.field("NarHash")).set("NarSize", m.dep.field("NarSize")),
		untrusted)
}

func several(m material, v adder) {
	good, stranger, wrong := m.lib.field("Sig"), m.otherLib.field("Sig"), m.app.field("Sig")
	const dies = "one bad signature does not spoil another"
	for _, x := range []struct {
		name, want, why string
		sigs            []string
	}{
		{"a wrong one of the trusted key first", signedByUpstream, "", []string{wrong, good}},
		{"a wrong one of the trusted key last", signedByUpstream, "", []string{good, wrong}},
		{"wrong ones all around", signedByUpstream, "", []string{wrong, stranger, good, wrong, stranger}},
		{"only wrong ones", untrusted, "", []string{wrong, stranger, wrong}},
		{"the good one twice", signedByUpstream, "", []string{good, good}},
		{"a broken one of the trusted key first", signedByUpstream, dies, []string{"upstream-1:AAAA", good}},
		{"a broken one of the trusted key last", signedByUpstream, dies, []string{good, "upstream-1:AAAA"}},
		{"one of the trusted key that is not base64", signedByUpstream, dies, []string{"upstream-1:???", good}},
		{"a broken one of a stranger", signedByUpstream, "", []string{"stranger-1:AAAA", good}},
		{"one without a name", signedByUpstream, "", []string{":AAAA", good}},
		{"an empty one", signedByUpstream, "", []string{"", good}},
		{"one that looks like a field", signedByUpstream, "", []string{"CA: text:sha256:0", good}},
		{"64, the good one last", signedByUpstream, "", append(slices.Repeat([]string{wrong}, 63), good)},
		{"65", malformed, "more than 64 signatures are refused", append(slices.Repeat([]string{"stranger-1:AAAA"}, 64), good)},
	} {
		t := m.lib.line("Sig")
		for _, s := range x.sigs {
			t = t.add("Sig", s)
		}
		v("several: "+x.name, t, x.want, x.why)
	}
}

// fingerprints are signed by the trusted key, and are almost the one that Nix would compute.
func fingerprints(m material, v adder) {
	g := m.lib
	refs := strings.Fields(g.field("References"))
	a, b := "/nix/store/"+refs[0], "/nix/store/"+refs[1]
	right := fmt.Sprintf("1;%s;%s;%s;%s,%s", g.path, g.field("NarHash"), g.field("NarSize"), a, b)
	bits, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.lib.field("Sig"), m.upstream.name+":"))
	check(err)
	if m.upstream.sign(right) != m.upstream.name+":"+base64.StdEncoding.EncodeToString(bits) {
		panic("fingerprints: " + right + " is not what Nix signs")
	}
	swap := func(from, to string) string { return strings.Replace(right, from, to, 1) }
	for _, x := range []struct{ name, message string }{
		{"references in another order", swap(a+","+b, b+","+a)},
		{"references without the store directory", swap(a+","+b, refs[0]+","+refs[1])},
		{"references separated by spaces", swap(a+","+b, a+" "+b)},
		{"a comma after the references", right + ","},
		{"no references", swap(a+","+b, "")},
		{"no store directory", swap(g.path, refs[0])},
		{"another version", swap("1;", "2;")},
		{"no version", swap("1;", "")},
		{"a line feed at the end", right + "\n"},
		{"no NarSize", swap(g.field("NarSize")+";", "")},
		{"NarSize with a leading zero", swap(g.field("NarSize")+";", "0"+g.field("NarSize")+";")},
		{"no hash algorithm", swap("sha256:", "")},
		{"the narinfo itself", string(g.line("Sig"))},
		{"nothing", ""},
	} {
		v("fingerprint: "+x.name, g.withSig(m.upstream.sign(x.message)), untrusted)
	}
}

// keyVectors change the trusted keys.
func keyVectors(m material) []vector {
	up, other := m.upstream.public, m.other.public
	bits := func(key string) string { return key[strings.IndexByte(key, ':')+1:] }
	var vs []vector
	add := func(name, want, why string, keys ...string) {
		vs = append(vs, vector{name: "keys: " + name, base: m.lib, text: m.lib.text, keys: keys, want: want, why: why})
	}
	add("twice", signedByUpstream, "", up, up)
	add("the other", untrusted, "", other)
	add("both", signedByUpstream, "", other, up)
	add("the name of one, the bits of the other", untrusted, "", "upstream-1:"+bits(other))
	add("the bits under another name", untrusted, "", "other-1:"+bits(up))
	add("two of one name, the right one first", signedByUpstream, "", up, "upstream-1:"+bits(other))
	add("two of one name, the right one last", untrusted, "", "upstream-1:"+bits(other), up)
	const oneSpelling = "a key has one spelling here, and a set with a bad one is refused"
	add("no padding", keyRefused, oneSpelling, strings.TrimRight(up, "="))
	add("31 bytes", keyRefused, oneSpelling, "short-1:"+base64.StdEncoding.EncodeToString(make([]byte, 31)), up)
	add("empty", keyRefused, oneSpelling, "upstream-1:", up)
	add("no name", keyRefused, oneSpelling, bits(up))
	add("not base64", keyRefused, oneSpelling, "upstream-1:???")
	return append(vs, weakKeyVectors(m)...)
}

// weakKeyVectors trust keys for which a signature can be made without any secret, and bring one.
func weakKeyVectors(m material) []vector {
	var vs []vector
	forgery := append([]byte{1}, make([]byte, 63)...)
	for _, x := range []struct{ name, y string }{
		{"zero", strings.Repeat("00", 32)},
		{"one, the neutral point", "01" + strings.Repeat("00", 31)},
		{"minus one", "ec" + strings.Repeat("ff", 30) + "7f"},
		{"of order 8", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"},
		{"of order 8, the other", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"},
		{"zero plus the modulus", "ed" + strings.Repeat("ff", 30) + "7f"},
		{"one plus the modulus", "ee" + strings.Repeat("ff", 30) + "7f"},
	} {
		key, err := hex.DecodeString(x.y)
		check(err)
		// The forger may vary the claim until it fits: here, NarSize.
		t := m.dep.text
		for n := 120; ; n++ {
			t = t.set("NarSize", fmt.Sprint(n))
			message := fmt.Sprintf("1;%s;%s;%d;", m.dep.path, m.dep.field("NarHash"), n)
			if ed25519.Verify(key, []byte(message), forgery) {
				break
			}
		}
		vs = append(vs, vector{name: "weak key: " + x.name, base: m.dep,
			text: t.withSig("weak-1:" + base64.StdEncoding.EncodeToString(forgery)),
			keys: []string{"weak-1:" + base64.StdEncoding.EncodeToString(key)}, want: keyRefused})
	}
	return vs
}
