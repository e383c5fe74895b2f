package p2p_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"

	"narbor/p2p"
	"narbor/p2p/p2ptest"
	"narbor/p2p/peers"
	"narbor/p2p/transport"
	"narbor/store"
	"narbor/store/spool"
	"narbor/store/storetest"
	"narbor/trust"
	"narbor/trust/trusttest"
)

// A signer signs paths, as cache.nixos.org does.
type signer struct {
	secret signature.SecretKey
	keys   *trust.Keys
}

func newUpstream(t testing.TB) signer {
	secret, keys := trusttest.NewKey(t, "upstream-1")
	return signer{secret, keys}
}

// sign makes a claim about a path with the NAR nar.
func (u signer) sign(t testing.TB, name string, nar []byte) store.Info {
	info := store.Info{Path: trusttest.PathNamed(t, name), NarHash: sha256.Sum256(nar), NarSize: int64(len(nar))}
	return trusttest.Sign(t, u.secret, info)
}

// noise returns a NAR that is the same for the same seed, of size bytes or the few more that it must have.
func noise(seed, size int) []byte {
	b := make([]byte, max(0, size-len(storetest.FileNAR(nil))))
	r := mrand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	io.ReadFull(r, b)
	return storetest.FileNAR(b)
}

// A machine is a node that runs, with what it shares.
type machine struct {
	*p2p.Node
	stop context.CancelFunc
	done chan struct{}
}

func (m *machine) id() string { return m.Status().ID }

// level keeps log lines out of the output of benchmarks.
func level(t testing.TB) zapcore.Level {
	if _, ok := t.(*testing.B); ok {
		return zap.ErrorLevel
	}
	return zap.DebugLevel
}

// newMachine starts a node that shares src, or nothing, and connects to those machines.
func (u signer) newMachine(t testing.TB, src store.Source, to ...*machine) *machine {
	t.Helper()
	return u.newMachineWith(t, spool.Config{}, src, to...)
}

func (u signer) newMachineWith(t testing.TB, sc spool.Config, src store.Source, to ...*machine) *machine {
	t.Helper()
	return u.newMachineAs(t, sc, src, func(*p2p.Config) {}, to...)
}

func (u signer) newMachineAs(t testing.TB, sc spool.Config, src store.Source, edit func(*p2p.Config), to ...*machine) *machine {
	t.Helper()
	sc.Dir, sc.MinFree = t.TempDir(), -1
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spool, err := spool.Open(sc)
	if err != nil {
		t.Fatal(err)
	}
	cfg := p2p.Config{Host: transport.Config{Identity: key, Log: zaptest.NewLogger(t, zaptest.Level(level(t)))}, Trusted: u.keys,
		Sharing: p2p.SharingConfig{Policy: trust.Policy{Keys: u.keys}},
		Spool:   spool,
		Version: "test"}
	cfg.Discovery.DenyInterfaces = p2ptest.AllInterfaces
	if src != nil {
		cfg.Sharing.Sources = []store.Source{src}
	}
	for _, other := range to {
		for _, addr := range other.Status().Addrs {
			if strings.HasPrefix(addr, "/ip4/127.0.0.1/") || strings.HasPrefix(addr, "/ip4/0.0.0.0/") {
				cfg.Discovery.Peers = append(cfg.Discovery.Peers, strings.Replace(addr, "0.0.0.0", "127.0.0.1", 1)+"/p2p/"+other.id())
			}
		}
	}
	edit(&cfg)
	node, err := p2p.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	m := &machine{Node: node, stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		if err := node.Run(ctx); err != nil && ctx.Err() == nil {
			t.Errorf("Run = %v", err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-m.done
		spool.Close()
	})
	if len(to) > 0 {
		<-node.Settled()
		p2p.Eventually(t, fmt.Sprintf("%d neighbours", len(to)), func() bool { // once both sides have said what they speak
			return len(node.Status().Neighbours) == len(to)
		})
	}
	return m
}

// fetch looks a path up and fetches it, and checks every byte.
func (m *machine) fetch(t *testing.T, info store.Info, want []byte) {
	t.Helper()
	m.fetchMapped(t, m.lookup(t, info), want)
}

// lookup looks a path up until it is found: a machine that also runs other tests may not answer in time, and for a
// while after that it is not waited for.
func (m *machine) lookup(t *testing.T, info store.Info) trust.Mapping {
	t.Helper()
	for deadline := time.Now().Add(p2p.AtMost(30 * time.Second)); ; time.Sleep(10 * time.Millisecond) {
		mapping, err := m.Lookup(t.Context(), info.Path.HashPart())
		if err == nil {
			return mapping
		}
		if time.Now().After(deadline) {
			t.Fatalf("Lookup(%s) = %v", info.Path, err)
		}
	}
}

// fetchMapped fetches a path, and checks every byte.
func (m *machine) fetchMapped(t *testing.T, mapping trust.Mapping, want []byte) {
	t.Helper()
	sp, err := m.FetchShared(t.Context(), mapping)
	if err != nil {
		t.Errorf("Fetch(%s) = %v", mapping.Path(), err)
		return
	}
	defer sp.Close()
	got, err := io.ReadAll(io.NewSectionReader(sp, 0, sp.Size()))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("Fetch(%s) gave %d bytes, %v; want the %d of the NAR", mapping.Path(), len(got), err, len(want))
	}
}

