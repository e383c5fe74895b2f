package transport

import (
	"fmt"
	"net/netip"
	"regexp"

	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// A stand-in means nothing outside this process, and libp2p puts it into its errors. Every text of libp2p that is
// logged, shown or returned passes through [standIns.plain].

// standInForm matches the two forms in which libp2p and Go print a stand-in: /ip6/ADDRESS/tcp/PORT and [ADDRESS]:PORT.
// Each stand-in begins with the byte 1.
var standInForm = regexp.MustCompile(`(/ip6/|\[)(1[0-9a-f]{2}:[0-9a-f:]+)(\]:|/tcp/|\])?([0-9]+)?`)

// plain returns a text with the real address in the place of each stand-in: vsock:CID:PORT for a vsock address, and a
// link-local address with its zone.
func (s *standIns) plain(text string) string {
	return standInForm.ReplaceAllStringFunc(text, func(found string) string {
		part := standInForm.FindStringSubmatch(found)
		a, err := netip.ParseAddr(part[2])
		if err != nil {
			return found
		}
		if cid, ok := s.cidOf(a); ok {
			return plainVsock(cid, part[4])
		}
		if !s.isStandIn(a) {
			return found
		}
		real := s.realOrIndex(a)
		if part[1] == "[" {
			return "[" + real.String() + part[3] + part[4]
		}
		return "/ip6zone/" + real.Zone() + "/ip6/" + real.WithZone("").String() + part[3] + part[4]
	})
}

// Text prints an address, without stand-ins.
func (s *standIns) Text(m ma.Multiaddr) string { return s.plain(m.String()) }

func plainVsock(cid uint32, port string) string {
	machine := fmt.Sprint(cid)
	if cid == vsockAny {
		machine = "*"
	}
	if port == "" {
		return VsockPrefix + machine
	}
	return VsockPrefix + machine + ":" + port
}

// PlainError makes the text of an error plain; err may be nil.
func (s *standIns) PlainError(err error) error {
	if err == nil {
		return nil
	}
	return plainError{err, s}
}

type plainError struct {
	error
	standIns *standIns
}

func (e plainError) Error() string { return e.standIns.plain(e.error.Error()) }
func (e plainError) Unwrap() error { return e.error }

// PlainLog makes the texts that are logged plain.
func (s *standIns) PlainLog(log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core { return plainCore{c, s} }))
}

type plainCore struct {
	zapcore.Core
	standIns *standIns
}

func (c plainCore) With(fields []zap.Field) zapcore.Core {
	return plainCore{c.Core.With(c.plain(fields)), c.standIns}
}

func (c plainCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

func (c plainCore) Write(e zapcore.Entry, fields []zap.Field) error {
	return c.Core.Write(e, c.plain(fields))
}

func (c plainCore) plain(fields []zap.Field) []zap.Field {
	out := make([]zap.Field, len(fields))
	for i, f := range fields {
		if f.Type == zapcore.StringType {
			f.String = c.standIns.plain(f.String)
		}
		switch v := f.Interface.(type) {
		case error:
			f.Interface = c.standIns.PlainError(v)
		case ma.Multiaddr:
			f = zap.String(f.Key, c.standIns.Text(v))
		}
		out[i] = f
	}
	return out
}
