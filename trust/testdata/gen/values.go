package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// valueVectors give one field of a signed narinfo a value that Nix would not have written, or rearrange lines.
func valueVectors(m material) []vector {
	var vs []vector
	v := func(name string, t text, want string, why ...string) {
		vs = append(vs, vector{name: name, base: m.lib, text: t, want: want, why: strings.Join(why, "")})
	}
	lines(m, v)
	storePaths(m, v)
	narHashes(m, v)
	narSizes(m, v)
	references(m, v)
	unsignedFields(m, v)
	extra := strings.TrimPrefix(m.tree.path, "/nix/store/")
	self := m.app.field("References") + " " + strings.TrimPrefix(m.app.path, "/nix/store/")
	for _, x := range []struct{ name, ca string }{
		{"tree", m.tree.field("CA")}, {"tree, rewritten", m.caApp.field("CA")},
		{"tree with its own NarHash", "fixed:r:" + m.app.field("NarHash")}, {"text with its own NarHash", "text:" + m.app.field("NarHash")},
	} {
		vs = append(vs, vector{name: "CA: no self-reference, " + x.name, base: m.app, text: m.app.add("CA", x.ca), want: signedByUpstream,
			why: stripped})
	}
	return append(vs,
		vector{name: "References: itself added", base: m.app, text: m.app.set("References", self), want: untrusted},
		vector{name: "References: none, and one added", base: m.dep, text: m.dep.set("References", extra), want: untrusted},
		vector{name: "References: none, and no line", base: m.dep, text: m.dep.line("References"), want: signedByUpstream})
}

// Why narbor accepts a claim that Nix would refuse or die of.
const stripped = "the content address is not true, so it is not passed on"

// An adder appends a vector.
type adder func(name string, t text, want string, why ...string)

func lines(m material, v adder) {
	t := m.lib.text
	all := strings.SplitAfter(strings.TrimSuffix(string(t), "\n"), "\n")
	all[len(all)-1] += "\n"
	var reversed text
	for _, l := range all {
		reversed = text(l) + reversed
	}
	v("lines in reverse", reversed, signedByUpstream)
	v("CRLF everywhere", text(strings.ReplaceAll(string(t), "\n", "\r\n")), malformed)
	v("no line feed at the end", t[:len(t)-1], malformed)
	v("cut in the last line", t[:len(t)-10], malformed)
	v("nothing at all", "", malformed)
	v("empty line before", "\n"+t, malformed)
	v("empty line between", text(strings.Join(all[:4], ""))+"\n"+text(strings.Join(all[4:], "")), malformed, "an empty line is no field")
	v("empty line after", t+"\n", malformed)
	v("byte order mark", "\ufeff"+t, malformed)
	v("NUL in a field", t.add("X", "a\x00b"), malformed, "no NUL anywhere")
	v("NUL after", t+"\x00", malformed)
	v("unknown field", t.add("Flavour", "sweet"), signedByUpstream)
	v("unknown field twice", t.add("Flavour", "sweet").add("Flavour", "sour"), malformed, oneReading)
	v("unknown field without value", t.add("Flavour", ""), signedByUpstream)
	v("unknown field without space", t+"Flavour:\n", malformed)
	v("line without key", t+": sweet\n", malformed, "a line without a key is no field")
	v("line without colon", t+"sweet\n", malformed)
	v("field hidden behind an unknown one", t.line("NarSize", "X:", "NarSize: "+t.field("NarSize")), malformed)
	v("two narinfos in one", t+m.app.text, malformed, oneReading)
}

