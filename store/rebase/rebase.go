// Package rebase makes the archive of a store path out of the archive of another version, for paths that were only
// rebuilt: their content is the old content with other store paths in it.
//
// [Pairs] tells from two claims which store path stands in the place of which other, and a [Writer] replaces them in an
// archive that is written to it. Both guess: nothing here promises that the result is the wanted archive. The caller
// compares its hash with the wanted NarHash, and discards it if they differ.
//
// # The replaced bytes
//
// Wherever the 32 characters of an old hash part stand, they are replaced by those of the new one. If the whole old
// base name stands there ("<hash part>-<name>"), it is replaced by the whole new one, which matters where a version
// changed. Places do not overlap, the first one counts, and text that was put in is not searched again. The length of
// the archive never changes. The archive is not parsed: contents of files, targets of symlinks and names in directories
// are treated alike, and so is text before or after a hash part.
//
// # What makes another archive
//
// In these cases the result does not have the wanted NarHash:
//
//   - a store path in compressed or encrypted data, in UTF-16, or in pieces: it is not seen, and stays
//   - names in a directory that sort in another order once they are replaced: the entries keep their old order
//   - a place where a version stands without its store path, such as "libfoo.so.1.2"
//   - two references that have equal names, and are paired the wrong way around
//   - a name of another length: [Pairs] gives up in advance
//
// A [Rebuilder] finds the old paths in a store, and remembers which wanted ones could not be made of them. The package
// starts no goroutine. A Rebuilder and different Writers may be used concurrently, one Writer may not. It searches
// faster than a disk reads, but promises no speed.
package rebase

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

const (
	hashLen = 32 // of a hash part
	// maxBase is the length of the longest base name that [store.ParsePath] accepts.
	maxBase = hashLen + 1 + 211
	// outLen is the size of the buffer that joins short writes to the underlying writer.
	outLen = 4096
)

var errClosed = errors.New("rebase: the writer is closed")

// A Writer replaces the store paths of pairs in its input, and writes the result to another writer, in the same length.
// How the input is cut into writes makes no difference to the result.
//
// It holds back fewer bytes than the longest base name has, and only where they may begin an old one. The rest has been
// passed on when Write returns. Long stretches without a store path are passed on without a copy.
type Writer struct {
	out     *bufio.Writer
	swaps   map[[hashLen]byte]swap
	first   [1 << 15 / 64]uint64 // a bit for each three characters that an old hash part begins with
	longest int                  // the length of the longest old base name
	buf     [2 * maxBase]byte    // buf[:held] is held back
	held    int
	err     error // of the underlying writer, or errClosed
}

// A swap is a pair's base names, in one length.
type swap struct{ old, new string }

// NewWriter returns a writer that passes its input on to w, with the old path of each pair replaced. If two pairs have
// one old hash part, the last counts. If the base names of a pair differ in length, only the hash part is replaced.
func NewWriter(w io.Writer, pairs []Pair) *Writer {
	rw := &Writer{out: bufio.NewWriterSize(w, outLen), swaps: make(map[[hashLen]byte]swap, len(pairs))}
	for _, p := range pairs {
		s := swap{p.Old.Base(), p.New.Base()}
		if len(s.old) != len(s.new) {
			s.new = s.new[:hashLen] + s.old[hashLen:]
		}
		key := [hashLen]byte([]byte(s.old))
		rw.swaps[key] = s
		n := threeDigits(key[:])
		rw.first[n/64] |= 1 << (n % 64)
		rw.longest = max(rw.longest, len(s.old))
	}
	return rw
}

// Write passes on p with the store paths in it replaced. It does not modify or keep p. After an error, which is that of
// the underlying writer, all that follow return it too.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	rest := p
	if w.held > 0 {
		// The held bytes are searched together with the beginning of p. If that is long enough, all places that begin
		// in the held bytes are decided, and the search goes on in p itself.
		n := copy(w.buf[w.held:w.held+w.longest], p)
		joined := w.buf[:w.held+n]
		done := w.rewrite(joined, false)
		if n == len(p) {
			w.held = copy(w.buf[:], joined[done:])
			return w.flush(len(p))
		}
		rest = p[done-w.held:]
	}
	done := w.rewrite(rest, false)
	w.held = copy(w.buf[:], rest[done:])
	return w.flush(len(p))
}

// Close passes on the bytes that are held back. It does not close the underlying writer. Only Close may follow it, and
// does nothing.
func (w *Writer) Close() error {
	if w.err != nil {
		if errors.Is(w.err, errClosed) {
			return nil
		}
		return w.err
	}
	tail := w.buf[:w.held]
	_, _ = w.out.Write(tail[w.rewrite(tail, true):]) // an error stays until Flush
	_, err := w.flush(0)
	if err == nil {
		w.err = errClosed
	}
	return err
}

// flush empties the buffer of short writes, and returns n unless that fails.
func (w *Writer) flush(n int) (int, error) {
	if w.err = w.out.Flush(); w.err != nil {
		return 0, w.err
	}
	return n, nil
}

// rewrite passes on p with the store paths in it replaced, up to the first place where an old base name may begin that
// p does not have in full, and returns that place. If p is the last of the input, a base name that is cut off by its
// end is a hash part with something else behind it.
func (w *Writer) rewrite(p []byte, last bool) int {
	written, at := 0, 0
	for {
		var s swap
		at, s = w.find(p, at)
		if s.old == "" {
			break
		}
		n := hashLen
		if here := p[at:]; len(here) >= len(s.old) {
			if string(here[:len(s.old)]) == s.old {
				n = len(s.old)
			}
		} else if !last && string(here) == s.old[:len(here)] {
			break
		}
		_, _ = w.out.Write(p[written:at]) // an error stays until Flush
		_, _ = w.out.WriteString(s.new[:n])
		at += n
		written = at
	}
	_, _ = w.out.Write(p[written:at])
	return at
}

// find returns the first place in p, from i on, where an old hash part stands, and its swap. Without one, it returns
// the place of the characters of base 32, fewer than a hash part has, that end p.
//
// It looks at the last character of a possible hash part first: one that is not of base 32 rules out all places up to
// it.
func (w *Writer) find(p []byte, i int) (int, swap) {
	if len(w.swaps) == 0 {
		return len(p), swap{}
	}
	known := i // p[i:known] is base 32
	for {
		end := min(i+hashLen, len(p))
		j := end - 1
		for j >= known && digits[p[j]] != noDigit {
			j--
		}
		if j >= known {
			i, known = j+1, end
			continue
		}
		if end-i < hashLen {
			return i, swap{}
		}
		if n := threeDigits(p[i:end]); w.first[n/64]&(1<<(n%64)) != 0 {
			if s, ok := w.swaps[[hashLen]byte(p[i:end])]; ok {
				return i, s
			}
		}
		i, known = i+1, end
	}
}

// noDigit is the value in digits of a character that is not of Nix's base 32.
const noDigit = 0xff

// digits has the value of each character of Nix's base 32.
var digits = func() (table [256]byte) {
	copy(table[:], bytes.Repeat([]byte{noDigit}, len(table)))
	for i, c := range []byte("0123456789abcdfghijklmnpqrsvwxyz") {
		table[c] = byte(i)
	}
	return table
}()

// threeDigits returns the number that the first three characters of a hash part make, below 1<<15.
func threeDigits(p []byte) uint {
	return uint(digits[p[0]])<<10 | uint(digits[p[1]])<<5 | uint(digits[p[2]])
}
