package trust_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	"narbor/store"
	"narbor/trust"
)

// With MD5, SHA-1 and SHA-512, NarHash proves nothing: a claim with that of another archive is believed until the
// archive is here, and then refused. The claims are vectors that real Nix has made.
func TestArchiveIsHashedByTheAlgorithmOfItsAddress(t *testing.T) {
	kinds := map[string]bool{}
	for _, v := range readVectors(t) {
		info, err := store.ParseInfo(v.narinfo)
		if err != nil || v.want != "content-addressed" || !v.hasNAR || strings.Contains(info.CA, "sha256:") {
			continue
		}
		kind := info.CA[:strings.LastIndex(info.CA, ":")]
		kinds[kind] = true
		other := bytes.Clone(v.nar)
		other[bytes.LastIndexByte(other, '\n')] = '!'
		info.NarHash = sha256.Sum256(other)
		keys := new(trust.Keys)
		m, err := keys.Check(info)
		if err != nil {
			t.Fatalf("%s: Check = %v, want it believed until the archive is here", v.name, err)
		}
		if err := m.CheckNAR(memNAR{bytes.NewReader(other)}); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: CheckNAR of another archive = %v, want ErrCorrupt", v.name, err)
		}
		if err := m.CheckNAR(memNAR{bytes.NewReader(v.nar)}); err != nil {
			t.Errorf("%s: CheckNAR of the archive = %v", v.name, err)
		}
		for name, change := range map[string]func(*store.Info){
			"another hash": func(i *store.Info) { i.CA = i.CA[:len(i.CA)-1] + "0" },
			"another algorithm": func(i *store.Info) {
				i.CA = strings.NewReplacer("md5", "sha1", "sha1", "md5", "sha512", "sha1").Replace(i.CA)
			},
			"references":           func(i *store.Info) { i.References = []store.Path{i.Path} },
			"the other method":     func(i *store.Info) { i.CA = strings.Replace(i.CA, "fixed:", "fixed:r:", 1) },
			"a text":               func(i *store.Info) { i.CA = strings.Replace(i.CA, "fixed:", "text:", 1) },
			"a hash that is short": func(i *store.Info) { i.CA = i.CA[:len(i.CA)-1] },
		} {
			forged := info
			change(&forged)
			if _, err := keys.Check(forged); !errors.Is(err, trust.ErrUntrusted) {
				t.Errorf("%s with %s: Check = %v, want ErrUntrusted", v.name, name, err)
			}
		}
	}
	if len(kinds) != 6 {
		t.Errorf("there are vectors of %v, want fixed: and fixed:r: with md5, sha1 and sha512", kinds)
	}
}