func storePaths(m material, v adder) {
	p := m.lib.path
	hp, name := baseHash(p), p[len("/nix/store/")+33:]
	for _, x := range []struct{ name, value, want string }{
		{"another name", strings.Replace(p, "lib-1.0", "lib-1.1", 1), untrusted},
		{"another hash part", p[:11] + flipDigit(p[11]) + p[12:], untrusted},
		{"of another path", m.app.path, untrusted},
		{"store directory of Guix", strings.Replace(p, "/nix/", "/gnu/", 1), malformed},
		{"store directory in a home", "/home/me" + p, malformed},
		{"store directory with two slashes", "/" + p, malformed},
		{"store directory by way of another", "/nix/store/../store" + p[len("/nix/store"):], malformed},
		{"no store directory", hp + "-" + name, malformed},
		{"a slash after it", p + "/", malformed},
		{"a path below", p + "/bin", malformed},
		{"the store itself", "/nix/store", malformed},
		{"hash part alone", "/nix/store/" + hp, malformed},
		{"hash part and dash", "/nix/store/" + hp + "-", malformed},
		{"hash part too short", "/nix/store/" + hp[1:] + "-" + name, malformed},
		{"hash part in capitals", "/nix/store/" + strings.ToUpper(hp) + "-" + name, malformed},
		{"hash part with a letter that base 32 lacks", "/nix/store/e" + hp[1:] + "-" + name, malformed},
		{"name with a space", strings.Replace(p, "lib-1.0", "lib 1.0", 1), malformed},
		{"name beyond ASCII", strings.Replace(p, "lib-1.0", "lïb-1.0", 1), malformed},
		{"name too long", p + strings.Repeat("x", 205), malformed},
		{"name of dots", "/nix/store/" + hp + "-..", malformed},
		{"name that begins with a dot", "/nix/store/" + hp + "-.zshrc", untrusted},
	} {
		v("StorePath: "+x.name, m.lib.set("StorePath", x.value), x.want, "a store path has one spelling here")
	}
}

func narHashes(m material, v adder) {
	sum := sha256.Sum256(m.lib.nar)
	hexSum, b32 := hex.EncodeToString(sum[:]), strings.TrimPrefix(m.lib.field("NarHash"), "sha256:")
	b64 := base64.StdEncoding.EncodeToString(sum[:])
	flipped := sum
	flipped[31] ^= 1
	const prefix = "the algorithm must be named"
	for _, x := range []struct{ name, value, want, why string }{
		{"base 16", "sha256:" + hexSum, signedByUpstream, ""},
		{"base 16 in capitals", "sha256:" + strings.ToUpper(hexSum), signedByUpstream, ""},
		{"base 64", "sha256:" + b64, signedByUpstream, ""},
		{"SRI", "sha256-" + b64, signedByUpstream, ""},
		{"SRI in base 16", "sha256-" + hexSum, malformed, ""},
		{"one bit flipped", "sha256:" + hex.EncodeToString(flipped[:]), untrusted, ""},
		{"of another path", m.app.field("NarHash"), untrusted, ""},
		{"no algorithm", hexSum, signedByUpstream, "base 16 is plain enough, and the worker protocol has no algorithm"},
		{"no algorithm in base 32", b32, malformed, prefix},
		{"too short", "sha256:" + b32[1:], malformed, ""},
		{"too long", "sha256:" + "0" + b32, malformed, ""},
		{"over 256 bits", "sha256:z" + b32[1:], malformed, ""},
		{"base 32 in capitals", "sha256:" + strings.ToUpper(b32), malformed, ""},
		{"algorithm in capitals", "SHA256:" + b32, malformed, ""},
		{"MD5", "md5:d41d8cd98f00b204e9800998ecf8427e", malformed, ""},
		{"SHA-1", "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709", malformed, ""},
		{"SHA-512", "sha512:" + hexSum + hexSum, malformed, ""},
		{"zero", "sha256:" + strings.Repeat("0", 64), untrusted, ""},
		{"unknown algorithm", "sha257:" + b32, malformed, ""},
	} {
		v("NarHash: "+x.name, m.lib.set("NarHash", x.value), x.want, x.why)
	}
}

func narSizes(m material, v adder) {
	n, err := strconv.ParseInt(m.lib.field("NarSize"), 10, 64)
	check(err)
	const oneSpelling = "a number has one spelling here"
	for _, x := range []struct{ name, value, want, why string }{
		{"one more", fmt.Sprint(n + 1), untrusted, ""},
		{"one less", fmt.Sprint(n - 1), untrusted, ""},
		{"ten times", fmt.Sprint(n * 10), untrusted, ""},
		{"zero", "0", malformed, ""},
		{"one", "1", untrusted, ""},
		{"negative", fmt.Sprint(-n), malformed, ""},
		{"wrapped below zero", "-" + fmt.Sprint(uint64(1<<64-1)-uint64(n)+1), malformed, ""},
		{"wrapped above 2^64", "1844674407370955" + fmt.Sprint(1616+n), malformed, ""},
		{"leading zero", "0" + fmt.Sprint(n), malformed, oneSpelling},
		{"plus", "+" + fmt.Sprint(n), malformed, oneSpelling},
		{"hexadecimal", fmt.Sprintf("0x%x", n), malformed, ""},
		{"fraction", fmt.Sprintf("%d.0", n), malformed, ""},
		{"unit", fmt.Sprintf("%dB", n), malformed, ""},
		{"separators", "2_1_6", malformed, ""},
		{"1 TiB", fmt.Sprint(int64(1 << 40)), untrusted, ""},
		{"1 TiB and a byte", fmt.Sprint(int64(1<<40 + 1)), malformed, ""},
		{"2^63", "9223372036854775808", malformed, ""},
		{"words", "many", malformed, ""},
	} {
		v("NarSize: "+x.name, m.lib.set("NarSize", x.value), x.want, x.why)
	}
}

