package wire

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"

	"narbor/store"
	"narbor/trust"
)

// With -update the golden requests in testdata/wire are written anew: go test ./p2p/wire -run Golden -update
var update = flag.Bool("update", false, "write testdata/wire anew")

func goldenRequests(t testing.TB) map[string]Request {
	nar := narHash(t)
	return map[string]Request{
		"claims-1":    {Kind: AskClaims, HashParts: []store.HashPart{partA}},
		"claims-2":    {Kind: AskClaims, HashParts: []store.HashPart{partA, partB}},
		"manifest":    {Kind: AskManifest, HashParts: []store.HashPart{partA}, NAR: nar},
		"have":        {Kind: AskHave, HashParts: []store.HashPart{partA}, NAR: nar},
		"block-0":     {Kind: AskBlock, HashParts: []store.HashPart{partA}, NAR: nar},
		"block-127":   {Kind: AskBlock, HashParts: []store.HashPart{partB}, NAR: nar, Block: 127},
		"block-70000": {Kind: AskBlock, HashParts: []store.HashPart{partA}, NAR: nar, Block: 70000},
		"offer":       {Kind: AskOffer, HashParts: []store.HashPart{goldenOffer(t).Path.HashPart()}, Offer: goldenOffer(t)},
		"file":        {Kind: AskFile, HashParts: []store.HashPart{goldenFile(t).PathCalled("")}, File: goldenFile(t)},
	}
}

