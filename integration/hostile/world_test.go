package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/nix-community/go-nix/pkg/nixbase32"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"narbor/integration/barehost"
	"narbor/narserve"
	"narbor/p2p"
	"narbor/p2p/discovery"
	"narbor/p2p/transport"
	"narbor/store"
	"narbor/store/spool"
	"narbor/store/storetest"
	"narbor/trust"
)

const (
	simHonest = 4 // honest neighbours
	simPaths  = 5 // paths that all neighbours have
	honestLag = 2 * time.Millisecond
	liarLag   = 200 * time.Microsecond // the liar answers first
	simRate   = 100 << 20
)

// A simWorld is a LAN with alice, honest neighbours, and a liar. Nix runs on alice.
type simWorld struct {
	t      testing.TB
	rng    *rand.Rand
	lan    *simNet
	secret ed25519.PrivateKey
	keys   *trust.Keys
	paths  []simPath
	shared *store.Mem // the paths that all neighbours have

	liarsOwn *store.Mem // the paths that only the liars have

	alice  *simNode
	server *narserve.Server
	honest []*simNode
	liar   *machine
	mallet *simMachine     // the liar's machine
	lying  map[string]bool // the peer IDs of the liars
	said   bytes.Buffer

	answers *tallied
	ended   []func()
}

// A tallied counts schedules, and the narinfos and NARs that Nix got in them.
type tallied struct{ schedules, narinfos, nars atomic.Int64 }

type simPath struct {
	info store.Info
	nar  []byte
}

// A simNode is narbor on a machine.
type simNode struct {
	*p2p.Node
	id      peer.ID
	machine *simMachine
	spool   *spool.Spool
	log     *observer.ObservedLogs
}

// emptyWorld has a key and no machines.
func emptyWorld(t testing.TB, seed uint64) *simWorld {
	w := &simWorld{t: t, lying: map[string]bool{}, answers: new(tallied), rng: rand.New(rand.NewPCG(seed, 1)), lan: newSimNet()}
	w.secret = ed25519.NewKeyFromSeed(w.random(ed25519.SeedSize))
	w.keys = new(trust.Keys)
	public := w.secret.Public().(ed25519.PublicKey)
	if err := w.keys.Replace([]string{"upstream-1:" + base64.StdEncoding.EncodeToString(public)}); err != nil {
		t.Fatal(err)
	}
	return w
}

// newWorld makes the machines, without announcements. The first path's NAR has the given number of blocks, the others
// one.
func newWorld(t testing.TB, seed uint64, blocks int) *simWorld {
	w := emptyWorld(t, seed)
	shared := new(store.Mem)
	for i := range simPaths {
		p := w.path(fmt.Sprintf("p%d", i), []int{blocks, 1}[min(i, 1)])
		w.paths = append(w.paths, p)
		shared.Add(p.info, p.nar)
	}
	w.alice = w.node(1)
	for i := range simHonest {
		w.honest = append(w.honest, w.node(2+i, shared))
	}
	w.shared, w.liarsOwn = shared, new(store.Mem)
	w.mallet, w.liar = w.addLiar("10.0.0.66")
	w.serve()
	return w
}

// addLiar adds a liar to the LAN that has the same paths as the honest neighbours.
func (w *simWorld) addLiar(addr string) (*simMachine, *machine) {
	m := w.lan.add(addr, liarLag, simRate)
	liar := machineAt(w.host(m), options{}, simLibrary{w}, &w.said)
	w.lying[liar.host.ID().String()] = true
	return m, liar
}

func (w *simWorld) random(n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], w.rng.Uint64())
		copy(b[i:], word[:])
	}
	return b
}

// path returns a new signed path. Its NAR has the given number of blocks, of which the last is short.
func (w *simWorld) path(name string, blocks int) simPath {
	part := sha256.Sum256([]byte(name))
	path, err := store.ParsePathName(nixbase32.EncodeToString(part[:20]) + "-" + name)
	if err != nil {
		w.t.Fatal(err)
	}
	nar := storetest.FileNAR(w.random((blocks-1)*store.BlockSize + 1000 + w.rng.IntN(100)))
	info := store.Info{Path: path, NarHash: sha256.Sum256(nar), NarSize: int64(len(nar))}
	info.Signatures = []string{w.sign(info)}
	return simPath{info, nar}
}

func (w *simWorld) sign(info store.Info) string {
	text := fmt.Sprintf("1;%s;%s;%d;", info.Path, info.NarHash, info.NarSize)
	return "upstream-1:" + base64.StdEncoding.EncodeToString(ed25519.Sign(w.secret, []byte(text)))
}

func (w *simWorld) identity() crypto.PrivKey {
	key, err := crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(w.random(ed25519.SeedSize)))
	if err != nil {
		w.t.Fatal(err)
	}
	return key
}

