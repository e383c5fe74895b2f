package p2p

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/libp2p/zeroconf/v2"
	ma "github.com/multiformats/go-multiaddr"

	"narbor/p2p/netmon"
	"narbor/store"
)

func FuzzReadRequest(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := readRequest(bufio.NewReader(bytes.NewReader(in)))
		if err != nil {
			return
		}
		if out := appendRequest(nil, r); !bytes.HasPrefix(in, out) {
			t.Errorf("readRequest accepted %x, but %+v is written as %x", in, r, out)
		}
	})
}

func FuzzReadClaim(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		text, receiving, err := readClaim(bufio.NewReader(bytes.NewReader(in)))
		if err != nil {
			return
		}
		if out := appendClaim(nil, text, receiving); !bytes.HasPrefix(in, out) {
			t.Errorf("readClaim accepted %x, but %q is written as %x", in, text, out)
		}
	})
}

// FuzzReadBlock reads the answer to a request for a block of size bytes.
func FuzzReadBlock(f *testing.F) {
	for _, in := range bombs(f) {
		f.Add(in, 1000)
	}
	packed, buf := make([]byte, s2.MaxEncodedLen(store.BlockSize)), make([]byte, blockHead+store.BlockSize)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		if size < 1 || size > store.BlockSize {
			return
		}
		block := buf[blockHead : blockHead+size]
		n, _, err := readBlock(bufio.NewReader(bytes.NewReader(in)), block)
		if err != nil {
			return
		}
		as := status(in[0]) &^ relayed
		if n > size || as != statusRaw && n == size {
			t.Errorf("readBlock(%x) takes %d bytes for a block of %d", in, n, size)
		}
		var out bytes.Buffer
		bw := bufio.NewWriter(&out)
		if err := writeBlock(bw, readyBlock{status(in[0]), &buf, size}); err != nil || bw.Flush() != nil {
			t.Fatal(err)
		}
		if as == statusRaw && !bytes.HasPrefix(in, out.Bytes()) {
			t.Errorf("readBlock accepted %x, but that block is written as %x", in, out.Bytes())
		}
		for _, as := range []status{statusS2, statusZstd} {
			again := make([]byte, size)
			if p, ok := pack(as, block, packed); ok && (unpack(as, p, again) != nil || !bytes.Equal(again, block)) {
				t.Errorf("%x, packed as %d, comes out as %x", block, as, again)
			}
		}
	})
}

// FuzzReadHave reads the answer to the question which of some blocks are here.
func FuzzReadHave(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte, blocks int) {
		if blocks < 1 || blocks > 1<<20 {
			return
		}
		have, err := readHave(bufio.NewReader(bytes.NewReader(in)), blocks)
		if err != nil {
			return
		}
		out := newBitmap(blocks)
		for i := range blocks {
			if have.has(i) {
				out.set(i)
			}
		}
		if out := append(binary.AppendUvarint(nil, uint64(len(out))), out...); !bytes.HasPrefix(in, out) {
			t.Errorf("readHave accepted %x, but that is written as %x", in, out)
		}
	})
}

// FuzzReadManifest reads the answer to a request for the manifest of a NAR of size bytes.
func FuzzReadManifest(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte, size int64) {
		if size < 1 || size > store.MaxNarSize {
			return
		}
		m, err := readManifest(bufio.NewReader(bytes.NewReader(in)), size)
		if err != nil {
			return
		}
		out, sum := binary.AppendUvarint(nil, uint64(len(m))), int64(0)
		for _, b := range m {
			out, sum = append(out, b.Hash[:]...), sum+int64(b.Size)
		}
		if len(m) != store.NumBlocks(size) || sum != size || !bytes.HasPrefix(in, out) {
			t.Errorf("readManifest(%x) of a NAR of %d bytes = %d blocks with %d bytes, written as %x", in, size, len(m), sum, out)
		}
	})
}

