package peers

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"go.uber.org/zap"

	"narbor/p2p/wire"
)

const (
	// GroupProtocol is the proof of the group's secret, and memberProtocol what members speak after it in place of
	// [wire.ProtocolID]; see the package comment of p2p. A host without a secret takes a host with one for a machine
	// without narbor, and asks nothing.
	GroupProtocol  protocol.ID = "/narbor/group/1"
	memberProtocol protocol.ID = "/narbor/member/1"

	// minSecret is the shortest secret. A member sends proofs to peers that may not know the secret and can then try
	// secrets offline: a random one of this length withstands that, and a word does not.
	minSecret = 16
	maxSecret = 4 << 10

	groupNonce = 32
	groupProof = sha256.Size
	// proveTimeout bounds a proof of four short messages, on machines that may be busy.
	proveTimeout = 5 * time.Second
	// A proof that was cut short is tried again after proveMin, and then after twice as long up to proveMax.
	proveMin, proveMax = time.Second, time.Minute

	// proveGrace is how much longer than discovery takes Nix waits for members: some round trips.
	proveGrace = 300 * time.Millisecond

	roleOpener, roleAnswerer byte = 1, 2
)

// ErrOutsider is the code with which a member of a group resets a stream of a peer that has not proved its membership.
const ErrOutsider network.StreamErrorCode = 0x2002

// ErrOtherGroup means that a peer has not proved to know the secret.
var ErrOtherGroup = errors.New("it does not know the group's secret")

// LoadGroupSecret reads the secret of a group from a file. White space around it is no part of it. A file that
// all users of this machine may read is refused.
func LoadGroupSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("group secret: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("group secret: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return nil, fmt.Errorf("group secret %s is open to everybody (mode %04o): chmod 600 it", path, mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, fmt.Errorf("group secret: %w", err)
	}
	if len(text) > maxSecret {
		return nil, fmt.Errorf("group secret %s is longer than %d bytes", path, maxSecret)
	}
	secret := bytes.Trim(text, " \t\r\n")
	if len(secret) < minSecret {
		return nil, fmt.Errorf("group secret %s has %d bytes, and %d are the least: make one by `head -c 32 /dev/urandom | base64`, and "+
			"give each member the same",
			path, len(secret), minSecret)
	}
	return secret, nil
}

// A Group is the set of peers that know the same secret as this node. No other peer is asked or answered.
type Group struct {
	key  []byte
	host host.Host
	log  *zap.Logger

	mu      sync.Mutex // guards the rest
	members map[peer.ID]bool
	proving map[peer.ID]bool
}

// NewGroup returns the group of a secret. Without one it returns nil, a group that has every peer.
func NewGroup(secret []byte, h host.Host, log *zap.Logger) (*Group, error) {
	if secret == nil {
		return nil, nil
	}
	if len(secret) < minSecret {
		return nil, fmt.Errorf("the group's secret has %d bytes, and %d are the least", len(secret), minSecret)
	}
	key, err := groupKey(secret)
	if err != nil {
		return nil, err
	}
	return &Group{key: key, host: h, log: log,
		members: map[peer.ID]bool{}, proving: map[peer.ID]bool{}}, nil
}

// groupKey derives the key of proofs from the secret.
func groupKey(secret []byte) ([]byte, error) {
	return hkdf.Key(sha256.New, secret, nil, "narbor group 1", sha256.Size)
}

// A handshake is what both sides of a proof know.
type handshake struct {
	opener, answerer           peer.ID
	openerNonce, answererNonce [groupNonce]byte
}

// proof returns the proof of knowing the key, by the side with a role.
func (h handshake) proof(key []byte, role byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte{role})
	mac.Write(h.openerNonce[:])
	mac.Write(h.answererNonce[:])
	for _, id := range []peer.ID{h.opener, h.answerer} {
		mac.Write([]byte{byte(len(id))})
		mac.Write([]byte(id))
	}
	return mac.Sum(nil)
}

func (h handshake) check(key []byte, role byte, proof []byte) error {
	if !hmac.Equal(proof, h.proof(key, role)) {
		return ErrOtherGroup
	}
	return nil
}

