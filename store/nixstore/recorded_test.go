package nixstore_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"narbor/store"
	"narbor/store/nixstore"
	"narbor/store/storetest"
)

// A recording is one connection to a real daemon: chunks of bytes, each sent by the client ('C') or the daemon
// ('D'). The file has them as direction, big-endian uint32 length, bytes. testdata/daemon/README tells how it is made.
type recording struct {
	mu     sync.Mutex // guards chunks
	chunks []chunk
}

type chunk struct {
	from byte
	data []byte
}

func (r *recording) add(from byte, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.chunks); n == 0 || r.chunks[n-1].from != from {
		r.chunks = append(r.chunks, chunk{from: from})
	}
	last := &r.chunks[len(r.chunks)-1]
	last.data = append(last.data, p...)
}

func (r *recording) encode() (out []byte) {
	for _, c := range r.chunks {
		out = append(out, c.from)
		out = binary.BigEndian.AppendUint32(out, uint32(len(c.data)))
		out = append(out, c.data...)
	}
	return out
}

func decodeRecording(t *testing.T, file string) *recording {
	t.Helper()
	b, err := os.ReadFile(file)
	storetest.Must(t, err)
	r := new(recording)
	for len(b) > 0 {
		n := int(binary.BigEndian.Uint32(b[1:]))
		r.chunks = append(r.chunks, chunk{b[0], b[5 : 5+n]})
		b = b[5+n:]
	}
	return r
}

// replay plays the daemon, and fails the test if the client does not send what it sent when recorded.
func (r *recording) replay(t *testing.T, conn net.Conn) {
	defer conn.Close()
	for i, c := range r.chunks {
		if c.from == 'D' {
			_, _ = conn.Write(c.data)
			continue
		}
		got := make([]byte, len(c.data))
		if n, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, c.data) {
			t.Errorf("chunk %d: client sent %x, %v, want %x", i, got[:n], err, c.data)
			return
		}
	}
}

// sayings is what Nix's own program says of the recorded paths.
type sayings struct {
	Version string
	Paths   []pathInfoJSON
}

// ask is the conversation that is recorded and played back.
func ask(t *testing.T, n *nixstore.Store, said sayings) {
	t.Helper()
	var all []store.Path
	for _, want := range said.Paths {
		p, err := store.ParsePath(want.Path)
		storetest.Must(t, err)
		all = append(all, p)
		info, err := n.Info(t.Context(), p.HashPart())
		if err != nil {
			t.Fatalf("Info(%s) = %v", p, err)
		}
		want.compare(t, info)
	}
	if _, err := n.Info(t.Context(), hpCurl); err == nil {
		t.Error("Info(absent) succeeds")
	}
	if got, err := n.AllValidPaths(t.Context()); err != nil || !slices.Equal(got, all) {
		t.Errorf("AllValidPaths = %v, %v, want %v", got, err, all)
	}
	if got, err := n.ValidPaths(t.Context(), all[1:]); err != nil || !slices.Equal(got, all[1:]) {
		t.Errorf("ValidPaths = %v, %v, want %v", got, err, all[1:])
	}
	if _, err := n.Info(t.Context(), "short"); err == nil || !strings.Contains(err.Error(), "nix daemon says: ") {
		t.Errorf("Info(short) = %v, want the daemon's own error", err)
	}
}

func TestRecordedDaemon(t *testing.T) {
	text, err := os.ReadFile("testdata/daemon/nix-2.8.json")
	storetest.Must(t, err)
	var said sayings
	storetest.Must(t, json.Unmarshal(text, &said))
	rec := decodeRecording(t, "testdata/daemon/nix-2.8.bin")
	cfg, _ := listen(t, func(conn net.Conn) { rec.replay(t, conn) })
	n, err := nixstore.Open(t.Context(), cfg)
	storetest.Must(t, err)
	defer n.Close()
	ask(t, n, said)
}

// TestRecordDaemon makes the recording anew from the Nix that is installed, if NARBOR_RECORD is set; it tests nothing.
func TestRecordDaemon(t *testing.T) {
	if os.Getenv("NARBOR_RECORD") == "" {
		return
	}
	w := newWorld(t)
	said := sayings{Version: w.nix(t, "", "nix", "--version")}
	storetest.Must(t, json.Unmarshal([]byte(w.nix(t, "", "nix", "path-info", "--all", "--json", "--store", w.remote())), &said.Paths))
	rec := new(recording)
	cfg, _ := listen(t, func(client net.Conn) {
		daemon, err := net.Dial("unix", w.socket)
		storetest.Must(t, err)
		go func() {
			_, _ = io.Copy(io.MultiWriter(recorder{rec, 'D'}, client), daemon)
			client.Close()
		}()
		_, _ = io.Copy(io.MultiWriter(recorder{rec, 'C'}, daemon), client)
		daemon.Close()
	})
	n, err := nixstore.Open(t.Context(), cfg)
	storetest.Must(t, err)
	ask(t, n, said)
	n.Close()
	text, err := json.MarshalIndent(said, "", "\t")
	storetest.Must(t, err)
	storetest.Must(t, os.WriteFile("testdata/daemon/nix-2.8.json", append(text, '\n'), 0o644))
	storetest.Must(t, os.WriteFile("testdata/daemon/nix-2.8.bin", rec.encode(), 0o644))
}

type recorder struct {
	r    *recording
	from byte
}

func (r recorder) Write(p []byte) (int, error) {
	r.r.add(r.from, p)
	return len(p), nil
}
