package main

import (
	"cmp"
	"strings"
)

const (
	signedByUpstream = "signed by upstream-1"
	signedByOther    = "signed by other-1"
	contentAddressed = "content-addressed"
	untrusted        = "untrusted"
	malformed        = "malformed"
	narRefused       = "NAR refused"
	keyRefused       = "key refused"
)

// genuineVectors are what Nix itself writes.
func genuineVectors(m material) []vector {
	both := []string{m.upstream.public, m.other.public}
	v := func(name string, g genuine, want string) vector {
		return vector{name: name, base: g, text: g.text, want: want}
	}
	vs := []vector{
		v("signed, no references", m.dep, signedByUpstream),
		v("signed, refers to itself", m.lib, signedByUpstream),
		v("signed, two references", m.app, signedByUpstream),
		v("signed by two, one is trusted", m.bothLib, signedByUpstream),
		{name: "signed by two, the other is trusted", base: m.bothLib, text: m.bothLib.text, keys: both[1:], want: signedByOther},
		{name: "signed by two, both are trusted", base: m.bothLib, text: m.bothLib.text, keys: both, want: signedByOther},
		{name: "signed by a stranger", base: m.otherLib, text: m.otherLib.text, want: untrusted},
		{name: "nobody is trusted", base: m.lib, text: m.lib.text, keys: []string{}, want: untrusted},
		v("tree", m.tree, contentAddressed),
		v("tree, rewritten to be content-addressed", m.caDep, contentAddressed),
		v("tree with references", m.caApp, contentAddressed),
		v("flat file", m.file, contentAddressed),
		v("flat file without padding", m.file8, contentAddressed),
		v("empty flat file", m.empty, contentAddressed),
		v("text", m.note, contentAddressed),
		v("text with a reference", m.page, contentAddressed),
		v("derivation", m.drv, contentAddressed),
		{name: "tree, nobody is trusted", base: m.tree, text: m.tree.text, keys: []string{}, want: contentAddressed},
		v("signed tree keeps its content address", m.signedTree, signedByUpstream),
		v("signed flat file loses its content address", m.signedFile, signedByUpstream),
		v("signed text loses its content address", m.signedNote, signedByUpstream),
		v("signed SHA-1 file loses its content address", m.signedSHA1, signedByUpstream),
	}
	for _, x := range []struct {
		name string
		genuine
	}{
		{"MD5 file", m.md5}, {"SHA-1 file", m.sha1}, {"SHA-512 file", m.sha512},
		{"MD5 tree", m.treeMD5}, {"SHA-1 tree", m.treeSHA1}, {"SHA-512 tree", m.treeSHA512},
	} {
		vs = append(vs, v(x.name, x.genuine, contentAddressed))
	}
	self := v("tree that refers to itself", m.caLib, untrusted)
	self.why = "no path that refers to itself is believed without a signature"
	return append(vs, self)
}

// Why narbor and Nix differ about the form of a narinfo.
const (
	ourURL     = "narbor fetches in its own way, and writes URL and Compression itself"
	noUse      = "narbor has no use for this field"
	oneReading = "a narinfo that could be read in two ways is refused"
)

// An edit changes the line of one field. wants is what must come of it, a letter for each of fields.
type edit struct {
	name, wants string
	apply       func(t text, field, value, other string) text
}

var fields = strings.Fields("StorePath URL Compression FileHash NarHash NarSize References Deriver Sig")

// The letters of edit.wants.
var letters = map[byte]string{'s': signedByUpstream, 'u': untrusted, 'm': malformed}

var edits = []edit{
	{"removed", "msssmmusu", func(t text, f, _, _ string) text { return t.line(f) }},
	{"twice", "mmmmmmmms", func(t text, f, v, _ string) text { return t.line(f, f+": "+v, f+": "+v) }},
	{"another before it", "mmmmmmmms", func(t text, f, v, o string) text { return t.line(f, f+": "+o, f+": "+v) }},
	{"another after it", "mmmmmmmms", func(t text, f, v, o string) text { return t.line(f, f+": "+v, f+": "+o) }},
	{"another instead", "usssuuusu", func(t text, f, v, o string) text { return t.set(f, o) }},
	{"empty", "msssmmumu", func(t text, f, _, _ string) text { return t.set(f, "") }},
	{"colon and no space", "mmmmmmmmm", func(t text, f, v, _ string) text { return t.line(f, f+":"+v) }},
	{"colon and a tab", "mmmmmmmmm", func(t text, f, v, _ string) text { return t.line(f, f+":\t"+v) }},
	{"colon and two spaces", "msssmmsmu", func(t text, f, v, _ string) text { return t.set(f, " "+v) }},
	{"space after it", "msssmmsmu", func(t text, f, v, _ string) text { return t.set(f, v+" ") }},
	{"space before the colon", "msssmmusu", func(t text, f, v, _ string) text { return t.line(f, f+" : "+v) }},
	{"lower case", "msssmmusu", func(t text, f, v, _ string) text { return t.line(f, strings.ToLower(f)+": "+v) }},
	{"carriage return after it", "mmmmmmmmm", func(t text, f, v, _ string) text { return t.set(f, v+"\r") }},
}

// whys says where Nix thinks otherwise about an edit, by its name and by that and the field.
var whys = map[string]string{
	"twice": oneReading, "another before it": oneReading, "another after it": oneReading,
	"colon and no space": oneReading, "colon and a tab": oneReading, "carriage return after it": oneReading,
	"space after it Sig": "base64 has one spelling here",
}

func fieldVectors(m material) []vector {
	var vs []vector
	for _, e := range edits {
		for i, f := range fields {
			v := vector{name: f + ", " + e.name, base: m.lib, want: letters[e.wants[i]], why: whys[e.name]}
			v.text = e.apply(m.lib.text, f, m.lib.field(f), m.app.field(f))
			if why, ok := whys[e.name+" "+f]; ok {
				v.why = why
			} else if f == "URL" || f == "Compression" {
				v.why = ourURL
			} else if f == "FileHash" {
				v.why = cmp.Or(v.why, noUse)
			}
			vs = append(vs, v)
		}
	}
	return vs
}
