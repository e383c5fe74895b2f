package nixstore

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode"

	"github.com/nix-community/go-nix/pkg/wire"
)

// Limits on what a daemon may send. Only a broken or hostile one comes near them.
const (
	maxWireString  = 64 << 10 // a store path has 255 bytes, a signature about 120
	maxWireMessage = 1 << 20  // an error message with its traces
	maxWireItems   = 1 << 16  // references or signatures of one path, fields or traces of one message
	maxWirePaths   = 1 << 24  // valid paths of one store; large ones have a hundred thousand
)

// Messages that come before the reply to each request.
const (
	stderrNext          = 0x6f6c6d67
	stderrLast          = 0x616c7473
	stderrError         = 0x63787470
	stderrStartActivity = 0x53545254
	stderrStopActivity  = 0x53544f50
	stderrResult        = 0x52534c54
)

// A daemonError is an error that the daemon itself reports, in its own words.
type daemonError struct{ msg string }

func (e *daemonError) Error() string { return "nix daemon says: " + e.msg }

// escapes are ANSI escape sequences: nix-daemon colours its messages.
var escapes = regexp.MustCompile("\x1b(?:\\[[0-9;:?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?|.?)")

// A wireReader reads Nix's framing and remembers the first error, after which every method returns zero.
type wireReader struct {
	r   *bufio.Reader
	err error
}

func (r *wireReader) fail(err error) {
	if r.err == nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // whatever we wait for, the daemon owed it
		}
		r.err = err
	}
}

func (r *wireReader) uint64() uint64 {
	if r.err != nil {
		return 0
	}
	n, err := wire.ReadUint64(r.r)
	if err != nil {
		r.fail(err)
		return 0
	}
	return n
}

// bool is false for 0 only, which is how Nix reads it.
func (r *wireReader) bool() bool { return r.uint64() != 0 }

// string reads at most limit bytes and their padding. (wire.ReadString would let missing or wrong padding pass.)
func (r *wireReader) string(limit uint64) string {
	n := r.uint64()
	if r.err == nil && n > limit {
		r.fail(fmt.Errorf("a string of %d bytes, want at most %d", n, limit))
	}
	if r.err != nil || n == 0 {
		return ""
	}
	buf := make([]byte, (n+7)&^7)
	if _, err := io.ReadFull(r.r, buf); err != nil {
		r.fail(err)
		return ""
	}
	for _, c := range buf[n:] {
		if c != 0 {
			r.fail(fmt.Errorf("a string with padding %x, want zeros", buf[n:]))
			return ""
		}
	}
	return string(buf[:n])
}

func (r *wireReader) count(limit uint64) uint64 {
	n := r.uint64()
	if r.err == nil && n > limit {
		r.fail(fmt.Errorf("a list of %d items, want at most %d", n, limit))
	}
	if r.err != nil {
		return 0
	}
	return n
}

func (r *wireReader) strings(limit uint64) []string {
	var list []string // grows with the strings that arrive, not with the announced number
	for range r.count(limit) {
		list = append(list, r.string(maxWireString))
		if r.err != nil {
			return nil
		}
	}
	return list
}

// skipMessages reads the log messages that precede a reply and returns at the reply itself; an error that the
// daemon reports becomes the reader's.
func (r *wireReader) skipMessages(version uint64) {
	for r.err == nil {
		switch kind := r.uint64(); {
		case r.err != nil || kind == stderrLast:
			return
		case kind == stderrError:
			r.readError(version)
		case kind == stderrNext:
			r.string(maxWireMessage)
		case kind == stderrStartActivity:
			r.uint64()
			r.uint64()
			r.uint64()
			r.string(maxWireMessage)
			r.skipFields()
			r.uint64()
		case kind == stderrStopActivity:
			r.uint64()
		case kind == stderrResult:
			r.uint64()
			r.uint64()
			r.skipFields()
		default:
			r.fail(fmt.Errorf("a message of unknown kind %#x", kind))
		}
	}
}

func (r *wireReader) skipFields() {
	for range r.count(maxWireItems) {
		switch kind := r.uint64(); {
		case r.err != nil:
			return
		case kind == 0:
			r.uint64()
		case kind == 1:
			r.string(maxWireMessage)
		default:
			r.fail(fmt.Errorf("a field of unknown kind %d", kind))
		}
	}
}

func (r *wireReader) readError(version uint64) {
	var msg string
	if version < 1<<8|26 {
		msg = r.string(maxWireMessage)
		r.uint64() // exit status
	} else {
		r.string(maxWireString) // always "Error"
		r.uint64()              // level
		r.string(maxWireString) // name of the program
		msg = r.string(maxWireMessage)
		r.uint64() // position, which is never sent
		for range r.count(maxWireItems) {
			r.uint64()
			r.string(maxWireMessage)
			if r.err != nil {
				return
			}
		}
	}
	if r.err == nil {
		r.err = &daemonError{firstLine(msg)}
	}
}

// firstLine makes text from another program fit for an error message: one line, no control characters, no colours.
func firstLine(s string) string {
	const limit = 500
	line, _, _ := strings.Cut(strings.TrimSpace(escapes.ReplaceAllString(s, "")), "\n")
	line = strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return -1
	}, strings.ToValidUTF8(line, "?"))
	if len(line) > limit {
		line = strings.ToValidUTF8(line[:limit], "") + "…"
	}
	return line
}