// FuzzAnnouncement is what a machine on the link says about itself: TXT strings, one a line, and for how many seconds to
// believe it.
func FuzzAnnouncement(f *testing.F) {
	l, err := newLAN(lanConfig{Identity: newTestIdentity(f)})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.host.Close() })
	l.gate.setLinks([]netmon.Link{testLink("eth0", "10.1.0.5/24", "169.254.9.9/16", "fd01::5/64", "fe80::5/64")})
	d := newDiscovery(l)
	from := netip.MustParseAddr("fe80::9%eth0")
	f.Add("dnsaddr=/ip6/fe80::9/tcp/6273/p2p/12D3KooWHSGyHvHJCc2mDWx9rUGthyFp28RztaviWnzW9uKRrNrY", int64(60))
	f.Add("dnsaddr=/ip4/10.1.0.6/tcp/6273/p2p/"+l.host.ID().String(), int64(60))
	f.Fuzz(func(t *testing.T, texts string, seconds int64) {
		e := &zeroconf.ServiceEntry{Text: strings.Split(texts, "\n"), Expiry: time.Now().Add(time.Duration(seconds) * time.Second)}
		a, ok := d.parse(e, from)
		if ok != (len(a.addrs) > 0) || len(a.addrs) > maxAddrs || a.id == l.host.ID() || time.Until(a.expiry) > mdnsTTL*time.Second {
			t.Errorf("parse(%q, %d s) = %+v, %v", texts, seconds, a, ok)
		}
		for _, m := range a.addrs {
			if a, _ := ipOf(m); a == from {
				m = m[1:] // zones are not on the wire
			} else if !mayBeAnnounced(m) {
				t.Errorf("parse(%q) would dial %s", texts, m)
			}
			if id, again, ok := parseText(mdnsText + m.String() + "/p2p/" + a.id.String()); !ok || id != a.id || !again.Equal(m) {
				t.Errorf("%s of %s comes back as %s of %s, %v", m, a.id, again, id, ok)
			}
		}
	})
}

// mayBeAnnounced says whether an address is another machine's on the links of [FuzzAnnouncement].
func mayBeAnnounced(m ma.Multiaddr) bool {
	text, err := m.ValueForProtocol(m[0].Code())
	a, parseErr := netip.ParseAddr(text)
	if err != nil || parseErr != nil || len(m) != 2 || m[1].Code() != ma.P_TCP {
		return false
	}
	switch a = a.Unmap(); a.String() {
	case "10.1.0.5", "169.254.9.9", "169.254.169.254", "fd01::5":
		return false
	}
	for _, net := range []string{"10.1.0.0/24", "169.254.0.0/16", "fd01::/64"} {
		if netip.MustParsePrefix(net).Contains(a) {
			return true
		}
	}
	return false
}

func FuzzReadFurther(f *testing.F) {
	f.Add(appendFurther(f, goldenFurther()))
	f.Add(appendFurther(f, nil))
	f.Fuzz(func(t *testing.T, in []byte) {
		all, err := readAllFurther(in)
		if err != nil {
			return
		}
		if out := appendFurther(t, all); !bytes.HasPrefix(in, out) {
			t.Errorf("readFurther accepted %x, but %+v is written as %x", in, all, out)
		}
	})
}

func FuzzReadVerdict(f *testing.F) {
	f.Add(appendVerdict(verdictNo, ""))
	f.Add(appendVerdict(verdictNone, ""))
	f.Add(appendVerdict(verdictYes, "StorePath: x\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		v, text, err := readVerdict(bufio.NewReader(bytes.NewReader(in)))
		if err != nil {
			return
		}
		if out := appendVerdict(v, text); !bytes.HasPrefix(in, out) || len(text) > store.MaxInfoLen {
			t.Errorf("readVerdict accepted %x, but %d with %q is written as %x", in, v, text, out)
		}
	})
}

func FuzzReadProgress(f *testing.F) {
	f.Add(appendProgress(0, 0))
	f.Add(appendProgress(store.MaxNarSize, 1<<20))
	f.Add([]byte{byte(verdictHere)})
	f.Fuzz(func(t *testing.T, in []byte) {
		v, got, pace, err := readProgress(bufio.NewReader(bytes.NewReader(in)))
		if err != nil {
			return
		}
		out := []byte{byte(v)}
		if v == verdictYes {
			out = appendProgress(got, pace)
		}
		if !bytes.HasPrefix(in, out) || min(got, pace) < 0 || max(got, pace) > store.MaxNarSize {
			t.Errorf("readProgress accepted %x, but %d, %d, %d is written as %x", in, v, got, pace, out)
		}
	})
}
