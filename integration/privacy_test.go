package integration_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/nixbase32"

	"narbor/integration/corpus"
	"narbor/integration/lan"
	"narbor/store"
)

// needles maps byte strings to search for to the information that each gives away. All have at least needleKey bytes.
type needles map[string]string

const needleKey = 6

// spread adds a number of bytes in every form in which it might be written.
func (n needles) spread(what string, raw []byte) {
	reversed := slices.Clone(raw)
	slices.Reverse(reversed) // as Nix's base 32 has it
	for form, b := range map[string][]byte{"raw": raw, "reversed": reversed} {
		n[string(b)] = what + ", " + form
		n[hex.EncodeToString(b)] = what + ", hex of " + form
		n[strings.ToUpper(hex.EncodeToString(b))] = what + ", upper hex of " + form
		n[base64.RawStdEncoding.EncodeToString(b)[:len(b)]] = what + ", base 64 of " + form // without its end, which may differ
		n[nixbase32.EncodeToString(b)] = what + ", base 32 of " + form
	}
}

func needlesOf(t *testing.T, c *corpus.Corpus, hosts ...string) needles {
	n := needles{}
	for _, info := range c.Infos {
		part, err := nixbase32.DecodeString(string(info.Path.HashPart()))
		if err != nil {
			t.Fatal(err)
		}
		n.spread("hash part of "+info.Path.Name(), part)
		n.spread("NarHash of "+info.Path.Name(), info.NarHash[:])
		if name := info.Path.Name(); len(name) >= needleKey {
			n[name] = "name " + name
		}
	}
	for _, h := range hosts {
		n[h] = "host name " + h
	}
	return n
}

// find returns the information that text gives away.
func (n needles) find(text []byte) map[string]int {
	byKey, first := map[[needleKey]byte][]string{}, [1 << 16]bool{}
	for s := range n {
		byKey[[needleKey]byte([]byte(s))] = append(byKey[[needleKey]byte([]byte(s))], s)
		first[binary.BigEndian.Uint16([]byte(s))] = true
	}
	found := map[string]int{}
	for i := 0; i+needleKey <= len(text); i++ {
		if !first[uint16(text[i])<<8|uint16(text[i+1])] {
			continue
		}
		for _, s := range byKey[[needleKey]byte(text[i:])] {
			if bytes.HasPrefix(text[i:], []byte(s)) {
				found[n[s]]++
			}
		}
	}
	return found
}

// A seen is what a capture holds: whole frames of multicast, and in one piece what each stream carried one way.
type seen struct {
	all, multicast []byte
	frames         int
}

func look(t *testing.T, frames [][]byte) seen {
	s := seen{frames: len(frames)}
	streams := map[string][]byte{}
	for _, f := range frames {
		if len(f) < 14 {
			t.Fatalf("a frame of %d bytes", len(f))
		}
		if f[0]&1 != 0 {
			s.multicast = append(s.multicast, f...)
		}
		s.all = append(s.all, f...)
		if key, payload, ok := tcp(f[12:]); ok {
			streams[key] = append(streams[key], payload...)
		}
	}
	for _, b := range streams { // in the order of capture: what crosses a frame's border is in one piece here
		s.all = append(s.all, b...)
	}
	return s
}

// tcp returns the payload of a TCP segment, from its EtherType on, and what tells its direction and connection.
func tcp(f []byte) (key string, payload []byte, ok bool) {
	var segment []byte
	switch {
	case len(f) > 22 && f[0] == 0x08 && f[1] == 0x00 && f[2+9] == 6:
		head, total := int(f[2]&15)*4, int(binary.BigEndian.Uint16(f[4:]))
		if total == 0 || 2+total > len(f) { // segmentation offload
			total = len(f) - 2
		}
		key, segment = string(f[2+12:2+20]), f[2+head:2+total]
	case len(f) > 42 && f[0] == 0x86 && f[1] == 0xdd && f[2+6] == 6:
		key, segment = string(f[2+8:2+40]), f[2+40:]
	}
	if len(segment) < 20 || len(segment) < int(segment[12]>>4)*4 {
		return "", nil, false
	}
	return key + string(segment[:4]), segment[int(segment[12]>>4)*4:], true
}