func memWith(infos []store.Info, nars [][]byte) *store.Mem {
	mem := new(store.Mem)
	for i, info := range infos {
		mem.Add(info, nars[i])
	}
	return mem
}

func TestFetchesWhatANeighbourShares(t *testing.T) {
	u := newUpstream(t)
	var infos []store.Info
	var nars [][]byte
	for i, size := range []int{1, 100, store.BlockSize - 1, store.BlockSize, store.BlockSize + 1, 9*store.BlockSize + 77} {
		nars = append(nars, noise(i, size))
		infos = append(infos, u.sign(t, fmt.Sprintf("p%d", i), nars[i]))
	}
	a := u.newMachine(t, memWith(infos, nars))
	b := u.newMachine(t, nil, a)
	for i := range infos {
		b.fetch(t, infos[i], nars[i])
	}
	absent := u.sign(t, "absent", []byte("x"))
	if _, err := b.Lookup(t.Context(), absent.Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Lookup(absent) = %v, want ErrNotFound", err)
	}
}

func TestSharesOnlyWhatAnUpstreamSigned(t *testing.T) {
	u, stranger := newUpstream(t), newUpstream(t)
	nar := []byte("private")
	unsigned := u.sign(t, "unsigned", nar)
	unsigned.Signatures = nil
	own := stranger.sign(t, "own", nar)
	swapped := u.sign(t, "swapped", nar)
	swapped.Signatures = u.sign(t, "other", nar).Signatures
	secret := []store.Info{unsigned, own, swapped}
	a := u.newMachine(t, memWith(secret, [][]byte{nar, nar, nar}))

	// This one would believe everything that a signs; so a refusal is one by a.
	gullible := signer{u.secret, stranger.keys}
	b := gullible.newMachine(t, nil, a)
	for _, info := range secret {
		if m, err := b.Lookup(t.Context(), info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Lookup(%s) = %v, %v, want ErrNotFound", info.Path, m, err)
		}
		m, err := stranger.keys.Check(stranger.sign(t, info.Path.Name(), nar))
		if err != nil {
			t.Fatal(err)
		}
		if sp, err := b.Fetch(t.Context(), m); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Fetch(%s) = %v, %v, want ErrNotFound", info.Path, sp, err)
		}
	}
}

// A liar has the right claims and serves other bytes.
type liar struct {
	store.Source
	flip func(off int64, p []byte) // changes what was read at off
}

type lyingNAR struct {
	store.NAR
	flip func(off int64, p []byte)
}

func (l liar) NAR(ctx context.Context, info store.Info) (store.NAR, error) {
	nar, err := l.Source.NAR(ctx, info)
	return lyingNAR{nar, l.flip}, err
}

func (l lyingNAR) ReadAt(p []byte, off int64) (int, error) {
	n, err := l.NAR.ReadAt(p, off)
	l.flip(off, p[:n])
	return n, err
}

func flipAll(_ int64, p []byte) { p[len(p)/2] ^= 1 }

