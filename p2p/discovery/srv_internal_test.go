package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// nameServer answers questions for SRV records from a map, and counts them.
type nameServer struct {
	mu      sync.Mutex // guards what follows
	records map[string][]*net.SRV
	err     error
	broken  string // a name for which it fails
	asked   []string
}

func (s *nameServer) lookup(_ context.Context, name string) ([]*net.SRV, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, name)
	if s.err != nil {
		return nil, s.err
	}
	if name == s.broken {
		return nil, &net.DNSError{Err: "server misbehaving", Name: name, IsTemporary: true}
	}
	if records, ok := s.records[name]; ok {
		return records, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

// newTestSearch returns a search of a machine with a resolv.conf, which has named the peers given by the user.
func newTestSearch(t *testing.T, resolvConf string, user ...string) (*srvSearch, *nameServer) {
	t.Helper()
	server := &nameServer{records: map[string][]*net.SRV{}}
	named, err := parseNamed(user, fromFlag)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(config, []byte(resolvConf), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSRVSearch(&added{named: newNamedPeers(nil, named, func() {})}, zap.NewNop())
	s.config, s.lookup = config, server.lookup
	return s, server
}

// has returns the named peers as words, those of DNS with a plus sign.
func (s *srvSearch) has() string {
	var words []string
	for _, n := range s.added.named.now() {
		if n.from == fromDNS {
			words = append(words, "+"+n.text)
		} else {
			words = append(words, n.text)
		}
	}
	return strings.Join(words, " ")
}

func TestSearchDomainsAreAskedAfterEachChangeOfNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, server := newTestSearch(t, "search home.test local lan.local\nnameserver 10.0.0.1\n", "nas.home.test:6273")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.run(ctx) }()
		want := func(when, peers string) {
			t.Helper()
			synctest.Wait()
			if got := s.has(); got != peers {
				t.Errorf("%s: named are %q, want %q", when, got, peers)
			}
		}
		want("no records", "nas.home.test:6273")
		if !slices.Equal(server.asked, []string{"_narbor._tcp.home.test."}) {
			t.Errorf("asked %q, want one name", server.asked)
		}
		server.records["_narbor._tcp.home.test."] = []*net.SRV{{Target: "nas.home.test.", Port: 6273}, {Target: "b.home.test.", Port: 7000}}
		want("before a change", "nas.home.test:6273")
		moved := func() {
			s.hint()
			<-time.After(2 * srvDelay)
		}
		moved()
		want("records", "nas.home.test:6273 +b.home.test:7000")
		before := s.added.named.now()
		server.records["_narbor._tcp.home.test."] = append(server.records["_narbor._tcp.home.test."], &net.SRV{Target: "c.", Port: 8000})
		moved()
		want("one more", "nas.home.test:6273 +b.home.test:7000 +c:8000")
		if !slices.Equal(before, s.added.named.now()[:2]) {
			t.Error("a peer that is named as before has been replaced")
		}
		server.err = errors.New("server failure")
		moved()
		want("no answer", "nas.home.test:6273 +b.home.test:7000 +c:8000")
		server.mu.Lock()
		server.err = nil
		clear(server.records)
		server.mu.Unlock()
		<-time.After(2 * lookAgain)
		want("no records, asked again", "nas.home.test:6273")
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestRecordsThatNameNoMachineAreLeftOut(t *testing.T) {
	s, server := newTestSearch(t, "search home.test\n")
	records := []*net.SRV{{Target: ".", Port: 6273}, {Target: "8.8.8.8.", Port: 6273}, {Target: "vsock:2.", Port: 6273},
		{Target: "fd00::1", Port: 6273}, {Target: "-x.", Port: 6273}, {Target: "a b.", Port: 6273}, {Target: "zero.", Port: 0},
		{Target: strings.Repeat("a", 254), Port: 6273}, {Target: "printer.", Port: 631}}
	for i := range 2 * maxFound {
		records = append(records, &net.SRV{Target: fmt.Sprintf("m%d.", i), Port: 6273})
	}
	server.records["_narbor._tcp.home.test."] = records
	texts, err := s.ask(t.Context())
	if err != nil || len(texts) != maxFound || texts[0] != "m0:6273" {
		t.Errorf("ask = %q, %v, want %d machines from m0 on", texts, err, maxFound)
	}
}

// Any network that this machine is carried into may have a name server.
func TestNameServersNameNoMachineOutside(t *testing.T) {
	n, err := parseFound("localhost:6273")
	if err != nil {
		t.Fatal(err)
	}
	if addrs, err := n.resolve(t.Context()); err != nil || len(addrs) > 0 {
		t.Errorf("a name with an address that is not private has %v, %v, want none", addrs, err)
	}
}

func TestFoundPeerMayBeAdded(t *testing.T) {
	s, server := newTestSearch(t, "search home.test\n")
	server.records["_narbor._tcp.home.test."] = []*net.SRV{{Target: "nas.", Port: 6273}}
	texts, err := s.ask(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.added.setFound(texts, true)
	s.added.file = filepath.Join(t.TempDir(), "peers.json")
	if err := s.added.add("nas:6273"); err != nil {
		t.Fatal(err)
	}
	s.added.setFound(nil, true)
	if got := s.has(); got != "nas:6273" {
		t.Errorf("named are %q, want the one that was added", got)
	}
}

func TestSearchDomainThatFailsHidesNoOther(t *testing.T) {
	s, server := newTestSearch(t, "search broken.test home.test\n")
	server.broken = "_narbor._tcp.broken.test."
	server.records["_narbor._tcp.home.test."] = []*net.SRV{{Target: "nas.", Port: 6273}}
	texts, err := s.ask(t.Context())
	if err == nil || !slices.Equal(texts, []string{"nas:6273"}) {
		t.Errorf("ask = %q, %v, want nas and an error", texts, err)
	}
}
