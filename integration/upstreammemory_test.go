package integration_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"narbor/integration/lan"
	"narbor/store"
)

// A packing is archives of one kind.
type packing struct {
	count, size int
	by          string // zstd or xz, and flags; it hears from a pipe, and does not know how much is to come
	fromFile    bool   // and here it does
	want        string // status
}

// An archive that takes much memory to unpack is not unpacked at once with the rest, or not at all: then Nix asks the
// upstream itself.
func TestMemoryOfUnpackingWhatUpstreamsSend(t *testing.T) {
	w := newWorld(t)
	secret, public, err := signature.GenerateKeypair("test-1", rand.Reader)
	w.must(err)
	dir := t.TempDir()
	for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
		w.must(os.Chmod(d, 0o755))
	}
	w.must(os.WriteFile(filepath.Join(dir, "nix-cache-info"), []byte("StoreDir: /nix/store\n"), 0o644))
	packings := []packing{
		{2, 100 << 20, "zstd -1 --ultra --long=27", false, "404"},
		{2, 100 << 20, "zstd -1 --ultra --long=27", true, "404"},
		{3, 60 << 20, "zstd -1 --ultra --long=27", false, "200"},
		{2, 60 << 20, "zstd -1 --ultra --long=27", true, "200"},
		{10, 9 << 20, "zstd -1 --long=23", false, "200"},
		{2, 60 << 20, "xz --lzma2=preset=0,dict=64MiB", false, "200"},
		{16, 50_000, "zstd -1 --ultra --long=27", false, "200"},
	}
	var parts []store.HashPart
	var want []string
	for _, p := range packings {
		for range p.count {
			parts, want = append(parts, w.pack(dir, secret, p)), append(want, p.want)
		}
	}
	up, err := w.lan.Add(lan.HostConfig{Name: "upstream", Binds: map[string]string{"srv/cache": dir}})
	w.must(err)
	_, url, err := up.StartNginx("/srv/cache")
	w.must(err)
	alice := w.host(lan.HostConfig{Name: "alice"}, "substituters =")
	p := w.start(alice, "--upstream", url, "--trusted-key", public.String())
	args := []string{"-s", "--parallel", "--parallel-max", "40", "--max-time", "120", "-w", "%{urlnum} %{http_code}\n"}
	for _, hp := range parts {
		code, body, err := alice.Get(w.ctx, lan.Substituter+"/"+string(hp)+".narinfo")
		w.must(err)
		_, rest, ok := strings.Cut(body, "URL: ")
		if code != "200" || !ok {
			t.Fatalf("%s.narinfo: %s %s", hp, code, body)
		}
		nar, _, _ := strings.Cut(rest, "\n")
		args = append(args, "-o", "/dev/null", lan.Substituter+"/"+nar)
	}
	w.must(p.ResetPeak())
	out, err := alice.Run(w.ctx, "curl", args...)
	w.must(err)
	got := make([]string, len(want))
	for line := range strings.Lines(out) {
		var i int
		var code string
		_, err := fmt.Sscan(line, &i, &code)
		w.must(err)
		got[i] = code
	}
	if !slices.Equal(got, want) {
		t.Errorf("answers are %v, want %v", got, want)
	}
	u, err := p.Usage()
	w.must(err)
	t.Logf("%d archives at once: %d MiB of memory at most", len(parts), u.PeakRSS>>20)
	if u.PeakRSS > maxUnderAttack {
		t.Errorf("memory was %d MiB, want at most %d", u.PeakRSS>>20, maxUnderAttack>>20)
	}
}

// pack puts a new archive into a cache, as real zstd or xz makes it.
func (w world) pack(dir string, secret signature.SecretKey, p packing) store.HashPart {
	w.Helper()
	piece := make([]byte, 1<<20)
	rand.Read(piece)
	contents := bytes.Repeat(piece, p.size>>20+1)[:p.size]
	var nar []byte
	for _, s := range []string{"nix-archive-1", "(", "type", "regular", "contents", string(contents), ")"} {
		nar = binary.LittleEndian.AppendUint64(nar, uint64(len(s)))
		nar = append(append(nar, s...), make([]byte, -len(s)&7)...)
	}
	info := store.Info{NarHash: sha256.Sum256(nar), NarSize: int64(len(nar))}
	hp := store.HashPartFromBytes([20]byte(info.NarHash[:20]))
	var err error
	info.Path, err = store.ParsePathName(string(hp) + "-packed")
	w.must(err)
	sig, err := secret.Sign(rand.Reader, fmt.Sprintf("1;%s;%s;%d;", info.Path, info.NarHash, info.NarSize))
	w.must(err)
	info.Signatures = []string{sig.String()}
	by := strings.Fields(p.by)
	compression, args := by[0], append(by[1:], "-q", "-c")
	file := filepath.Join(dir, string(hp)+".nar")
	cmd := exec.CommandContext(w.ctx, compression, args...)
	cmd.Stdin = bytes.NewReader(nar)
	if p.fromFile {
		w.must(os.WriteFile(file, nar, 0o644))
		cmd = exec.CommandContext(w.ctx, compression, append(args, file)...)
	}
	packed, err := cmd.Output()
	w.must(err)
	w.must(os.WriteFile(file, packed, 0o644))
	text := fmt.Sprintf("%sURL: %s.nar\nCompression: %s\n", info, hp, compression)
	w.must(os.WriteFile(filepath.Join(dir, string(hp)+".narinfo"), []byte(text), 0o644))
	return hp
}