func TestSendersOfWrongBlocksAreFoundAndHonestOnesAreNot(t *testing.T) {
	for _, size := range []int{1000, 12*store.BlockSize + 5} {
		for _, liars := range []int{1, 2, 3} {
			t.Run(fmt.Sprintf("%d liars, %d bytes", liars, size), func(t *testing.T) {
				u := newUpstream(t)
				nar := noise(1, size)
				info := u.sign(t, "big", nar)
				mem := memWith([]store.Info{info}, [][]byte{nar})
				machines := []*machine{u.newMachine(t, mem)}
				for range liars {
					machines = append(machines, u.newMachine(t, liar{mem, flipAll}))
				}
				b := u.newMachine(t, nil, machines...)
				b.fetch(t, info, nar)
				for _, nb := range b.Status().Neighbours {
					if nb.Strikes > 0 {
						t.Errorf("%d strikes for wrong blocks, which a damaged store sends, too", nb.Strikes)
					}
					if nb.ID == machines[0].id() && nb.WrongNARs > 0 {
						t.Errorf("the honest one has sent %d wrong NARs", nb.WrongNARs)
					}
					if nb.ID != machines[0].id() && nb.BytesReceived > nb.BytesWasted && nb.WrongNARs == 0 {
						t.Errorf("a liar sent %d blocks and no wrong NAR", nb.BlocksReceived)
					}
				}
			})
		}
	}
}

func TestFetchWithoutHonestHolderFails(t *testing.T) {
	u := newUpstream(t)
	nar := noise(1, 5*store.BlockSize)
	info := u.sign(t, "big", nar)
	mem := memWith([]store.Info{info}, [][]byte{nar})
	l1, l2 := u.newMachine(t, liar{mem, flipAll}), u.newMachine(t, liar{mem, flipAll})
	b := u.newMachine(t, nil, l1, l2)
	m := b.lookup(t, info)
	if sp, err := b.Fetch(t.Context(), m); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Fetch = %v, %v, want ErrNotFound", sp, err)
	}
}

func TestOneWrongBlockIsTracedToItsSender(t *testing.T) {
	nar := noise(1, 40*store.BlockSize)
	for name, nar := range map[string][]byte{"good": nar, "malformed": append(nar[:len(nar):len(nar)], 0)} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			info := u.sign(t, "big", nar)
			mem := memWith([]store.Info{info}, [][]byte{nar})
			lied := make(chan struct{})
			honest := u.newMachine(t, gate{mem, lied}) // the sly one has its turn first
			var reads atomic.Int64
			sly := u.newMachine(t, liar{mem, func(off int64, p []byte) { // lies once, and its manifest is true
				if reads.Add(1) == 2 {
					p[0] ^= 1
				}
			}})
			b := u.newMachine(t, nil, honest, sly)
			go func() {
				defer close(lied)
				for limit := time.Now().Add(p2p.AtMost(time.Minute)); b.blocksFrom(sly) < 3 &&
					t.Context().Err() == nil && time.Now().Before(limit); {
					time.Sleep(time.Millisecond) // the second has been taken by then
				}
			}()
			if name == "good" {
				b.fetch(t, info, nar)
			} else {
				b.wantMalformed(t, info)
			}
			for _, nb := range b.Status().Neighbours {
				if want := nb.ID == sly.id(); (nb.WrongNARs > 0) != want || nb.Strikes > 0 {
					t.Errorf("%s (sly: %v) has sent %d wrong NARs, and has %d strikes", nb.ID, want, nb.WrongNARs, nb.Strikes)
				}
			}
		})
	}
}

// blocksFrom returns the number of blocks that a machine has received from another.
func (m *machine) blocksFrom(other *machine) int64 {
	for _, nb := range m.Status().Neighbours {
		if nb.ID == other.id() {
			return nb.BlocksReceived
		}
	}
	return 0
}

// wantMalformed checks that a path is found and fetched, and that its NAR is refused.
func (m *machine) wantMalformed(t *testing.T, info store.Info) {
	t.Helper()
	mapping := m.lookup(t, info)
	if sp, err := m.Fetch(t.Context(), mapping); !errors.Is(err, store.ErrMalformed) || errors.Is(err, store.ErrCorrupt) {
		t.Fatalf("Fetch = %v, %v, want ErrMalformed", sp, err)
	}
}