// prove proves to a peer that we know the secret, and wants the same of it.
func (g *Group) prove(ctx context.Context, id peer.ID) error {
	ctx, cancel := context.WithTimeout(network.WithNoDial(ctx, "neighbours are connected"), proveTimeout)
	defer cancel()
	s, err := g.host.NewStream(ctx, id, GroupProtocol)
	if err != nil {
		return err
	}
	err = g.proveOn(s, id)
	if err == nil {
		return s.Close()
	}
	return rejected(s, err)
}

func (g *Group) proveOn(s network.Stream, id peer.ID) error {
	if err := s.SetDeadline(time.Now().Add(proveTimeout)); err != nil {
		return err
	}
	h := handshake{opener: g.host.ID(), answerer: id}
	rand.Read(h.openerNonce[:])
	if _, err := s.Write(h.openerNonce[:]); err != nil {
		return err
	}
	var answer [groupNonce + groupProof]byte
	if _, err := io.ReadFull(s, answer[:]); err != nil {
		return err
	}
	copy(h.answererNonce[:], answer[:])
	if err := h.check(g.key, roleAnswerer, answer[groupNonce:]); err != nil {
		return err
	}
	if _, err := s.Write(h.proof(g.key, roleOpener)); err != nil {
		return err
	}
	_, err := io.ReadFull(s, answer[:1])
	return err
}

// rejected resets a stream, and says so if the error is that one of the two does not know the secret.
func rejected(s network.Stream, err error) error {
	if reset, ok := errors.AsType[*network.StreamError](err); ok && reset.Remote && reset.ErrorCode == ErrOutsider {
		err = ErrOtherGroup
	}
	if errors.Is(err, ErrOtherGroup) {
		s.ResetWithError(ErrOutsider)
	} else {
		s.Reset()
	}
	return err
}

// Answer is prove's other side.
func (g *Group) Answer(s network.Stream) error {
	if err := g.answerOn(s); err != nil {
		return rejected(s, err)
	}
	return s.Close()
}

func (g *Group) answerOn(s network.Stream) error {
	if err := s.SetDeadline(time.Now().Add(proveTimeout)); err != nil {
		return err
	}
	h := handshake{opener: s.Conn().RemotePeer(), answerer: g.host.ID()}
	if _, err := io.ReadFull(s, h.openerNonce[:]); err != nil {
		return err
	}
	rand.Read(h.answererNonce[:])
	if _, err := s.Write(append(h.answererNonce[:], h.proof(g.key, roleAnswerer)...)); err != nil {
		return err
	}
	var proof [groupProof]byte
	if _, err := io.ReadFull(s, proof[:]); err != nil {
		return err
	}
	if err := h.check(g.key, roleOpener, proof[:]); err != nil {
		return err
	}
	g.admit(h.opener)
	_, err := s.Write([]byte{1}) // from now on it may ask
	return err
}

// Protocol returns the protocol for requests: in a group, that of its members.
func (g *Group) Protocol() protocol.ID {
	if g == nil {
		return wire.ProtocolID
	}
	return memberProtocol
}

func (g *Group) admit(id peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.members[id] = true
}

// Forget makes a peer that has gone prove itself anew.
func (g *Group) Forget(id peer.ID) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.members, id)
}

// Has reports whether a peer is in the group; without a group (nil) every peer is.
func (g *Group) Has(id peer.ID) bool {
	if g == nil {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.members[id]
}

// BeginProof reports whether no other goroutine is proving membership to that peer; the caller then calls EndProof.
func (g *Group) BeginProof(id peer.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.members[id] || g.proving[id] {
		return false
	}
	g.proving[id] = true
	return true
}

// EndProof is called after BeginProof has returned true and the proof has ended.
func (g *Group) EndProof(id peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.proving, id)
}

// Grace is how long to wait for the peers that were found, because they may turn out to be members.
func (g *Group) Grace() time.Duration {
	if g == nil {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.proving) == 0 {
		return 0
	}
	return proveGrace
}

// ProveTo proves to a peer that we know the secret, until that has worked, or the peer does not know it or has gone.
func (g *Group) ProveTo(ctx context.Context, id peer.ID) error {
	for pause := proveMin; ; pause = min(2*pause, proveMax) {
		err := g.prove(ctx, id)
		if err == nil {
			g.admit(id)
		}
		if err == nil || g.Has(id) {
			return nil
		}
		if errors.Is(err, ErrOtherGroup) || g.host.Network().Connectedness(id) != network.Connected {
			return err
		}
		g.log.Debug("the group's secret was not proved", zap.Stringer("peer", id), zap.Error(err))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
