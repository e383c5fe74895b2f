package fetch

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"

	"narbor/store"
)

// A pollution is a NAR of a few blocks that comes from some peers, of which some send wrong blocks. A block has the
// hash of its text.
type pollution struct {
	peers    []polluter
	excluded map[peer.ID]bool
	here     []string // what came for each block
	from     []sender
	blame    blame
	guilty   map[sender]bool
}

// A polluter is a peer of a pollution.
type polluter struct {
	id      peer.ID
	wrong   []int // the blocks that it sends wrong
	relayed bool  // it is receiving the NAR itself
	left    bool  // it has gone once it has sent its blocks
	mute    bool  // it does not tell its manifest
	honest  bool  // its manifest is right although its blocks are not
}

func right(i int) string { return fmt.Sprint("block ", i) }

func (p polluter) sends(i int) string {
	if slices.Contains(p.wrong, i) {
		return fmt.Sprintf("block %d of %s", i, p.id)
	}
	return right(i)
}

func textHash(s string) store.Hash { return sha256.Sum256([]byte(s)) }

// Session takes the missing blocks from peers in turn, or from one alone. It returns false if none is left.
func (p *pollution) fetch(alone peer.ID) bool {
	var able []polluter
	for _, q := range p.peers {
		if !p.excluded[q.id] && (alone == "" || alone == q.id) {
			able = append(able, q)
		}
	}
	for i, text := range p.here {
		if text == "" && len(able) > 0 {
			q := able[i%len(able)]
			p.here[i], p.from[i] = q.sends(i), sender{q.id, q.relayed}
		}
	}
	for i, q := range p.peers {
		if q.left {
			p.peers[i].left = false
			p.excluded[q.id] = true
		}
	}
	return len(able) > 0
}

func (p *pollution) isRight() bool {
	for i, text := range p.here {
		if text != right(i) {
			return false
		}
	}
	return true
}

func (p *pollution) reread(list []int) {
	for _, i := range list {
		p.blame.suspect(i, p.from[i], textHash(p.here[i]))
		p.here[i] = ""
	}
}

func (p *pollution) accuse(s sender) {
	p.guilty[s] = true
	if !s.relayed {
		p.excluded[s.id] = true
	}
}

// step does what a remedy says.
func (p *pollution) step(next remedy) {
	if next.guilty != "" {
		p.accuse(sender{id: next.guilty})
	}
	if next.reference == "" {
		p.reread(next.reread)
		p.peers = slices.DeleteFunc(p.peers, func(q polluter) bool { return q.relayed }) // the exchange with the swarm has ended
		return
	}
	q := p.peers[slices.IndexFunc(p.peers, func(q polluter) bool { return q.id == next.reference })]
	if q.mute {
		p.excluded[q.id] = true
		p.reread(sentBy(p.from, q.id))
		return
	}
	manifest := make(store.Manifest, len(p.here))
	for i := range manifest {
		manifest[i] = textHash(q.sends(i))
		if q.honest {
			manifest[i] = textHash(right(i))
		}
	}
	other, _ := differing(manifest, func(i int) (store.Hash, error) { return textHash(p.here[i]), nil })
	p.reread(other)
	p.blame.compare(manifest)
	p.fetch(q.id)
	for i, text := range p.here {
		if !p.blame.accepts(i, textHash(text)) {
			p.accuse(sender{id: q.id})
			p.here[i] = ""
		}
	}
	p.blame.compare(nil)
	if !p.isRight() && !p.excluded[q.id] {
		p.accuse(sender{id: q.id})
		p.reread(sentBy(p.from, q.id))
	}
}

func (p *pollution) present() (ids []peer.ID) {
	for _, q := range p.peers {
		if !p.excluded[q.id] && !q.relayed {
			ids = append(ids, q.id)
		}
	}
	return ids
}