func TestNeedlesAreFoundInEveryForm(t *testing.T) {
	part, hash := bytes.Repeat([]byte{0xa7, 1, 9, 200}, 5), bytes.Repeat([]byte{3, 0x5a, 77, 91}, 8)
	n := needles{"some-host": "host name some-host"}
	n.spread("hash part", part)
	n.spread("NarHash", hash)
	for s, what := range n {
		text := slices.Concat(bytes.Repeat([]byte{0}, 99), []byte(s), bytes.Repeat([]byte{0}, 3))
		if n.find(text)[what] == 0 {
			t.Errorf("%s is not found", what)
		}
		if got := n.find(text[:len(text)-4]); got[what] != 0 {
			t.Errorf("%s is found though its end is missing", what)
		}
	}
	if _, err := store.ParseHashPart(nixbase32.EncodeToString(part)); err != nil {
		t.Error(err)
	}
}

// A machine reveals the paths that it installs to the neighbours that it asks, and not to a listener on the wire.
func TestWireTellsNothing(t *testing.T) {
	w := newWorld(t)
	c := w.corpus(corpus.Small())
	const holder, fetcher = "hostname-of-holder", "hostname-of-fetcher"
	n := needlesOf(t, c, holder, fetcher)
	t.Logf("%d needles", len(n))
	have, _ := w.sharing(holder, c)
	want := w.host(lan.HostConfig{Name: fetcher}, "substituters = "+lan.Substituter)
	tap, err := want.Capture()
	w.must(err)
	w.start(want, "--name", fetcher) // for its neighbours, over encrypted connections
	w.neighbours(want, 1)
	w.until(have, "told the name", func(s lan.Status) bool { return len(s.Neighbours) == 1 && s.Neighbours[0].Name == fetcher })
	if s := w.status(want); len(s.Neighbours) != 1 || s.Neighbours[0].Name != "" {
		t.Errorf("the neighbours are %+v, want one that tells no name", s.Neighbours)
	}
	w.realise(want, c.Top.String())
	frames, err := tap.Stop()
	w.must(err)
	s := look(t, frames)
	t.Logf("%d frames, %d bytes, %d of them multicast", s.frames, len(s.all), len(s.multicast))
	w.until(want, "served all archives", func(s lan.Status) bool { return s.Nix.NarsServed >= int64(len(c.Infos)) })
	for what, count := range n.find(s.all) {
		t.Errorf("%s is on the wire %d times", what, count)
	}
	if got := n.find(s.multicast); len(got) > 0 {
		t.Errorf("multicast tells %v", got)
	}
	// The search works: it finds the discovery, and all needles once a Nix asks nginx.
	public := needles{w.status(have).PeerID: "holder", w.status(want).PeerID: "fetcher", "\x07_narbor\x04_tcp": "service"}
	if got := public.find(s.multicast); len(got) != len(public) {
		t.Errorf("multicast tells %v, want all of %v", got, public)
	}
	upstream, url := w.upstream(c)
	plain := w.host(lan.HostConfig{Name: "plain"}, "substituters = "+url)
	if tap, err = upstream.Capture(); err != nil {
		t.Fatal(err)
	}
	w.realise(plain, c.Top.String())
	frames, err = tap.Stop()
	w.must(err)
	told := n.find(look(t, frames).all)
	for _, info := range c.Infos {
		name := info.Path.Name()
		for _, what := range []string{"hash part of " + name + ", base 32 of raw", "NarHash of " + name + ", base 32 of raw"} {
			if told[what] == 0 {
				t.Errorf("the control does not see %s, though it is there in clear", what)
			}
		}
	}
}
