package nixstore_test

import (
	"bytes"
	"net"
	"reflect"
	"testing"
	"time"

	"narbor/store"
	"narbor/store/nixstore"
)

// A script is a daemon that says the next thing each time that it is told something, whatever that is.
type script struct {
	net.Conn // nil: nothing else is called
	says     [][]byte
	said     bytes.Buffer
}

func (s *script) Write(p []byte) (int, error) {
	if len(s.says) > 0 {
		s.said.Write(s.says[0])
		s.says = s.says[1:]
	}
	return len(p), nil
}

func (s *script) Read(p []byte) (int, error) { return s.said.Read(p) }

func (s *script) Close() error { return nil }

func (s *script) SetDeadline(time.Time) error { return nil }

// FuzzDaemon is a whole conversation: the greeting in two parts, the path with a hash part, and its metadata.
func FuzzDaemon(f *testing.F) {
	f.Fuzz(func(t *testing.T, hello, welcome, found, known []byte) {
		n := nixstore.NewNixOn(func() net.Conn { return &script{says: [][]byte{hello, welcome, found, known}} })
		defer n.Close()
		info, err := n.Info(t.Context(), hpCurl)
		if err != nil {
			return
		}
		if info.Path.HashPart() != hpCurl || info.NarSize < 1 || info.NarSize > store.MaxNarSize || len(info.Signatures) > 64 {
			t.Errorf("Info(%s) = %+v", hpCurl, info)
		}
		refs := make([]string, len(info.References))
		for i, r := range info.References {
			refs[i] = r.String()
		}
		again := frames(msgLast, 1, info.Deriver.String(), info.NarHash.String(), refs, 1, int(info.NarSize), 0, info.Signatures, info.CA)
		if got, err := nixstore.ReadPathInfo(bytes.NewReader(again), 1<<8|35, info.Path.String()); err != nil ||
			!reflect.DeepEqual(got, info) {
			t.Errorf("ReadPathInfo of what was read = %+v, %v, want %+v", got, err, info)
		}
	})
}