// node starts narbor on a machine of its own.
func (w *simWorld) node(number int, share ...store.Source) *simNode {
	core, log := observer.New(zapcore.DebugLevel)
	spool, err := spool.Open(spool.Config{Dir: w.t.TempDir(), MinFree: -1})
	if err != nil {
		w.t.Fatal(err)
	}
	n := &simNode{machine: w.lan.add(fmt.Sprintf("10.0.0.%d", number), honestLag, simRate), spool: spool, log: log}
	if n.Node, err = p2p.New(p2p.Config{Host: transport.Config{Identity: w.identity(), Log: zap.New(core)},
		Discovery: discovery.Config{MDNS: true, Net: n.machine.config()},
		Sharing:   p2p.SharingConfig{Sources: share, Policy: trust.Policy{Keys: w.keys}},
		Trusted:   w.keys,
		Spool:     spool}); err != nil {
		w.t.Fatal(err)
	}
	if n.id, err = peer.Decode(n.Status().ID); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.Run(ctx); err != nil {
			w.t.Errorf("Run of 10.0.0.%d = %v", number, err)
		}
	})
	w.ended = append(w.ended, func() {
		cancel()
		running.Wait()
		spool.Close()
	})
	return n
}

// host starts a libp2p host without resource limits on a machine.
func (w *simWorld) host(m *simMachine) host.Host {
	h, err := barehost.New(barehost.Config{Identity: w.identity(), Transport: m.transport})
	if err == nil {
		err = h.Network().Listen(tcpMultiaddr(m.at()))
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.ended = append(w.ended, func() { h.Close() })
	return h
}

// serve replaces the HTTP server for Nix by a new one with empty caches, as after a restart.
func (w *simWorld) serve() {
	w.server = narserve.New(narserve.Config{Sources: []narserve.Source{w.alice}, Keys: w.keys, Settled: w.alice.Settled()})
}

// meet announces the honest neighbours and alice to each other, and the liar before the honest neighbour number liarAt.
func (w *simWorld) meet(liarAt int) {
	for i, n := range w.honest {
		if i == liarAt {
			w.find(w.mallet, w.liar.host.ID())
		}
		w.find(n.machine, n.id)
	}
	if liarAt == len(w.honest) {
		w.find(w.mallet, w.liar.host.ID())
	}
	<-w.alice.Settled()
}

// find announces a machine to alice, and alice to the machine.
func (w *simWorld) find(m *simMachine, id peer.ID) {
	w.alice.machine.found <- m.entry(id)
	m.found <- w.alice.machine.entry(w.alice.id)
}

// commit makes the liar answer, and commit a fault, from now on.
func (w *simWorld) commit(f fault) { w.answer(w.liar, f) }

func (w *simWorld) answer(liar *machine, faults ...fault) {
	liar.faults = faults
	ctx, cancel := context.WithCancel(w.t.Context())
	var running sync.WaitGroup
	liar.host.SetStreamHandler(protocolID, func(s network.Stream) {
		running.Add(1)
		defer running.Done()
		defer s.Reset()
		liar.serve(ctx, s)
	})
	w.ended = append(w.ended, func() {
		cancel()
		running.Wait()
	})
}

// get sends a request to the server as Nix does. header is its Range header; "" sends none.
func (w *simWorld) get(ctx context.Context, path, header string) *httptest.ResponseRecorder {
	ctx = context.WithValue(ctx, http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 6272})
	r := httptest.NewRequestWithContext(ctx, "GET", path, nil)
	r.Host = "127.0.0.1:6272"
	if header != "" {
		r.Header.Set("Range", header)
	}
	rec := httptest.NewRecorder()
	w.server.ServeHTTP(rec, r)
	return rec
}

func (p simPath) narinfo() string { return "/" + string(p.info.Path.HashPart()) + ".narinfo" }
func (p simPath) url() string {
	return "/nar/" + string(p.info.Path.HashPart()) + "-" + p.info.NarHash.Base32() + ".nar"
}

// wantNarinfo asks for a narinfo. It fails if the answer is wrong or late, and on 404 unless maybe is true.
func (w *simWorld) wantNarinfo(p simPath, maybe bool) {
	w.t.Helper()
	began := time.Now()
	rec := w.get(w.t.Context(), p.narinfo(), "")
	if d := time.Since(began); d > 300*time.Millisecond {
		w.t.Errorf("GET %s is answered after %v", p.narinfo(), d)
	}
	want := fmt.Sprintf("StorePath: %s\nNarHash: %s\nNarSize: %d\n", p.info.Path, p.info.NarHash, p.info.NarSize)
	if rec.Code == http.StatusNotFound && maybe {
		return
	}
	w.answers.narinfos.Add(1)
	got := rec.Body.String()
	if rec.Code != http.StatusOK || !strings.Contains(got, fmt.Sprintf("StorePath: %s\n", p.info.Path)) ||
		!strings.Contains(got, fmt.Sprintf("NarHash: %s\n", p.info.NarHash)) ||
		!strings.Contains(got, fmt.Sprintf("NarSize: %d\n", p.info.NarSize)) {
		w.t.Errorf("GET %s = %d with %.300q, want %q", p.narinfo(), rec.Code, got, want)
	}
}