// The signer of a malformed NAR is to blame, and not its holder. It is not passed on.
func TestMalformedNARIsNoPeersLie(t *testing.T) {
	for _, size := range []int{1000, 3 * store.BlockSize} {
		u := newUpstream(t)
		nar := append(noise(1, size), "more"...)
		info := u.sign(t, "evil", nar)
		mem := memWith([]store.Info{info}, [][]byte{nar})
		b := u.newMachine(t, nil, u.newMachine(t, mem), u.newMachine(t, mem))
		for range 2 {
			b.wantMalformed(t, info)
		}
		for _, nb := range b.Status().Neighbours {
			if nb.Strikes != 0 || nb.WrongNARs != 0 {
				t.Errorf("%s has %d strikes and %d wrong NARs, want none", nb.ID, nb.Strikes, nb.WrongNARs)
			}
		}
		c := u.newMachine(t, nil, b)
		if m, err := c.Lookup(t.Context(), info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Lookup at the node that has fetched it = %v, %v, want ErrNotFound", m, err)
		}
	}
}

// A gate holds up reads until it is opened.
type gate struct {
	store.Source
	open chan struct{}
}

type gatedNAR struct {
	store.NAR
	open chan struct{}
}

func (g gate) NAR(ctx context.Context, info store.Info) (store.NAR, error) {
	nar, err := g.Source.NAR(ctx, info)
	return gatedNAR{nar, g.open}, err
}

func (g gatedNAR) ReadAt(p []byte, off int64) (int, error) {
	<-g.open
	return g.NAR.ReadAt(p, off)
}

func TestSilentNeighbourIsOvertaken(t *testing.T) {
	u := newUpstream(t)
	nar := noise(1, 20*store.BlockSize)
	info := u.sign(t, "big", nar)
	mem := memWith([]store.Info{info}, [][]byte{nar})
	open := make(chan struct{})
	silent, honest := u.newMachine(t, gate{mem, open}), u.newMachine(t, mem)
	t.Cleanup(func() { close(open) })
	b := u.newMachine(t, nil, silent, honest)
	b.fetch(t, info, nar) // before the gate opens
}

func TestNeighbourThatDiesIsReplaced(t *testing.T) {
	u := newUpstream(t)
	nar := noise(1, 64*store.BlockSize)
	info := u.sign(t, "big", nar)
	mem := memWith([]store.Info{info}, [][]byte{nar})
	var dying *machine
	var reads atomic.Int64
	dying = u.newMachine(t, liar{mem, func(int64, []byte) {
		if reads.Add(1) == 3 {
			dying.stop()
		}
	}})
	honest := u.newMachine(t, mem)
	b := u.newMachine(t, nil, dying, honest)
	b.fetch(t, info, nar)
}

func TestForgedClaimsAreNotBelieved(t *testing.T) {
	u := newUpstream(t)
	nar := []byte("content")
	forged := u.sign(t, "forged", nar)
	forged.NarHash = sha256.Sum256([]byte("evil"))
	other := newUpstream(t) // the forger shares by its own rules: here, a key of the same name
	resigned := other.sign(t, "resigned", nar)
	mem := memWith([]store.Info{forged, resigned}, [][]byte{[]byte("evil"), nar})
	a := other.newMachine(t, mem)
	b := u.newMachine(t, nil, a)
	for _, info := range []store.Info{forged, resigned} {
		if m, err := b.Lookup(t.Context(), info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Lookup(%s) = %v, %v, want ErrNotFound", info.Path, m, err)
		}
	}
	st := b.Status()
	if got := st.Neighbours[0].Strikes; got != 0 {
		t.Errorf("a key of the same name costs its owner %d strikes, want 0", got)
	}
	want := []peers.KeyMismatch{{Key: "upstream-1", Neighbours: []string{a.id()}, Path: resigned.Path.String()}}
	if !reflect.DeepEqual(st.OtherKeys, want) {
		t.Errorf("OtherKeys = %+v, want %+v", st.OtherKeys, want)
	}
	if err := u.keys.Replace([]string{other.secret.ToPublicKey().String()}); err != nil {
		t.Fatal(err)
	}
	if got := b.Status().OtherKeys; len(got) != 0 {
		t.Errorf("OtherKeys with the neighbour's key = %+v, want none", got)
	}
}

func TestWhatWasFetchedIsPassedOn(t *testing.T) {
	u := newUpstream(t)
	nar := noise(1, 3*store.BlockSize)
	info := u.sign(t, "big", nar)
	a := u.newMachine(t, memWith([]store.Info{info}, [][]byte{nar}))
	b := u.newMachine(t, new(store.Mem), a) // shares, and has nothing yet
	mute := u.newMachine(t, nil, a)         // shares nothing, by its configuration
	b.fetch(t, info, nar)
	mute.fetch(t, info, nar)
	if _, err := u.newMachine(t, nil, mute).Lookup(t.Context(), info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Lookup at a node that shares nothing = %v, want ErrNotFound", err)
	}
	c := u.newMachine(t, nil, b)
	c.fetch(t, info, nar)
}

