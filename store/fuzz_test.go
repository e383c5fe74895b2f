package store_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"narbor/store"
)

// FuzzValues is about the small types that are written in Nix's base 32, and the paths that are made of them.
func FuzzValues(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		if hp, err := store.ParseHashPart(s); err == nil && (string(hp) != s || store.HashPartFromBytes(hp.Bytes()) != hp) {
			t.Errorf("ParseHashPart(%q) = %q, whose bytes make %q", s, hp, store.HashPartFromBytes(hp.Bytes()))
		}
		if len(s) == 20 {
			made := store.HashPartFromBytes([20]byte([]byte(s)))
			if hp, err := store.ParseHashPart(string(made)); err != nil || hp.Bytes() != [20]byte([]byte(s)) {
				t.Errorf("HashPartFromBytes(%x) = %q, which is parsed as %q, %v", s, made, hp, err)
			}
		}
		if h, err := store.ParseHash(s); err == nil {
			again, err := store.ParseHash(h.String())
			fromCID, cidErr := store.HashFromCID(h.CID())
			if err != nil || cidErr != nil || again != h || fromCID != h {
				t.Errorf("ParseHash(%q) = %v, but again %v, %v, and from its CID %v, %v", s, h, again, err, fromCID, cidErr)
			}
		}
		if p, err := store.ParsePath(s); err == nil && p.String() != s {
			t.Errorf("ParsePath(%q) = %q", s, p)
		}
		if p, err := store.ParsePathName(s); err == nil && (p.Base() != s || string(p.HashPart())+"-"+p.Name() != s ||
			strings.ContainsAny(s, "/\x00\n ")) {
			t.Errorf("ParsePathName(%q) = %q and %q", s, p.HashPart(), p.Name())
		}
	})
}

// FuzzNixConf reads a nix.conf, and what it says once more from a nix.conf written from that.
func FuzzNixConf(f *testing.F) {
	dir := f.TempDir()
	must(f, os.WriteFile(filepath.Join(dir, "other.conf"), []byte("extra-substituters = https://other\n"), 0o644))
	f.Fuzz(func(t *testing.T, text string) {
		for line := range strings.Lines(text) {
			if strings.Contains(line, "include") && strings.Contains(line, "/") {
				return // would read files of this machine
			}
		}
		s, err := store.ParseConf(text, dir)
		if err != nil {
			return
		}
		sigs := map[bool]string{true: "true", false: "false"}[s.RequireSigs]
		printed := "trusted-public-keys = " + strings.Join(s.TrustedPublicKeys, " ") + "\nsubstituters = " +
			strings.Join(s.Substituters, " ") +
			"\nrequire-sigs = " + sigs + "\n"
		if again, err := store.ParseConf(printed, dir); err != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("%q says %+v, but what it comes to, %q, says %+v, %v", text, s, printed, again, err)
		}
	})
}

// A script is a daemon that says the next thing each time that it is told something, whatever that is.
type script struct {
	net.Conn // nil: nothing else is called
	says     [][]byte
	said     bytes.Buffer
}

func (s *script) Write(p []byte) (int, error) {
	if len(s.says) > 0 {
		s.said.Write(s.says[0])
		s.says = s.says[1:]
	}
	return len(p), nil
}

func (s *script) Read(p []byte) (int, error)  { return s.said.Read(p) }
func (s *script) Close() error                { return nil }
func (s *script) SetDeadline(time.Time) error { return nil }

// FuzzDaemon is a whole conversation: the greeting in two parts, the path with a hash part, and its metadata.
func FuzzDaemon(f *testing.F) {
	f.Fuzz(func(t *testing.T, hello, welcome, found, known []byte) {
		n := store.NewNixOn(func() net.Conn { return &script{says: [][]byte{hello, welcome, found, known}} })
		defer n.Close()
		info, err := n.Info(t.Context(), hpCurl)
		if err != nil {
			return
		}
		if info.Path.HashPart() != hpCurl || info.NarSize < 1 || info.NarSize > store.MaxNarSize || len(info.Signatures) > 64 {
			t.Errorf("Info(%s) = %+v", hpCurl, info)
		}
		refs := make([]string, len(info.References))
		for i, r := range info.References {
			refs[i] = r.String()
		}
		again := frames(msgLast, 1, info.Deriver.String(), info.NarHash.String(), refs, 1, int(info.NarSize), 0, info.Signatures, info.CA)
		if got, err := store.ReadPathInfo(bytes.NewReader(again), 1<<8|35, info.Path.String()); err != nil ||
			!reflect.DeepEqual(got, info) {
			t.Errorf("ReadPathInfo of what was read = %+v, %v, want %+v", got, err, info)
		}
	})
}

// FuzzCache is a cache directory with a narinfo file of any text. Beside its one NAR there are links, some of them to
// files outside.
func FuzzCache(f *testing.F) {
	outside := filepath.Join(f.TempDir(), "outside")
	dir, spool := f.TempDir(), f.TempDir()
	p := cachePaths(f, goldenCaches)[0]
	secret := bytes.Repeat([]byte("secret"), len(p.nar)/6+1)[:len(p.nar)]
	must(f, os.WriteFile(outside, secret, 0o644))
	must(f, os.Mkdir(filepath.Join(dir, "nar"), 0o755))
	must(f, os.WriteFile(filepath.Join(dir, "nar", "x"), p.nar, 0o644))
	for name, to := range map[string]string{"in": "nar/x", "out": outside, "nar/out": outside, "up": "..", "loop": "loop"} {
		must(f, os.Symlink(to, filepath.Join(dir, name)))
	}
	hp := p.info.Path.HashPart()
	f.Add("StoreDir: /nix/store\n", p.info.String()+"URL: nar/x\nCompression: none\n")
	f.Add("", p.info.String()+"URL: out\nCompression: none\n")
	f.Add("", p.info.String()+"URL: up/outside\nCompression: none\n")
	f.Add("", p.info.String()+"URL: nar/../in\n")
	f.Fuzz(func(t *testing.T, cacheInfo, narinfo string) {
		must(t, os.WriteFile(filepath.Join(dir, "nix-cache-info"), []byte(cacheInfo), 0o644))
		must(t, os.WriteFile(filepath.Join(dir, string(hp)+".narinfo"), []byte(narinfo), 0o644))
		c, err := store.OpenCache(dir, spool)
		if err != nil {
			return
		}
		info, err := c.Info(t.Context(), hp)
		if err != nil {
			return
		}
		if info.Path.HashPart() != hp {
			t.Errorf("Info(%s) is about %s", hp, info.Path)
		}
		n, err := c.NAR(t.Context(), info)
		if err != nil {
			return
		}
		defer n.Close()
		b, err := io.ReadAll(io.NewSectionReader(n, 0, n.Size()))
		if err != nil || int64(len(b)) != info.NarSize || !slices.Equal(b, p.nar) {
			t.Errorf("the NAR of %q is %d bytes, %v, want the %d of nar/x", narinfo, len(b), err, len(p.nar))
		}
	})
}