// goldenFile is a file by its SHA-512.
func goldenFile(t testing.TB) trust.File {
	t.Helper()
	f, err := trust.ParseFile("sha512", strings.Repeat("0f", 64))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// goldenOffer is a claim with a reference and two signatures.
func goldenOffer(t testing.TB) store.Info {
	t.Helper()
	info, err := store.ParseInfo("StorePath: /nix/store/" + string(partA) + "-hello\nNarHash: " + narHash(t).String() +
		"\nNarSize: 120\nReferences: " + string(partB) + "-glibc\nSig: cache-1:c2ln\nSig: cache-2:c2ln\n")
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestGoldenRequests(t *testing.T) {
	for name, want := range goldenRequests(t) {
		file := filepath.Join("testdata", "wire", name+".hex")
		if *update {
			if err := os.WriteFile(file, []byte(hex.EncodeToString(want.Append(nil))+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		frame, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		if got := want.Append(nil); !bytes.Equal(got, frame) {
			t.Errorf("%s: request is %x, want %x", name, got, frame)
		}
		if got, err := ReadRequest(bufio.NewReader(bytes.NewReader(frame))); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: readRequest = %+v, %v, want %+v", name, got, err, want)
		}
	}
}

// goldenFurther is claims that were not asked for, and their end.
func goldenFurther() []further {
	return []further{{partA, "StorePath: " + store.Dir + "/" + string(partA) + "-a\n"}, {partB, "x"}}
}

func appendFurther(t testing.TB, all []further) []byte {
	var b bytes.Buffer
	bw := bufio.NewWriter(&b)
	for _, c := range all {
		if err := WriteFurther(bw, c.hp, c.text); err != nil {
			t.Fatal(err)
		}
	}
	bw.WriteByte(0)
	bw.Flush()
	return b.Bytes()
}

func readAllFurther(in []byte) (got []further, err error) {
	err = ReadFurther(bufio.NewReader(bytes.NewReader(in)), func(hp store.HashPart, text string) {
		got = append(got, further{hp, text})
	})
	return got, err
}

func TestGoldenFurtherClaims(t *testing.T) {
	file, want := filepath.Join("testdata", "wire", "further.hex"), goldenFurther()
	if *update {
		if err := os.WriteFile(file, []byte(hex.EncodeToString(appendFurther(t, want))+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if got := appendFurther(t, want); !bytes.Equal(got, answer) {
		t.Errorf("further claims are %x, want %x", got, answer)
	}
	if got, err := readAllFurther(answer); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("readFurther = %+v, %v, want %+v", got, err, want)
	}
	for cut := range answer {
		if got, err := readAllFurther(answer[:cut]); err != io.ErrUnexpectedEOF {
			t.Errorf("readFurther(cut at %d) = %+v, %v, want unexpected EOF", cut, got, err)
		}
	}
}

func TestFurtherClaimsHaveLimits(t *testing.T) {
	text := strings.Repeat("x", MaxFurtherLen/4)
	many := make([]further, MaxFurther+1)
	for i := range many {
		many[i] = further{partA, "x"}
	}
	for _, c := range []struct {
		name string
		all  []further
		want error
	}{
		{"as many as may be", many[1:], nil},
		{"one too many", many, ErrWire},
		{"as long as may be", []further{{partA, text}, {partA, text}, {partA, text}, {partA, text}}, nil},
		{"a byte too long", []further{{partA, text}, {partA, text}, {partA, text}, {partA, text}, {partA, "x"}}, ErrWire},
	} {
		if got, err := readAllFurther(appendFurther(t, c.all)); !errors.Is(err, c.want) {
			t.Errorf("%s: readFurther = %d claims, %v, want %v", c.name, len(got), err, c.want)
		}
	}
}

func TestReadRequestRefuses(t *testing.T) {
	good := Request{Kind: AskBlock, HashParts: []store.HashPart{partA}, NAR: narHash(t), Block: 5}.Append(nil)
	frame := func(body ...byte) []byte { return append([]byte{byte(len(body))}, body...) }
	edit := func(at int, b byte) []byte {
		f := bytes.Clone(good)
		f[at] = b
		return f
	}
	for name, in := range map[string][]byte{
		"empty frame":           {0},
		"unknown kind":          frame(9, 1, 2, 3),
		"no hash part":          frame(byte(AskClaims)),
		"half a hash part":      frame(append([]byte{byte(AskClaims)}, make([]byte, 30)...)...),
		"too long":              {0xff, 0xff, 0x7f, 1},
		"endless length":        bytes.Repeat([]byte{0xff}, 20),
		"length not shortest":   {0x81, 0x00, 1},
		"other multihash":       edit(2+hashPartBytes+2, 0x13),
		"other codec":           edit(2+hashPartBytes+1, 0x70),
		"CID version 0":         edit(2+hashPartBytes, 0x12),
		"no block number":       append([]byte{good[0] - 1}, good[1:len(good)-1]...),
		"bytes after it":        append([]byte{good[0] + 1}, append(bytes.Clone(good[1:]), 7)...),
		"block of more than TB": append([]byte{good[0] + 3}, append(bytes.Clone(good[1:len(good)-1]), 0xff, 0xff, 0xff, 0x7f)...),
		"manifest with a block": edit(1, byte(AskManifest)),
	} {
		if r, err := ReadRequest(bufio.NewReader(bytes.NewReader(in))); !errors.Is(err, ErrWire) {
			t.Errorf("%s: readRequest(%x) = %+v, %v, want errWire", name, in, r, err)
		}
	}
	for cut := 1; cut < len(good); cut++ {
		if r, err := ReadRequest(bufio.NewReader(bytes.NewReader(good[:cut]))); err != io.ErrUnexpectedEOF {
			t.Errorf("readRequest(cut at %d) = %+v, %v, want unexpected EOF", cut, r, err)
		}
	}
}

func TestAnswersThatBreakTheFormat(t *testing.T) {
	const size = 3*store.BlockSize + 10
	read := func(in []byte, what string) error {
		br := bufio.NewReader(bytes.NewReader(in))
		var err error
		switch what {
		case "claim":
			_, _, err = ReadClaim(br)
		case "block":
			_, _, err = ReadBlock(br, make([]byte, 10))
		case "manifest":
			_, err = ReadManifest(br, size)
		case "have":
			_, err = ReadHave(br, 12)
		}
		return err
	}
	for _, c := range []struct {
		what, name string
		in         []byte
		want       error
	}{
		{"claim", "too long", []byte{0x82, 0x80, 0x80, 0x01}, ErrWire},
		{"claim", "cut", []byte{10, 'a'}, io.ErrUnexpectedEOF},
		{"claim", "of nothing, being received", []byte{1}, ErrWire},
		{"claim", "nothing", nil, io.ErrUnexpectedEOF},
		{"block", "gone", []byte{0}, store.ErrNotFound},
		{"block", "unknown status", []byte{8}, ErrWire},
		{"block", "later", []byte{4}, ErrLater},
		{"block", "shorter", append([]byte{1, 9}, make([]byte, 9)...), ErrWire},
		{"block", "longer", append([]byte{1, 11}, make([]byte, 11)...), ErrWire},
		{"block", "cut", append([]byte{1, 10}, make([]byte, 9)...), io.ErrUnexpectedEOF},
		{"block", "nothing", nil, io.ErrUnexpectedEOF},
		{"manifest", "none", []byte{0}, store.ErrNotFound},
		{"manifest", "fewer", append([]byte{3}, make([]byte, 96)...), ErrWire},
		{"manifest", "more", append([]byte{5}, make([]byte, 160)...), ErrWire},
		{"have", "none", []byte{0}, store.ErrNotFound},
		{"have", "shorter", []byte{1, 0xff}, ErrWire},
		{"have", "longer", []byte{3, 0xff, 0x0f, 0}, ErrWire},
		{"have", "blocks that there are not", []byte{2, 0xff, 0x1f}, ErrWire},
		{"have", "cut", []byte{2, 0xff}, io.ErrUnexpectedEOF},
		{"have", "good", []byte{2, 0xff, 0x0f}, nil},
		{"manifest", "cut", append([]byte{4}, make([]byte, 127)...), io.ErrUnexpectedEOF},
	} {
		if err := read(c.in, c.what); !errors.Is(err, c.want) {
			t.Errorf("%s, %s: %v, want %v", c.what, c.name, err, c.want)
		}
	}
}

// BenchmarkBlock writes the answer to a block request and reads it, as it is and packed.
func BenchmarkBlock(b *testing.B) {
	for name, as := range map[string]status{"raw": statusRaw, "s2": statusS2, "zstd": statusZstd} {
		b.Run(name, func(b *testing.B) {
			from := make([]byte, blockHead+s2.MaxEncodedLen(store.BlockSize))
			to := make([]byte, store.BlockSize)
			size := copy(from[blockHead:], text(store.BlockSize))
			if as != statusRaw {
				packed, ok := packer{as, 0, idle}.pack(text(store.BlockSize), make([]byte, len(from)))
				if !ok {
					b.Fatal("not worth it")
				}
				size = copy(from[blockHead:], packed)
			}
			var wire bytes.Buffer
			bw, br := bufio.NewWriterSize(&wire, 4<<10), bufio.NewReaderSize(&wire, 16<<10)
			b.SetBytes(store.BlockSize)
			for b.Loop() {
				if err := errors.Join((&Block{from, as, size}).Write(bw), bw.Flush()); err != nil {
					b.Fatal(err)
				}
				if _, _, err := ReadBlock(br, to); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