// wantNAR asks for a NAR, or with from > 0 for its bytes from that offset on. It fails if the answer is wrong or late,
// and on 404 unless maybe is true.
func (w *simWorld) wantNAR(p simPath, from int, maybe bool) {
	w.t.Helper()
	status, header := http.StatusOK, ""
	if from > 0 {
		status, header = http.StatusPartialContent, fmt.Sprintf("bytes=%d-", from)
	}
	began := time.Now()
	rec := w.get(w.t.Context(), p.url(), header)
	if d := time.Since(began); d > 240*time.Second {
		w.t.Errorf("GET %s is answered after %v", p.url(), d)
	}
	if rec.Code == http.StatusNotFound && maybe {
		return
	}
	w.answers.nars.Add(1)
	got, _ := io.ReadAll(rec.Body)
	if rec.Code != status || !bytes.Equal(got, p.nar[from:]) {
		w.t.Errorf("GET %s = %d with %d bytes, right: %t; want %d with the %d right ones",
			p.url(), rec.Code, len(got), bytes.Equal(got, p.nar[from:]), status, len(p.nar)-from)
	}
}

// strikes returns the node's number of strikes by peer ID.
func (n *simNode) strikes() map[string]int {
	by := map[string]int{}
	for _, e := range n.log.FilterMessage("neighbour broke the protocol").All() {
		by[e.ContextMap()["peer"].(string)]++
	}
	return by
}

// An offence is the way in which narbor records a fault.
type offence string

const (
	noOffence offence = "neither"
	aWrongNAR offence = "a wrong NAR" // as a damaged store sends it
	aLie      offence = "a strike"    // never for an honest machine
)

// wrongNARs returns the number of paths, by peer ID, of which the peer has sent this node a wrong NAR.
func (n *simNode) wrongNARs() map[string]int {
	by := map[string]int{}
	for _, e := range n.log.FilterMessage("neighbour sent a wrong NAR").All() {
		by[e.ContextMap()["peer"].(string)]++
	}
	return by
}

// end fails unless alice has recorded the given offence of the liar, and calls endWhole.
func (w *simWorld) end(of offence) {
	w.t.Helper()
	liar := w.liar.host.ID().String()
	struck, wrong := w.alice.strikes(), w.alice.wrongNARs()
	if (struck[liar] > 0) != (of == aLie) || of == aWrongNAR && wrong[liar] == 0 || of == noOffence && wrong[liar] > 0 {
		w.t.Errorf("the liar is struck %d times, and has sent %d wrong NARs; want %s", struck[liar], wrong[liar], of)
	}
	w.endWhole()
}

// endWhole fails if an honest peer has an offence, and stops all machines. The synctest bubble reports goroutines that
// do not end.
func (w *simWorld) endWhole() {
	w.t.Helper()
	for _, n := range append(w.honest, w.alice) {
		for id, times := range n.strikes() {
			if !w.lying[id] {
				w.t.Errorf("%s has struck the honest peer %s %d times", n.machine.addr, id, times)
			}
		}
		for id, times := range n.wrongNARs() {
			if !w.lying[id] {
				w.t.Errorf("%s has found %d wrong NARs of the honest peer %s", n.machine.addr, times, id)
			}
		}
	}
	w.wantSpoolFree()
	if w.t.Failed() {
		w.report()
	}
	w.wantDialsOnLink()
	for _, end := range w.ended {
		end()
	}
	w.lan.raws.Wait()
	synctest.Wait()
	for _, n := range append(w.honest, w.alice) {
		st, ok := n.machine.limits.(rcmgr.ResourceManagerState)
		if s := st.Stat().System; !ok || s != (network.ScopeStat{}) {
			w.t.Errorf("libp2p of %s still holds %+v", n.machine.addr, s)
		}
	}
}

// wantSpoolFree fails unless all of the spool's space becomes free within 250 s. Downloads that Nix has given up may go
// on for a while, but not for longer.
func (w *simWorld) wantSpoolFree() {
	var err error
	for range 250 {
		var d *spool.Draft
		if d, err = w.alice.spool.Create(store.Hash{1}, w.alice.spool.Stats().MaxBytes); err == nil {
			d.Discard()
			return
		}
		time.Sleep(time.Second)
	}
	w.t.Errorf("the spool is not free: %v", err)
}

// wantDialsOnLink fails if alice has dialled an address that is off-link or her own, or a port below 1024.
func (w *simWorld) wantDialsOnLink() {
	w.lan.mu.Lock()
	defer w.lan.mu.Unlock()
	for _, to := range w.lan.dials[w.alice.machine.addr] {
		if !netip.MustParsePrefix("10.0.0.0/24").Contains(to.Addr()) || to.Addr() == w.alice.machine.addr || to.Port() < 1024 {
			w.t.Errorf("alice has dialled %s", to)
		}
	}
}

// report logs alice's log entries and the number of the liar's offences.
func (w *simWorld) report() {
	for _, e := range w.alice.log.All() {
		w.t.Log(e.Time.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)), e.Message, e.ContextMap())
	}
	w.t.Log("the liar is", w.liar.host.ID(), "and has committed", strings.Count(w.said.String(), "offence"))
}