func TestSendersOfWrongBlocksAreFound(t *testing.T) {
	for name, tt := range map[string]struct {
		peers    []polluter
		want     []sender
		notRight bool // no source is left before the NAR is right
	}{
		"one of three": {peers: []polluter{{id: "a"}, {id: "b", wrong: []int{1}}, {id: "c"}}, want: []sender{{"b", false}}},
		"two of three": {peers: []polluter{{id: "a", wrong: []int{0, 1}}, {id: "b", wrong: []int{1, 2}}, {id: "c"}},
			want: []sender{{"a", false}, {"b", false}}},
		"a single holder": {peers: []polluter{{id: "a", wrong: []int{5}}}, want: []sender{{"a", false}}, notRight: true},
		"one that was never asked for a wrong block": {peers: []polluter{{id: "a"}, {id: "b", wrong: []int{3}}, {id: "c", wrong: []int{2}}},
			want: []sender{{"c", false}}},
		"both of two": {peers: []polluter{{id: "a", wrong: []int{0}}, {id: "b", wrong: []int{1}}},
			want: []sender{{"a", false}, {"b", false}}, notRight: true},
		"passed on": {peers: []polluter{{id: "a"}, {id: "r", wrong: []int{1}, relayed: true}, {id: "c"}},
			want: []sender{{"r", true}}},
		"passed on, and another": {peers: []polluter{{id: "a", wrong: []int{0}}, {id: "r", wrong: []int{1}, relayed: true}, {id: "c"}},
			want: []sender{{"a", false}, {"r", true}}},
		"passed on, but right": {peers: []polluter{{id: "a"}, {id: "r", relayed: true}, {id: "c", wrong: []int{2}}},
			want: []sender{{"c", false}}},
		"gone, and one stays": {peers: []polluter{{id: "a", wrong: []int{0}, left: true}, {id: "b"}}, want: []sender{{"a", false}}},
		"the manifest is refused": {peers: []polluter{{id: "a", wrong: []int{0}, mute: true}, {id: "b"}, {id: "c"}},
			want: []sender{{"a", false}}},
		"the manifest of an honest one is refused": {peers: []polluter{{id: "a", mute: true}, {id: "b", wrong: []int{1}}, {id: "c"}},
			want: []sender{{"b", false}}},
		"the manifest was made before the damage": {peers: []polluter{{id: "a", wrong: []int{0, 3}, honest: true}, {id: "b"}, {id: "c"}},
			want: []sender{{"a", false}}},
	} {
		t.Run(name, func(t *testing.T) {
			p := &pollution{peers: tt.peers, excluded: map[peer.ID]bool{}, here: make([]string, 7), from: make([]sender, 7),
				guilty: map[sender]bool{}}
			left := p.fetch("")
			for round := 0; left && !p.isRight(); round++ {
				if round > 2*len(tt.peers) {
					t.Fatalf("not right after %d rounds: %q", round, p.here)
				}
				p.step(remedyFor(p.from, p.present()))
				left = p.fetch("")
			}
			if left == tt.notRight {
				t.Errorf("the NAR is right: %v, want %v", left, !tt.notRight)
			}
			found, err := p.blame.senders(func(i int) (store.Hash, error) { return textHash(right(i)), nil })
			if err != nil {
				t.Error(err)
			}
			for _, s := range found {
				p.accuse(s)
			}
			got := slices.SortedFunc(maps.Keys(p.guilty), func(a, b sender) int { return slices.Compare([]byte(a.id), []byte(b.id)) })
			if !slices.Equal(got, tt.want) {
				t.Errorf("blamed are %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestBlocksOfAHolderThatHasLeftBlameNoPeer(t *testing.T) {
	blocks := []sender{{"a", false}, {"b", false}}
	if got := remedyFor(blocks, nil); got.guilty != "" || got.reference != "" || !slices.Equal(got.reread, []int{0, 1}) {
		t.Errorf("remedy = %+v, want all blocks fetched again", got)
	}
}

func TestHolderThatSentMostIsTheReference(t *testing.T) {
	blocks := []sender{{"a", false}, {"b", false}, {"b", false}, {"c", false}, {"c", false}}
	if got := remedyFor(blocks, []peer.ID{"a", "c", "b"}); got.reference != "c" || got.reread != nil {
		t.Errorf("remedy = %+v, want c as the reference", got)
	}
}

func TestBlocksOfTheDiskAreComparedBeforeRelayedOnesAreFetchedAgain(t *testing.T) {
	blocks := []sender{{fromDisk, false}, {"a", true}, {"b", false}}
	if got := remedyFor(blocks, []peer.ID{"c", "b"}); got.reference != "b" || got.reread != nil {
		t.Errorf("remedy = %+v, want b as the reference", got)
	}
	if got := remedyFor(blocks, nil); got.reference != "" || !slices.Equal(got.reread, []int{1}) {
		t.Errorf("remedy without a holder = %+v, want the relayed block fetched again", got)
	}
}

func TestSendersFoundBeforeAReadErrorAreKept(t *testing.T) {
	var b blame
	b.suspect(0, sender{"a", false}, store.Hash{1})
	b.suspect(1, sender{"b", false}, store.Hash{1})
	found, err := b.senders(func(i int) (store.Hash, error) {
		if i > 0 {
			return store.Hash{}, errors.ErrUnsupported
		}
		return store.Hash{}, nil
	})
	if err == nil || !slices.Equal(found, []sender{{"a", false}}) {
		t.Errorf("senders = %v, %v, want a and an error", found, err)
	}
}