func references(m material, v adder) {
	refs := strings.Fields(m.lib.field("References"))
	a, b := refs[0], refs[1]
	extra := strings.TrimPrefix(m.tree.path, "/nix/store/")
	for _, x := range []struct{ name, value, want, why string }{
		{"in another order", b + " " + a, signedByUpstream, ""},
		{"one twice", a + " " + b + " " + a, signedByUpstream, ""},
		{"two spaces", a + "  " + b, signedByUpstream, ""},
		{"the first dropped", b, untrusted, ""},
		{"the last dropped", a, untrusted, ""},
		{"all dropped", "", untrusted, ""},
		{"one added", a + " " + b + " " + extra, untrusted, ""},
		{"one exchanged", a + " " + extra, untrusted, ""},
		{"absolute", "/nix/store/" + a + " /nix/store/" + b, malformed, ""},
		{"commas", a + "," + b, malformed, ""},
		{"comma and space", a + ", " + b, malformed, ""},
		{"tab", a + "\t" + b, malformed, ""},
		{"space beyond ASCII", a + "\u00a0" + b, malformed, ""},
		{"hash part alone", a[:32] + " " + b, malformed, ""},
		{"path traversal", a + " ../../etc/passwd", malformed, ""},
		{"another name", a + "x " + b, untrusted, ""},
	} {
		v("References: "+x.name, m.lib.set("References", x.value), x.want, x.why)
	}
	v("References: on two lines", m.lib.line("References", "References: "+a, "References: "+b), malformed)
	v("References: an empty line before", m.lib.line("References", "References: ", "References: "+a+" "+b), malformed, oneReading)
}

// unsignedFields are not covered by the signature, so every peer can set them: they are dropped.
func unsignedFields(m material, v adder) {
	const strictDeriver = "what is there must be well-formed"
	drv := strings.TrimPrefix(m.drv.path, "/nix/store/")
	v("Deriver: another", m.lib.set("Deriver", drv), signedByUpstream)
	v("Deriver: unknown", m.lib.set("Deriver", "unknown-deriver"), signedByUpstream)
	v("Deriver: absolute", m.lib.set("Deriver", "/nix/store/"+drv), malformed, strictDeriver)
	v("Deriver: path traversal", m.lib.set("Deriver", "../"+drv), malformed, strictDeriver)
	v("System: given", m.lib.add("System", "x86_64-linux"), signedByUpstream)
	v("FileSize: not a number", m.lib.set("FileSize", "many"), signedByUpstream, noUse)
	v("Compression: unknown", m.lib.set("Compression", "rot13"), signedByUpstream, ourURL)
	v("URL: elsewhere", m.lib.set("URL", "http://127.0.0.1:1/nar"), signedByUpstream, ourURL)
	for _, x := range []struct{ name, ca, why string }{
		{"text", m.note.field("CA"), stripped},
		{"flat", m.file.field("CA"), stripped},
		{"tree", m.tree.field("CA"), stripped},
		{"tree with its own NarHash", "fixed:r:" + m.lib.field("NarHash"), stripped},
		{"tree with references, rewritten", m.caLib.field("CA"), stripped},
		{"MD5, which 2.8 dies of", m.md5.field("CA"), stripped},
		{"SHA-1 text", "text:" + strings.TrimPrefix(m.sha1.field("CA"), "fixed:"), stripped},
		{"git", "fixed:git:sha1:" + strings.Repeat("0", 40), stripped},
		{"nonsense", "nonsense", stripped},
		{"empty", "", ""},
	} {
		v("CA: "+x.name, m.lib.add("CA", x.ca), signedByUpstream, x.why)
	}
	v("CA: twice", m.lib.add("CA", m.tree.field("CA")).add("CA", m.tree.field("CA")), malformed)
	v("CA: empty twice", m.lib.add("CA", "").add("CA", ""), malformed, oneReading)
}
