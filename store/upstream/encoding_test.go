package upstream_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/andybalholm/brotli"

	"narbor/store"
	"narbor/store/storetest"
)

// encodings are what servers send as Content-Encoding.
var encodings = map[string]func(testing.TB, []byte) []byte{
	"gzip": func(t testing.TB, b []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		_, err := w.Write(b)
		storetest.Must(t, errors.Join(err, w.Close()))
		return out.Bytes()
	},
	"br": func(t testing.TB, b []byte) []byte {
		var out bytes.Buffer
		w := brotli.NewWriter(&out)
		_, err := w.Write(b)
		storetest.Must(t, errors.Join(err, w.Close()))
		return out.Bytes()
	},
	"zstd": storetest.PackZstd,
}

// TestUpstreamUndoesContentEncodings has servers that encode narinfos and archives, and break the connection once.
func TestUpstreamUndoesContentEncodings(t *testing.T) {
	t.Parallel()
	nar, _ := storetest.RandomNAR(4, 300_000)
	for encoding, encode := range encodings {
		for compression, pack := range map[string]func(testing.TB, []byte) []byte{"none": func(_ testing.TB, b []byte) []byte { return b },
			"xz": storetest.PackXZ} {
			info := storetest.CachePaths(t, goldenCaches)[0].Info
			info.NarHash, info.NarSize = store.Hash{1}, int64(len(nar))
			var requests atomic.Int64
			u := openUpstream(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Encoding", encoding)
				if strings.HasSuffix(r.URL.Path, ".narinfo") {
					w.Write(encode(t, fmt.Appendf(nil, "%sURL: nar/file\nCompression: %s\n", info, compression)))
					return
				}
				if requests.Add(1) == 1 {
					w = &cutWriter{w, 100_000}
				}
				w.Write(encode(t, pack(t, nar)))
			}), "")
			got, err := stream(t.Context(), u, info)
			if err != nil || !bytes.Equal(got, nar) || requests.Load() != 2 {
				t.Errorf("%s of %s: Stream = %d bytes, %v, in %d requests, want %d in 2", encoding, compression, len(got), err,
					requests.Load(), len(nar))
			}
		}
	}
}

func TestUpstreamRefusesBadContentEncodings(t *testing.T) {
	t.Parallel()
	nar, _ := storetest.RandomNAR(5, 30_000)
	for encoding, sent := range map[string][]byte{
		"rot13": nar, "gzip": nar, "br": nar, "zstd": nar, "deflate, gzip": nar,
	} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel() // they wait before they try again
			u, info := oneCache(t, "Compression: none\n", nar, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Encoding", encoding)
				w.Write(sent)
			})
			got, err := stream(t.Context(), u, info)
			if err == nil || strings.Contains("rot13 deflate, gzip", encoding) && !errors.Is(err, store.ErrUnreadable) &&
				encoding != "gzip" {
				t.Errorf("%s: Stream = %d bytes, %v, want an error", encoding, len(got), err)
			}
		})
	}
	for encoding, encode := range encodings { // a bomb
		u, info := oneCache(t, "Compression: none\n", nar, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", encoding)
			w.Write(encode(t, make([]byte, 5<<20)))
		})
		if got, err := stream(t.Context(), u, info); !errors.Is(err, store.ErrCorrupt) || len(got) > len(nar) {
			t.Errorf("%s of 5 MiB for a NAR of %d: Stream = %d bytes, %v, want ErrCorrupt", encoding, len(nar), len(got), err)
		}
	}
}

func TestWrongFileSizeAndHashAreIgnored(t *testing.T) {
	nar, _ := storetest.RandomNAR(6, 30_000)
	for _, more := range []string{"FileSize: 10\n", "FileSize: 999999999\n", "FileSize: x\n",
		"FileHash: " + store.Hash{7}.String() + "\n"} {
		u, info := oneCache(t, "Compression: xz\n"+more, nar, func(w http.ResponseWriter, r *http.Request) {
			w.Write(storetest.PackXZ(t, nar))
		})
		if got, err := stream(t.Context(), u, info); err != nil || !bytes.Equal(got, nar) {
			t.Errorf("%s: Stream = %d bytes, %v", more, len(got), err)
		}
	}
}

// TestConcatenatedXZ has files of several streams, and with zeros between and after them.
func TestConcatenatedXZ(t *testing.T) {
	nar, _ := storetest.RandomNAR(7, 3<<20)
	a, b := storetest.PackXZ(t, nar[:1<<20]), storetest.PackXZ(t, nar[1<<20:])
	zeros := make([]byte, 4096)
	for name, c := range map[string]struct {
		file []byte
		ok   bool
	}{
		"two streams":          {bytes.Join([][]byte{a, b}, nil), true},
		"padded":               {bytes.Join([][]byte{a, b}, zeros), true},
		"padded at the end":    {bytes.Join([][]byte{a, b, nil}, zeros[:4]), true},
		"odd padding":          {bytes.Join([][]byte{a, b}, zeros[:3]), false},
		"garbage after":        {bytes.Join([][]byte{a, b, nar[:16]}, nil), false},
		"second cut":           {bytes.Join([][]byte{a, b[:len(b)/2]}, nil), false},
		"too large dictionary": {bytes.Join([][]byte{a, hugeDict(b)}, nil), false},
	} {
		u, info := oneCache(t, "Compression: xz\n", nar, func(w http.ResponseWriter, r *http.Request) { w.Write(c.file) })
		got, err := stream(t.Context(), u, info)
		if c.ok && (err != nil || !bytes.Equal(got, nar)) || !c.ok && !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: Stream = %d bytes, %v, want success %v", name, len(got), err, c.ok)
		}
	}
}

// hugeDict changes the dictionary size in the first block of an xz file to 4 GiB.
func hugeDict(file []byte) []byte {
	file = bytes.Clone(file)
	at := bytes.Index(file[12:], []byte{0x21, 1})
	file[12+at+2] = 40
	return file
}

// TestArchiveThatIsNotTheSignedOneIsNotFound has a cache with an archive other than the one in its narinfo.
func TestArchiveThatIsNotTheSignedOneIsNotFound(t *testing.T) {
	nar, _ := storetest.RandomNAR(8, 1000)
	u, info := oneCache(t, "Compression: none\n", nar, func(w http.ResponseWriter, r *http.Request) { w.Write(nar) })
	for i := range 3 {
		_, err := u.Info(t.Context(), info.Path.HashPart())
		if i < 2 && err != nil || i == 2 && (!errors.Is(err, store.ErrNotFound) || !errors.Is(err, store.ErrUnreadable)) {
			t.Errorf("after %d wrong archives Info = %v", i, err)
		}
		u.Wrong(info)
	}
	if _, err := u.Stream(t.Context(), info); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Stream = %v, want ErrNotFound", err)
	}
}
