package mdns

import "sync/atomic"

// The kinds and results of multicast DNS packets, which are the labels of a metric: there are no others.
const (
	questionSent = iota
	questionUsed // another machine asked, so this one need not
	questionIgnored
	announcementUsed
	announcementIgnored // it is our own, or says nothing of an address on our links
	unknownMalformed
	unknownDropped // there were too many
	trafficKinds
)

// Traffic counts packets of multicast DNS about our service, and the announcements in them. It is safe for concurrent
// use.
type Traffic [trafficKinds]atomic.Int64

func (t *Traffic) count(kind int) { t[kind].Add(1) }

// Counts returns the counts by kind (question, announcement, unknown) and result.
func (t *Traffic) Counts() map[string]map[string]int64 {
	return map[string]map[string]int64{
		"question":     {"sent": t[questionSent].Load(), "used": t[questionUsed].Load(), "ignored": t[questionIgnored].Load()},
		"announcement": {"used": t[announcementUsed].Load(), "ignored": t[announcementIgnored].Load()},
		"unknown":      {"malformed": t[unknownMalformed].Load(), "dropped": t[unknownDropped].Load()},
	}
}
