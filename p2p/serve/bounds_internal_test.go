package serve

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"narbor/p2p/p2ptest"
	"narbor/store"
	"narbor/trust"
	"narbor/trust/trusttest"
)

func TestClaimsTellWhatIsSignedAndNoMore(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := p2ptest.Random(100)
	source := trusttest.SourceClaim(t, "source", nar)
	path := source.Path
	info, _ := s.SignPath(t, path, nar)
	want := info.String()
	info.CA, info.Deriver = source.CA, path
	info.Signatures = append(info.Signatures, "other-1:AAAA")
	mem := new(store.Mem)
	mem.Add(info, nar)
	sh := newSharer([]store.Source{mem}, nil, trust.Policy{Keys: s.Keys})
	if got, err := sh.sharedClaim(t.Context(), path.HashPart()); err != nil || got.text != want {
		t.Errorf("sharedClaim = %q, %v, want %q", got.text, err, want)
	}
}

// Private sources are content-addressed, so a peer believes them without a signature.
func TestUnsignedContentIsNotShared(t *testing.T) {
	s := trusttest.NewSigner(t)
	nar := p2ptest.Random(100)
	info := trusttest.SourceClaim(t, "private", nar)
	m, err := s.Keys.Check(info)
	if err != nil {
		t.Fatalf("Check = %v, want it believed", err)
	}
	mem := new(store.Mem)
	mem.Add(info, nar)
	sh := newSharer([]store.Source{mem}, nil, trust.Policy{Keys: s.Keys})
	if c, err := sh.sharedClaim(t.Context(), info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("sharedClaim = %q, %v, want ErrNotFound", c.text, err)
	}
	if n, _, err := sh.readBlock(t.Context(), blockRequest(info, 0), make([]byte, store.BlockSize)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("readBlock = %d, %v, want ErrNotFound", n, err)
	}
	sh.arriving = new(arrivals)
	if _, ok := sh.May(m); ok {
		t.Errorf("may(%s) = true while it is received", info.CA)
	}
}

// A fetched source is shared without a signature if the policy says so, and the claim proves itself to a peer without
// keys.
func TestFetchedSourcesAreShared(t *testing.T) {
	nar := p2ptest.Random(100)
	fetched, drv := trusttest.SourceClaim(t, "source", nar), trusttest.SourceClaim(t, "source.drv", nar)
	fetched.Fetched = true
	with := func(change func(*store.Info)) store.Info {
		info := fetched
		change(&info)
		return info
	}
	for name, c := range map[string]struct {
		info   store.Info
		damage bool
		off    bool
		shared bool
	}{
		"fetched":             {info: fetched, shared: true},
		"made by a fetcher":   {info: with(func(i *store.Info) { i.Ultimate = true }), shared: true},
		"policy without them": {info: fetched, off: true},
		"not fetched":         {info: with(func(i *store.Info) { i.Fetched = false })},
		"built here":          {info: with(func(i *store.Info) { i.Fetched, i.Ultimate = false, true })},
		"another content":     {info: with(func(i *store.Info) { i.NarHash[0]++ })},
		"with references":     {info: with(func(i *store.Info) { i.References = []store.Path{drv.Path} })},
		"text":                {info: with(func(i *store.Info) { i.CA = strings.Replace(i.CA, "fixed:r:", "text:", 1) })},
		"derivation":          {info: with(func(i *store.Info) { i.Path, i.CA = drv.Path, drv.CA })},
		"damaged":             {info: fetched, damage: true},
	} {
		t.Run(name, func(t *testing.T) {
			mem := new(store.Mem)
			mem.Add(c.info, nar)
			var src store.Source = mem
			if c.damage {
				src = damaged{mem}
			}
			keys := new(trust.Keys)
			sh := newSharer([]store.Source{src}, nil, trust.Policy{Keys: keys, Fetched: !c.off})
			claim, err := sh.sharedClaim(t.Context(), c.info.Path.HashPart())
			if (claim.text != "") != c.shared || err != nil && !errors.Is(err, store.ErrNotFound) {
				t.Errorf("sharedClaim = %q, %v, want a claim: %t", claim.text, err, c.shared)
			}
			n, _, err := sh.readBlock(t.Context(), blockRequest(c.info, 0), make([]byte, store.BlockSize))
			if (n > 0) != c.shared {
				t.Errorf("readBlock = %d, %v, want a block: %t", n, err, c.shared)
			}
			if _, err := sh.policy.Check(c.info); !c.damage && (err == nil) != c.shared {
				t.Errorf("the policy's Check = %v, want shared: %t", err, c.shared)
			}
			if !c.shared {
				return
			}
			info, err := store.ParseInfo(claim.text)
			if err != nil {
				t.Fatal(err)
			}
			if m, err := keys.Check(info); err != nil || m.Path() != fetched.Path || !info.Deriver.IsZero() {
				t.Errorf("the claim %q yields %v, %v for a peer without keys, want a mapping", claim.text, m, err)
			}
		})
	}
}

func TestNARsHeldOpenAreBounded(t *testing.T) {
	s := trusttest.NewSigner(t)
	mem, infos := new(store.Mem), []store.Info{}
	for i := range 3 * maxOpenNARs {
		nar := p2ptest.Random(10 + i)
		info, _ := s.Sign(t, fmt.Sprintf("p%d", i), nar)
		mem.Add(info, nar)
		infos = append(infos, info)
	}
	src := &counted{Source: mem, t: t}
	sh := newSharer([]store.Source{src}, nil, trust.Policy{Keys: s.Keys})
	for _, info := range infos {
		if _, _, err := sh.readBlock(t.Context(), blockRequest(info, 0), make([]byte, store.BlockSize)); err != nil &&
			!strings.Contains(err.Error(), "bad day") {
			t.Fatal(err)
		}
		if open := src.open.Load(); open > maxOpenNARs {
			t.Fatalf("%d NARs are open, want at most %d", open, maxOpenNARs)
		}
	}
}

// A deadlined stream notes the last deadline that was set for writing.
type deadlined struct {
	network.Stream
	deadline time.Time
}

func (d *deadlined) Write(p []byte) (int, error) { return len(p), nil }

func (d *deadlined) SetWriteDeadline(t time.Time) error {
	d.deadline = t
	return nil
}

func TestAnswersHaveADeadline(t *testing.T) {
	d := &deadlined{}
	if _, err := (stallWriter{d, newTurns(1, 1, 1)}).Write([]byte("answer")); err != nil || d.deadline.IsZero() ||
		time.Until(d.deadline) > serveStall {
		t.Errorf("Write = %v with deadline %v, want one within %v", err, d.deadline, serveStall)
	}
	scarce := newTurns(maxServing, maxServing, maxServing)
	for range maxServing/2 + 1 {
		if _, err := scarce.take(t.Context(), Asker{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := (stallWriter{d, scarce}).Write([]byte("answer")); err != nil || time.Until(d.deadline) > scarceStall {
		t.Errorf("Write when turns are scarce = %v with deadline %v, want one within %v", err, d.deadline, scarceStall)
	}
}
