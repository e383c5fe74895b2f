package bincache_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"narbor/store/bincache"
	"narbor/store/storetest"
)

// FuzzCache is a cache directory with a narinfo file of any text. Beside its one NAR there are links, some of them to
// files outside.
func FuzzCache(f *testing.F) {
	outside := filepath.Join(f.TempDir(), "outside")
	dir, spool := f.TempDir(), f.TempDir()
	p := storetest.CachePaths(f, goldenCaches)[0]
	secret := bytes.Repeat([]byte("secret"), len(p.NAR)/6+1)[:len(p.NAR)]
	storetest.Must(f, os.WriteFile(outside, secret, 0o644))
	storetest.Must(f, os.Mkdir(filepath.Join(dir, "nar"), 0o755))
	storetest.Must(f, os.WriteFile(filepath.Join(dir, "nar", "x"), p.NAR, 0o644))
	for name, to := range map[string]string{"in": "nar/x", "out": outside, "nar/out": outside, "up": "..", "loop": "loop"} {
		storetest.Must(f, os.Symlink(to, filepath.Join(dir, name)))
	}
	hp := p.Info.Path.HashPart()
	f.Add("StoreDir: /nix/store\n", p.Info.String()+"URL: nar/x\nCompression: none\n")
	f.Add("", p.Info.String()+"URL: out\nCompression: none\n")
	f.Add("", p.Info.String()+"URL: up/outside\nCompression: none\n")
	f.Add("", p.Info.String()+"URL: nar/../in\n")
	f.Fuzz(func(t *testing.T, cacheInfo, narinfo string) {
		storetest.Must(t, os.WriteFile(filepath.Join(dir, "nix-cache-info"), []byte(cacheInfo), 0o644))
		storetest.Must(t, os.WriteFile(filepath.Join(dir, string(hp)+".narinfo"), []byte(narinfo), 0o644))
		c, err := bincache.Open(dir, spool)
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
		if err != nil || int64(len(b)) != info.NarSize || !slices.Equal(b, p.NAR) {
			t.Errorf("the NAR of %q is %d bytes, %v, want the %d of nar/x", narinfo, len(b), err, len(p.NAR))
		}
	})
}
