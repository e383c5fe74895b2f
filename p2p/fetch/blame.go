package fetch

import (
	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/store"
)

// A blame finds the peers that sent wrong blocks of one NAR. It has no lock, no goroutine and no clock: the goroutine
// that calls Fetch owns it, and changes it between runs only.
//
// The NarHash shows that some block is wrong, but not which one. So blocks become suspect: they are fetched again, from
// other peers, until the NarHash is right. Then the sender of each suspect block that has changed is known. Blocks
// become suspect in this order: those that were relayed without a check; those that are not in the manifest of one
// holder, the reference; and all blocks of the reference, if the NAR is wrong although every block is in its manifest.
type blame struct {
	suspects []suspect
	manifest store.Manifest // of the reference, while the blocks that were not in it are fetched from there; or nil
}

// A suspect is a block that was fetched again, as it was before.
type suspect struct {
	block  int
	sender sender
	hash   store.Hash
}

// A remedy is the next step with a complete NAR that has a wrong hash.
type remedy struct {
	reference peer.ID // the blocks are compared with the manifest of this holder; "" is none: the blocks of reread are fetched again
	guilty    peer.ID // the peer that sent all of the NAR; "" is none
	reread    []int
}

// remedyFor returns the next step with a NAR of these blocks. present are the holders that can still be asked; of equal
// ones the first is preferred. Blocks from the disk are compared with a manifest, so that only the wrong ones are
// fetched; so are relayed blocks then, because the disk is likelier to be wrong.
func remedyFor(blocks []sender, present []peer.ID) remedy {
	all := make([]int, len(blocks))
	var relayed []int
	sent := map[peer.ID]int{} // number of blocks for which a peer vouches
	for i, b := range blocks {
		all[i] = i
		if b.relayed {
			relayed = append(relayed, i)
		} else {
			sent[b.id]++
		}
	}
	if len(relayed) > 0 && (sent[fromDisk] == 0 || len(present) == 0) {
		return remedy{reread: relayed}
	}
	if len(sent) == 1 && sent[fromDisk] == 0 {
		return remedy{guilty: blocks[0].id, reread: all}
	}
	var best peer.ID
	for _, id := range present {
		if sent[id] > sent[best] || best == "" && sent[fromDisk] > 0 { // it need not have sent any to tell which are wrong on disk
			best = id
		}
	}
	if best == "" { // all senders have left, and none of them can be blamed
		return remedy{reread: all}
	}
	return remedy{reference: best}
}

// countVouching returns the number of peers that vouch for blocks.
func countVouching(blocks []sender) int {
	peers := map[peer.ID]bool{}
	for _, b := range blocks {
		if !b.relayed {
			peers[b.id] = true
		}
	}
	return len(peers)
}

func sentBy(blocks []sender, id peer.ID) (list []int) {
	for i, b := range blocks {
		if b.id == id {
			list = append(list, i)
		}
	}
	return list
}

// differing returns the blocks that are not in a manifest.
func differing(m store.Manifest, digest func(block int) (store.Hash, error)) (list []int, err error) {
	for i, want := range m {
		hash, err := digest(i)
		if err != nil {
			return nil, err
		}
		if hash != want {
			list = append(list, i)
		}
	}
	return list, nil
}

// suspect records a block that is about to be fetched again.
func (b *blame) suspect(block int, from sender, hash store.Hash) {
	b.suspects = append(b.suspects, suspect{block, from, hash})
}

// compare begins to hold blocks against the manifest of the reference; nil ends that.
func (b *blame) compare(m store.Manifest) { b.manifest = m }

// comparing reports whether blocks are held against a manifest, and so taken from the reference alone.
func (b *blame) comparing() bool { return b.manifest != nil }

func (b *blame) accepts(block int, hash store.Hash) bool {
	return b.manifest == nil || b.manifest[block] == hash
}

// senders returns the senders of wrong suspect blocks, each once, in the order in which their blocks became suspect.
// digest returns the hash of a block of the right NAR. If it fails, the senders that were found before are returned
// with its error.
func (b *blame) senders(digest func(block int) (store.Hash, error)) (found []sender, err error) {
	seen := map[sender]bool{}
	for _, s := range b.suspects {
		hash, err := digest(s.block)
		if err != nil {
			return found, err
		}
		if hash != s.hash && !seen[s.sender] {
			seen[s.sender] = true
			found = append(found, s.sender)
		}
	}
	return found, nil
}
