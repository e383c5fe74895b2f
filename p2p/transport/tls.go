package transport

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	tptu "github.com/libp2p/go-libp2p/p2p/net/upgrader"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// A timeless is libp2p's TLS with certificates that are valid at any time. Those of libp2p begin an hour before they
// are made, and are made when the program starts: all peers would refuse a machine if its clock is ahead by more than
// that, or was when it booted. A peer is authenticated by its key; the dates of the certificate do not matter.
type timeless struct {
	id       protocol.ID
	self     peer.ID
	identity *libp2ptls.Identity
	muxers   []string // for ALPN
}

func newTimeless(id protocol.ID, key crypto.PrivKey, muxers []tptu.StreamMuxer) (*timeless, error) {
	self, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	identity, err := libp2ptls.NewIdentity(key, libp2ptls.WithCertTemplate(&x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{SerialNumber: serial.String()}, // it is the issuer, too, which must not be empty
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // for "never", by RFC 5280
	}))
	if err != nil {
		return nil, err
	}
	t := &timeless{id: id, self: self, identity: identity}
	for _, m := range muxers {
		t.muxers = append(t.muxers, string(m.ID))
	}
	return t, nil
}

// ID returns the name under which both sides agree on this.
func (t *timeless) ID() protocol.ID { return t.id }

// SecureInbound is the server's side of the handshake. p may be "", which is any peer.
func (t *timeless) SecureInbound(ctx context.Context, insecure net.Conn, p peer.ID) (sec.SecureConn, error) {
	return t.secure(ctx, insecure, p, tls.Server)
}

// SecureOutbound is the client's side. Whether the server agrees shows only when something is read.
func (t *timeless) SecureOutbound(ctx context.Context, insecure net.Conn, p peer.ID) (sec.SecureConn, error) {
	return t.secure(ctx, insecure, p, tls.Client)
}

// secure closes the connection if there is an error.
func (t *timeless) secure(ctx context.Context, insecure net.Conn, p peer.ID, side func(net.Conn, *tls.Config) *tls.Conn) (_ sec.SecureConn,
	err error) {
	defer func() {
		if err != nil {
			insecure.Close()
		}
	}()
	config, verified := t.identity.ConfigForPeer(p)
	config.NextProtos = slices.Concat(t.muxers, config.NextProtos)
	conn := side(insecure, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	var key crypto.PubKey
	select {
	case key = <-verified:
	default:
	}
	if key == nil {
		return nil, errors.New("tls: the peer's key was not verified")
	}
	remote, err := peer.IDFromPublicKey(key)
	if err != nil {
		return nil, err
	}
	c := &timelessConn{Conn: conn, self: t.self, remote: remote, key: key}
	if alpn := conn.ConnectionState().NegotiatedProtocol; slices.Contains(t.muxers, alpn) {
		c.state.StreamMultiplexer, c.state.UsedEarlyMuxerNegotiation = protocol.ID(alpn), true
	}
	return c, nil
}

// A timelessConn implements [sec.SecureConn].
type timelessConn struct {
	*tls.Conn
	self, remote peer.ID
	key          crypto.PubKey
	state        network.ConnectionState
}

func (c *timelessConn) LocalPeer() peer.ID                 { return c.self }
func (c *timelessConn) RemotePeer() peer.ID                { return c.remote }
func (c *timelessConn) RemotePublicKey() crypto.PubKey     { return c.key }
func (c *timelessConn) ConnState() network.ConnectionState { return c.state }
