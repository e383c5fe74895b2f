// Package barehost makes libp2p hosts without narbor's limits and rules, for the hostile neighbour and the benchmark.
//
// libp2p.New would make the same hosts, but it links QUIC, WebTransport and WebRTC with all their known
// vulnerabilities, and adds their modules to go.mod.
package barehost

import (
	"crypto/rand"
	"errors"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/core/transport"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
)

// A Config has the settings of a host.
type Config struct {
	Identity  crypto.PrivKey // nil makes a new one
	UserAgent string
	// Transport makes the only transport; nil is TCP.
	Transport func(transport.Upgrader, network.ResourceManager) (transport.Transport, error)
}

// New makes a host that listens on these multiaddrs; without any, it does not listen. The caller closes it.
func New(cfg Config, listen ...string) (host.Host, error) {
	sw, bus, err := newSwarm(cfg)
	if err != nil {
		return nil, err
	}
	h, err := basichost.NewHost(sw, &basichost.HostOpts{EventBus: bus, UserAgent: cfg.UserAgent, EnablePing: true})
	if err != nil {
		return nil, errors.Join(err, sw.Close())
	}
	h.Start()
	for _, text := range listen {
		addr, err := ma.NewMultiaddr(text)
		if err == nil {
			err = sw.Listen(addr)
		}
		if err != nil {
			return nil, errors.Join(err, h.Close())
		}
	}
	return h, nil
}

// newSwarm makes the host's network, with libp2p's TLS, Noise and yamux.
func newSwarm(cfg Config) (*swarm.Swarm, event.Bus, error) {
	key, err := cfg.Identity, error(nil)
	if key == nil {
		if key, _, err = crypto.GenerateEd25519Key(rand.Reader); err != nil {
			return nil, nil, err
		}
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	peers, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, nil, err
	}
	if err := errors.Join(peers.AddPrivKey(id, key), peers.AddPubKey(id, key.GetPublic())); err != nil {
		return nil, nil, err
	}
	muxers := []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: yamux.DefaultTransport}}
	tls, err := libp2ptls.New(libp2ptls.ID, key, muxers)
	if err != nil {
		return nil, nil, err
	}
	noisy, err := noise.New(noise.ID, key, muxers)
	if err != nil {
		return nil, nil, err
	}
	limits := &network.NullResourceManager{}
	up, err := upgrader.New([]sec.SecureTransport{tls, noisy}, muxers, nil, limits, nil)
	if err != nil {
		return nil, nil, err
	}
	dial := cfg.Transport
	if dial == nil {
		dial = func(up transport.Upgrader, limits network.ResourceManager) (transport.Transport, error) {
			return tcp.NewTCPTransport(up, limits, nil)
		}
	}
	t, err := dial(up, limits)
	if err != nil {
		return nil, nil, err
	}
	bus := eventbus.NewBus()
	sw, err := swarm.NewSwarm(id, peers, bus, swarm.WithResourceManager(limits))
	if err != nil {
		return nil, nil, err
	}
	return sw, bus, sw.AddTransport(t)
}
