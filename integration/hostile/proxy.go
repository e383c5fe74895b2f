package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// proxyFaults are committed by a peer that advertises --upstream and shares no path of its own. The other peers assign
// downloads to it as to any proxy.
func proxyFaults() []fault {
	return []fault{
		{name: "idle-proxy", says: "it reports a fast download of each path, and sends no block of it", connect: advertise,
			proxy: func(ctx context.Context, _ *machine, _ request) ([]byte, error) {
				sleep(ctx, 250*time.Millisecond)
				return []byte{statusLater}, nil
			}},
		{name: "slow-proxy", says: "the same, but it sends each block after nine seconds", connect: advertise,
			proxy: func(ctx context.Context, m *machine, r request) ([]byte, error) {
				a, err := m.archive(ctx, r.parts[0])
				if err != nil {
					return nil, err
				}
				b, err := a.read(r.block)
				sleep(ctx, 9*time.Second)
				return blockAnswer(statusRelayed, b), err
			}},
	}
}

// advertise makes the machine support the protocol ID of peers with this upstream.
func advertise(m *machine) {
	sum := sha256.Sum256([]byte(m.upstream))
	m.host.SetStreamHandler(protocol.ID("/narbor/upstream/1/"+hex.EncodeToString(sum[:8])), func(s network.Stream) { s.Reset() })
}

// serveAsProxy answers the requests of a peer that uses this machine as a proxy.
func (m *machine) serveAsProxy(ctx context.Context, s network.Stream, f fault, r request) error {
	out := []byte{0} // no claims, "cannot tell", nothing yet
	var err error
	switch r.kind {
	case kindClaims:
		out = make([]byte, len(r.parts)+1)
	case kindFetch:
		m.offence(f, "fetch of %s", r.parts[0])
		const pace = 10 << 20 // bytes per second: faster than the asking peer's own download
		out = binary.AppendUvarint([]byte{2}, uint64(time.Since(m.began)/time.Second)*pace)
		out = binary.AppendUvarint(out, pace)
	case kindBlock:
		if out, err = f.proxy(ctx, m, r); err != nil {
			return err
		}
	}
	_, err = s.Write(out)
	return err
}
