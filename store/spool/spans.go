package spool

import (
	"slices"

	"narbor/store"
)

// A span is a range of bytes, from inclusive, to exclusive.
type span struct{ from, to int64 }

// spans are sorted and do not touch.
type spans []span

// around returns the range of indices of the spans that s touches or overlaps.
func (ss spans) around(s span) (i, j int) {
	i, _ = slices.BinarySearchFunc(ss, s.from, func(e span, from int64) int {
		if e.to < from {
			return -1
		}
		return 1
	})
	for j = i; j < len(ss) && ss[j].from <= s.to; j++ {
	}
	return i, j
}

func (ss spans) add(s span) spans {
	if s.from >= s.to {
		return ss
	}
	i, j := ss.around(s)
	if i < j {
		s = span{min(s.from, ss[i].from), max(s.to, ss[j-1].to)}
	}
	return slices.Replace(ss, i, j, s)
}

func (ss spans) remove(s span) spans {
	i, j := ss.around(s)
	var rest spans
	for _, e := range ss[i:j] {
		for _, r := range []span{{e.from, min(e.to, s.from)}, {max(e.from, s.to), e.to}} {
			if r.from < r.to {
				rest = append(rest, r)
			}
		}
	}
	return slices.Replace(ss, i, j, rest...)
}

// missing returns the parts of s that no span covers.
func (ss spans) missing(s span) (out spans) {
	i, j := ss.around(s)
	for _, e := range ss[i:j] {
		if s.from < e.from {
			out = append(out, span{s.from, e.from})
		}
		s.from = max(s.from, e.to)
	}
	if s.from < s.to {
		out = append(out, s)
	}
	return out
}

// at returns the span that covers the byte at off, or none.
func (ss spans) at(off int64) span {
	i, j := ss.around(span{off, off})
	for _, e := range ss[i:j] {
		if e.from <= off && off < e.to {
			return e
		}
	}
	return span{}
}

// end returns how far the bytes from off on are covered: off itself if the first is not.
func (ss spans) end(off int64) int64 { return max(off, ss.at(off).to) }

// after returns where the first span beyond off begins.
func (ss spans) after(off int64) int64 {
	for _, e := range ss {
		if e.from > off {
			return e.from
		}
	}
	return store.MaxNarSize
}

func (ss spans) bytes() (n int64) {
	for _, e := range ss {
		n += e.to - e.from
	}
	return n
}

func (ss spans) contain(s span) bool { return ss.end(s.from) >= s.to }
