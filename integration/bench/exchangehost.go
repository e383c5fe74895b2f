package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	mrand "math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/sys/unix"

	"narbor/integration/barehost"
	"narbor/integration/corpus"
	"narbor/p2p"
	"narbor/p2p/discovery"
	"narbor/p2p/transport"
	"narbor/store"
	"narbor/store/bincache"
	"narbor/store/spool"
	"narbor/trust"
)

// exchangeRole is the first argument of bench when it runs as one of the two hosts of the exchange case.
const exchangeRole = "exchange-host"

const (
	claims     = 1000
	smallNARs  = 4000
	smallBytes = 20_000
	oneByOne   = 200 // of the small ones
	atATime    = 32
	nodePort   = 6273
	barePort   = 6300
	bareProto  = "/bench/bare"
	dialFor    = 20 * time.Second
)

// exchangeHost serves until it is killed, or fetches once and prints the measurements.
func exchangeHost(ctx context.Context, args []string) error {
	if len(args) == 1 {
		switch args[0] {
		case "serve-bare":
			return serveBare(ctx)
		case "serve-big":
			cache, err := bincache.Open("/srv/cache", "/var/lib/narbor")
			if err != nil {
				return err
			}
			return serveNode(ctx, cache)
		case "serve-small":
			return serveNode(ctx, smallSource())
		}
	}
	if len(args) != 3 {
		return fmt.Errorf("strange arguments %q", args)
	}
	var e exchanged
	var err error
	switch addr := args[1]; args[0] {
	case "fetch-bare":
		err = fetchBare(ctx, addr, &e)
	case "fetch-big":
		err = fetchBig(ctx, addr, store.Dir, args[2], &e)
	case "fetch-small":
		err = fetchSmall(ctx, addr, &e)
	default:
		err = fmt.Errorf("strange role %q", args[0])
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(e)
}

// spend calls f and records this process's resource usage during the call.
func (e *exchanged) spend(f func() (int64, error)) error {
	before, err := self()
	if err != nil {
		return err
	}
	start := time.Now()
	if e.Bytes, err = f(); err != nil {
		return err
	}
	e.Seconds = time.Since(start).Seconds()
	after, err := self()
	e.CPU = (time.Duration(after.Utime.Nano()+after.Stime.Nano()) - time.Duration(before.Utime.Nano()+before.Stime.Nano())).Seconds()
	if err == nil {
		e.Peak, err = peakRSS()
	}
	return err
}

// peakRSS returns the peak memory of this process in bytes. The one of getrusage is at least the parent's, from before exec.
func peakRSS() (int64, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, peak, _ := strings.Cut(string(text), "VmHWM:")
	var kib int64
	_, err = fmt.Sscanf(strings.TrimSpace(peak), "%d kB", &kib)
	return kib << 10, err
}

func self() (unix.Rusage, error) {
	var u unix.Rusage
	return u, unix.Getrusage(unix.RUSAGE_SELF, &u)
}

func newNode(share []store.Source, peers ...string) (*p2p.Node, error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, err
	}
	keys, err := trust.ParseKeys([]string{corpus.PublicKey()})
	if err != nil {
		return nil, err
	}
	spool, err := spool.Open(spool.Config{Dir: fmt.Sprintf("/var/lib/narbor/spool%d", os.Getpid()), MinFree: -1})
	if err != nil {
		return nil, err
	}
	cfg := p2p.Config{Host: transport.Config{Identity: key}, Trusted: keys,
		Sharing:   p2p.SharingConfig{Policy: trust.Policy{Keys: keys}, Sources: share},
		Spool:     spool,
		Version:   "bench",
		Discovery: discovery.Config{Peers: peers}}
	if len(peers) == 0 {
		cfg.Host.Port = nodePort
	}
	return p2p.New(cfg)
}

func serveNode(ctx context.Context, src store.Source) error {
	n, err := newNode([]store.Source{src})
	if err != nil {
		return err
	}
	return n.Run(ctx)
}

// withNode calls f with a node that is connected to addr.
func withNode(ctx context.Context, addr string, f func(context.Context, *p2p.Node) error) error {
	n, err := newNode(nil, addr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	for deadline := time.Now().Add(dialFor); len(n.Status().Neighbours) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			cancel()
			return errors.Join(errors.New("no neighbour"), <-done)
		}
	}
	err = f(ctx, n)
	cancel()
	if ended := <-done; !errors.Is(ended, context.Canceled) {
		err = errors.Join(err, ended)
	}
	return err
}

func fetchBig(ctx context.Context, addr, dir, top string, e *exchanged) error {
	path, err := store.ParsePathName(strings.TrimPrefix(top, dir+"/"))
	if err != nil {
		return err
	}
	return withNode(ctx, addr, func(ctx context.Context, n *p2p.Node) error {
		m, err := n.Lookup(ctx, path.HashPart())
		if err != nil {
			return err
		}
		return e.spend(func() (int64, error) {
			sp, err := n.Fetch(ctx, m)
			if err != nil {
				return 0, err
			}
			return sp.Size(), sp.Close()
		})
	})
}

