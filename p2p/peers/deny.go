package peers

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// maxDenyFile bounds the file of the deny list: as many entries as there may be, each reason with every byte escaped.
const maxDenyFile = maxDenied * (6*maxReason + 256)

// Denied is a peer with which there are no connections: it is banned because of its last strike, or the user has
// blocked it.
type Denied struct {
	ID     string    `json:"id"`
	Reason string    `json:"reason,omitempty"`
	Until  time.Time `json:"until,omitzero"` // zero if the user has blocked it: then it is until the user unblocks it
}

// ended reports whether a ban is over.
func (d Denied) ended(now time.Time) bool { return !d.Until.IsZero() && !now.Before(d.Until) }

// A denyList is the peers that are refused, at most [maxDenied] bans and [maxBlocked] that the user has blocked. It has
// no lock and no clock.
type denyList map[peer.ID]Denied

// newDenyList returns what was saved, without the bans that have ended. No ban is longer than from now on: the clock may
// have been wrong when it was saved. The list is empty if there is an error.
func newDenyList(saved []Denied, now time.Time) (denyList, error) {
	all := denyList{}
	for _, e := range saved {
		id, err := peer.Decode(e.ID)
		if err != nil {
			return denyList{}, err
		}
		if e.Until.IsZero() {
			if err := all.block(id); err != nil {
				return denyList{}, err
			}
			continue
		}
		if latest := now.Add(banTime); e.Until.After(latest) {
			e.Until = latest
		}
		if !e.ended(now) {
			all.ban(id, Bounded(e.Reason), e.Until)
		}
	}
	return all, nil
}

// denies reports whether a peer is refused.
func (l denyList) denies(id peer.ID, now time.Time) bool {
	e, ok := l[id]
	return ok && !e.ended(now)
}

// ban refuses a peer until a moment, unless the user has blocked it. Of too many bans, the one that ends first goes.
func (l denyList) ban(id peer.ID, reason string, until time.Time) {
	if e, ok := l[id]; ok && e.Until.IsZero() {
		return
	}
	l[id] = Denied{id.String(), reason, until}
	bans, soonest := 0, id
	for other, e := range l {
		if e.Until.IsZero() {
			continue
		}
		if bans++; e.Until.Before(l[soonest].Until) {
			soonest = other
		}
	}
	if bans > maxDenied {
		delete(l, soonest)
	}
}

// block refuses a peer until it is allowed.
func (l denyList) block(id peer.ID) error {
	if e, ok := l[id]; ok && e.Until.IsZero() {
		return nil
	}
	if blocked := len(l.blocked()); blocked >= maxBlocked {
		return fmt.Errorf("%d peers are blocked already: unblock some, or use a group secret", blocked)
	}
	l[id] = Denied{ID: id.String()}
	return nil
}

// allow ends a ban or block.
func (l denyList) allow(id peer.ID) { delete(l, id) }

// blocked returns the peers that the user has blocked, sorted.
func (l denyList) blocked() []peer.ID {
	ids := []peer.ID{}
	for id, e := range l {
		if e.Until.IsZero() {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// bans returns the bans, sorted by ID, and forgets those that have ended.
func (l denyList) bans(now time.Time) []Denied {
	list := []Denied{}
	for id, e := range l {
		switch {
		case e.ended(now):
			delete(l, id)
		case !e.Until.IsZero():
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b Denied) int { return bytes.Compare([]byte(a.ID), []byte(b.ID)) })
	return list
}

// entries returns all that has not ended, sorted, to be saved.
func (l denyList) entries(now time.Time) []Denied {
	list := l.bans(now)
	for _, id := range l.blocked() {
		list = append(list, l[id])
	}
	return list
}

// Bounded returns the part of a reason that is kept and logged.
func Bounded(reason string) string {
	return strings.ToValidUTF8(reason[:min(len(reason), maxReason)], "")
}