func TestWhatIsPassedOnMakesRoom(t *testing.T) {
	u := newUpstream(t)
	var infos []store.Info
	nars := [][]byte{noise(1, 3<<20), noise(2, 3<<20)}
	for i, nar := range nars {
		infos = append(infos, u.sign(t, fmt.Sprintf("p%d", i), nar))
	}
	a := u.newMachine(t, memWith(infos, nars))
	b := u.newMachineWith(t, spool.Config{MaxBytes: 4 << 20}, new(store.Mem), a) // room for one
	b.fetch(t, infos[0], nars[0])
	u.newMachine(t, nil, b).fetch(t, infos[0], nars[0]) // b keeps it open for a while
	b.fetch(t, infos[1], nars[1])
}

// TestSwarmFeedsItself has six machines want the same NARs at the same moment, which one has.
func TestSwarmFeedsItself(t *testing.T) {
	u := newUpstream(t)
	var infos []store.Info
	var nars [][]byte
	blocks := int64(0)
	for i, size := range []int{1000, 24 * store.BlockSize, 5*store.BlockSize + 7, 300, 8 * store.BlockSize} {
		nars = append(nars, noise(i, size))
		infos = append(infos, u.sign(t, fmt.Sprint("nar", i), nars[i]))
		blocks += int64(store.NumBlocks(int64(size)))
	}
	holder := u.newMachineAs(t, spool.Config{}, memWith(infos, nars), func(cfg *p2p.Config) { cfg.Sharing.UploadRate = 10 << 20 })
	all := []*machine{holder}
	const crowd = 6
	for range crowd {
		all = append(all, u.newMachine(t, new(store.Mem), all...))
	}
	var wg sync.WaitGroup
	for _, m := range all[1:] {
		wg.Go(func() {
			for i, info := range infos {
				m.fetch(t, info, nars[i])
			}
		})
	}
	wg.Wait()
	sent, relayed := int64(0), int64(0)
	for _, m := range all {
		for _, nb := range m.Status().Neighbours {
			if m == holder {
				sent += nb.BlocksSent
			}
			relayed += nb.BlocksRelayed
		}
	}
	t.Logf("the holder sent %d blocks of %d, %d were relayed", sent, blocks, relayed)
	if sent > crowd*blocks/2 {
		t.Errorf("the holder sent %d blocks, want about the %d that there are, not %d times as many", sent, blocks, crowd)
	}
}

func TestManyAtOnce(t *testing.T) {
	u := newUpstream(t)
	const count = 200
	var infos []store.Info
	var nars [][]byte
	for i := range count {
		nars = append(nars, noise(i, 1+i*i*17))
		infos = append(infos, u.sign(t, fmt.Sprintf("p%d", i), nars[i]))
	}
	mem := memWith(infos, nars)
	b := u.newMachine(t, nil, u.newMachine(t, mem), u.newMachine(t, mem))
	start := time.Now()
	t.Run("group", func(t *testing.T) {
		for i := range infos {
			t.Run(infos[i].Path.Name(), func(t *testing.T) {
				t.Parallel()
				b.fetch(t, infos[i], nars[i])
			})
		}
	})
	t.Logf("%d paths in %v", count, time.Since(start))
}

// A node that has turned sharing off does not pass on NARs in its spool, either; it does again once sharing is back on.
func TestSpoolIsSharedNoMore(t *testing.T) {
	u := newUpstream(t)
	nar := noise(1, 3*store.BlockSize)
	info := u.sign(t, "big", nar)
	a := u.newMachine(t, memWith([]store.Info{info}, [][]byte{nar}))
	b := u.newMachine(t, new(store.Mem), a)
	b.fetch(t, info, nar)
	c := u.newMachine(t, nil, b)
	m := c.lookup(t, info)
	b.Share(false)
	if _, err := c.Lookup(t.Context(), info.Path.HashPart()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Lookup = %v, want ErrNotFound", err)
	}
	if _, err := c.Fetch(t.Context(), m); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Fetch = %v, want ErrNotFound", err)
	}
	b.Share(true)
	u.newMachine(t, nil, b).fetch(t, info, nar) // c avoids b for this NAR, which it has not delivered
}