// smallInfo makes up the i-th small path and its archive, the same on both hosts.
func smallInfo(i int) (store.Info, []byte) {
	id := sha256.Sum256(fmt.Appendf(nil, "small %d", i))
	path, err := store.ParsePathName(string(store.HashPartFromBytes([20]byte(id[:20]))) + fmt.Sprintf("-small-%d", i))
	if err != nil {
		panic(err) // the name is ours
	}
	contents := make([]byte, smallBytes)
	mrand.NewChaCha8(id).Read(contents)
	nar := fileNAR(contents)
	info := store.Info{Path: path, NarHash: sha256.Sum256(nar), NarSize: int64(len(nar))}
	return info, nar
}

// fileNAR is the NAR of a file with these contents.
func fileNAR(contents []byte) (nar []byte) {
	for _, s := range []string{"nix-archive-1", "(", "type", "regular", "contents", string(contents), ")"} {
		nar = binary.LittleEndian.AppendUint64(nar, uint64(len(s)))
		nar = append(nar, s...)
		nar = append(nar, make([]byte, -len(s)&7)...)
	}
	return nar
}

func smallSource() store.Source {
	mem := new(store.Mem)
	for i := range smallNARs {
		info, nar := smallInfo(i)
		info.Signatures = []string{corpus.Sign(info)}
		mem.Add(info, nar)
	}
	return mem
}

func fetchSmall(ctx context.Context, addr string, e *exchanged) error {
	var parts []store.HashPart
	for i := range smallNARs {
		info, _ := smallInfo(i)
		parts = append(parts, info.Path.HashPart())
	}
	return withNode(ctx, addr, func(ctx context.Context, n *p2p.Node) error {
		ms := make([]trust.Mapping, smallNARs)
		lookup := func(i int) (err error) {
			ms[i], err = n.Lookup(ctx, parts[i])
			return err
		}
		seconds, err := timed(func() error { return each(0, claims, claims, lookup) })
		if err != nil {
			return err
		}
		e.Claims = seconds * 1000
		if err := each(claims, smallNARs, atATime, lookup); err != nil {
			return err
		}
		fetch := func(i int) error {
			sp, err := n.Fetch(ctx, ms[i])
			if err != nil {
				return err
			}
			sp.Used()
			return sp.Close()
		}
		var first []float64
		for i := range oneByOne {
			seconds, err := timed(func() error { return fetch(i) })
			if err != nil {
				return err
			}
			first = append(first, seconds*1000)
		}
		e.First = median(first)
		seconds, err = timed(func() error { return each(oneByOne, smallNARs, atATime, fetch) })
		e.Rate = (smallNARs - oneByOne) / seconds
		return err
	})
}

// each calls f for all numbers from first on, and before end, several at a time.
func each(first, end, atATime int, f func(int) error) error {
	var wg sync.WaitGroup
	var next atomic.Int64
	next.Store(int64(first))
	errs := make([]error, atATime)
	for w := range atATime {
		wg.Go(func() {
			for errs[w] == nil {
				i := int(next.Add(1) - 1)
				if i >= end {
					return
				}
				errs[w] = f(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// bareIdentity is the identity of a bare host, which the other one knows.
func bareIdentity(seed byte) (crypto.PrivKey, peer.ID, error) {
	key, err := crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize)))
	if err != nil {
		return nil, "", err
	}
	id, err := peer.IDFromPrivateKey(key)
	return key, id, err
}

// serveBare writes to each stream until it is closed, with libp2p's default configuration.
func serveBare(ctx context.Context) error {
	key, _, err := bareIdentity('s')
	if err != nil {
		return err
	}
	h, err := barehost.New(barehost.Config{Identity: key}, fmt.Sprintf("/ip4/0.0.0.0/tcp/%d", barePort))
	if err != nil {
		return err
	}
	defer h.Close()
	h.SetStreamHandler(bareProto, func(s network.Stream) {
		defer s.Close()
		buf := make([]byte, 256<<10)
		for n := 0; n < bigBytes; n += len(buf) {
			if _, err := s.Write(buf); err != nil {
				return
			}
		}
	})
	<-ctx.Done()
	return nil
}

func fetchBare(ctx context.Context, addr string, e *exchanged) error {
	_, server, err := bareIdentity('s')
	if err != nil {
		return err
	}
	h, err := barehost.New(barehost.Config{})
	if err != nil {
		return err
	}
	defer h.Close()
	to, err := ma.NewMultiaddr(fmt.Sprintf("/ip4/%s/tcp/%d", addr, barePort))
	if err != nil {
		return err
	}
	h.Peerstore().AddAddr(server, to, time.Duration(math.MaxInt64))
	ctx, cancel := context.WithTimeout(ctx, dialFor*3)
	defer cancel()
	var s network.Stream
	for s == nil {
		if s, err = h.NewStream(network.WithForceDirectDial(ctx, "bench"), server, bareProto); err != nil {
			if ctx.Err() != nil {
				return err
			}
			s = nil
			time.Sleep(100 * time.Millisecond) // it may have just been started
		}
	}
	return e.spend(func() (int64, error) {
		return io.CopyBuffer(struct{ io.Writer }{io.Discard}, s, make([]byte, 256<<10))
	})
}
