package p2p

import (
	"crypto/sha256"
	"errors"
	"io"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/p2p/wire"
	"narbor/store"
)

// A suspicion is a block that was fetched again from other peers. Once the right NAR is here, it shows which sender was
// wrong.
type suspicion struct {
	block   int
	from    peer.ID
	hash    store.Hash
	hearsay bool // its sender had not verified it
}

// doubt ends the crowd's part in the fetch once the NAR is here and wrong. It makes what was relayed missing again,
// and says whether that was anything.
func (f *fetch) doubt() (relayed bool, err error) {
	f.mu.Lock()
	f.swarming.closed = true
	f.picker.swarm.dissolve()
	f.tell()
	f.mu.Unlock()
	relayed, err = f.suspect(func(_ int, b block) bool { return b.relayed })
	f.only()
	return relayed, err
}

// suspect makes blocks missing again, remembers them, and says whether there were any. It is called while no run is on.
func (f *fetch) suspect(which func(int, block) bool) (any bool, err error) {
	var found []suspicion
	f.mu.Lock()
	for i, b := range f.picker.blocks {
		if b.state == blockDone && which(i, b) {
			found = append(found, suspicion{block: i, from: b.from, hearsay: b.relayed})
		}
	}
	f.mu.Unlock()
	for k := range found {
		if found[k].hash, err = f.digest(f.draft, found[k].block); err != nil {
			return false, err
		}
	}
	f.suspects = append(f.suspects, found...)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range found {
		f.picker.again(s.block)
	}
	return len(found) > 0, nil
}

// settle blames the senders of wrong blocks, now that the right NAR is here. A sender that vouched for such a block has
// lied.
func (f *fetch) settle(nar io.ReaderAt) error {
	type fault struct {
		from    peer.ID
		hearsay bool
	}
	seen := map[fault]bool{}
	for _, s := range f.suspects {
		hash, err := f.digest(nar, s.block)
		if err != nil {
			return err
		}
		who := fault{s.from, s.hearsay}
		if hash == s.hash || seen[who] || f.hasLied(s.from) {
			continue
		}
		seen[who] = true
		if s.hearsay {
			f.conduct.Distrust(s.from)
		} else {
			f.blame(s.from, errors.New("sent a block that is not of this NAR"))
		}
	}
	return nil
}

// hasLied reports whether the peer was found to have lied in this fetch.
func (f *fetch) hasLied(id peer.ID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failures[id] >= lied
}

// digest hashes a block of the NAR.
func (f *fetch) digest(nar io.ReaderAt, i int) (store.Hash, error) {
	buf := wire.BlockBuffers.Get().(*[]byte)
	defer wire.BlockBuffers.Put(buf)
	b := (*buf)[:store.BlockLen(f.m.NarSize(), i)]
	_, err := nar.ReadAt(b, int64(i)*store.BlockSize)
	return sha256.Sum256(b), err
}
