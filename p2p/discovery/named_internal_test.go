package discovery

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"narbor/p2p/p2ptest"
	"narbor/p2p/transport"
	"narbor/store/storetest"

	"github.com/libp2p/go-libp2p/core/peer"
)

func TestParseNamedPeer(t *testing.T) {
	id := p2ptest.NewPeer(t).String()
	for text, want := range map[string]string{ // address or name, family, port, whether the ID is given
		"10.0.0.1":                         "10.0.0.1 ip 6273 false",
		"10.0.0.1:80":                      "10.0.0.1 ip 80 false",
		"::ffff:10.0.0.1":                  "10.0.0.1 ip 6273 false",
		"fd00::1":                          "fd00::1 ip 6273 false",
		"[fd00::1]":                        "fd00::1 ip 6273 false",
		"[fd00::1]:80":                     "fd00::1 ip 80 false",
		"nas.example.org":                  "nas.example.org ip 6273 false",
		"nas:80":                           "nas ip 80 false",
		"nas.local.":                       "nas.local. ip 6273 false",
		"/ip4/10.0.0.1":                    "10.0.0.1 ip 6273 false",
		"/ip4/10.0.0.1/tcp/80":             "10.0.0.1 ip 80 false",
		"/ip4/10.0.0.1/p2p/" + id:          "10.0.0.1 ip 6273 true",
		"/ip6/fd00::1/tcp/80/p2p/" + id:    "fd00::1 ip 80 true",
		"/dns/nas/tcp/80":                  "nas ip 80 false",
		"/dns4/nas/tcp/80":                 "nas ip4 80 false",
		"/dns6/nas/tcp/80/p2p/" + id:       "nas ip6 80 true",
		"":                                 "",
		"10.0.0.1:0":                       "",
		"10.0.0.1:99999":                   "",
		"nas:http":                         "",
		"http://nas":                       "",
		"nas/x":                            "",
		"-nas":                             "",
		"nas nas":                          "",
		strings.Repeat("a", 254):           "",
		"0.0.0.0":                          "",
		"224.0.0.1":                        "",
		"fe80::1":                          "",
		"fe80::1%eth0":                     "fe80::1%eth0 ip 6273 false",
		"[fe80::1%eth0]:80":                "fe80::1%eth0 ip 80 false",
		"fd00::1%eth0":                     "",
		"/ip6/fe80::1/tcp/80":              "",
		"/ip6zone/eth0/ip6/fe80::1/tcp/80": "fe80::1%eth0 ip 80 false",
		"/ip6zone/eth0/ip6/fd00::1/tcp/80": "",
		"/ip6zone/eth0/ip4/10.0.0.1":       "",
		"/ip4/10.0.0.1/udp/80":             "",
		"/ip4/10.0.0.1/udp/80/quic-v1":     "",
		"/ip4/10.0.0.1/tcp/0":              "",
		"/ip4/10.0.0.1/tcp/80/ws":          "",
		"/ip4/10.0.0.1/tcp/80/p2p/x":       "",
		"/ip4/10.0.0.1/tcp/80/p2p/" + id + "/tcp/1": "",
		"/p2p/" + id:   "",
		"/":            "",
		"/dnsaddr/nas": "",
	} {
		got := ""
		if n, err := parseNamedPeer(text); err == nil {
			host := n.name
			if n.addr.IsValid() {
				host = n.addr.String()
			}
			got = fmt.Sprint(host, " ", n.family, " ", n.port, " ", n.id != "")
		}
		if got != want {
			t.Errorf("parseNamedPeer(%q) = %q, want %q", text, got, want)
		}
	}
	if _, err := New(Config{Peers: []string{"a b"}}, transport.Config{}, Hooks{}); err == nil || !strings.Contains(err.Error(), `"a b"`) {
		t.Errorf("newLAN(bad peer) = %v, want an error that names it", err)
	}
}

func FuzzParseNamedPeer(f *testing.F) {
	for _, text := range []string{"10.0.0.1:80", "[::1]:1", "nas", "/ip4/10.0.0.1/tcp/80", "/dns/nas/tcp/1/p2p/x"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := parseNamedPeer(text)
		if err == nil && (n.port == 0 || n.addr.IsValid() == (n.name != "")) {
			t.Errorf("parseNamedPeer(%q) = %+v, want a port and either an address or a name", text, n)
		}
	})
}

func TestNamedPeerByNameAndByID(t *testing.T) {
	a, _ := startTestLAN(t, Config{})
	port, id := transport.ListenPort(a.host), a.host.ID()
	name := "localhost"
	if _, err := net.LookupHost(name); err != nil {
		name = "127.0.0.1" // without /etc/hosts
	}
	for _, text := range []string{
		fmt.Sprintf("%s:%d", name, port),
		fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", port),
		fmt.Sprintf("/ip4/127.0.0.1/tcp/%d/p2p/%s", port, id),
	} {
		b, stop := startTestLAN(t, Config{Peers: []string{text}})
		waitConnected(t, b, id)
		stop()
	}

	b, _ := startTestLAN(t, Config{Peers: []string{fmt.Sprintf("/ip4/127.0.0.1/tcp/%d/p2p/%s", port, p2ptest.NewPeer(t))}})
	select {
	case <-b.Settled():
	case <-time.After(storetest.AtMost(settleLimit + 10*time.Second)):
		t.Error("not settled")
	}
	if b.connected(id) {
		t.Error("connected to a peer that is not the one named")
	}
}

func TestNamedPeerThatComesLaterIsReached(t *testing.T) {
	a, stop := startTestLAN(t, Config{})
	port, id := transport.ListenPort(a.host), a.host.ID()
	stop()
	b, _ := startTestLAN(t, Config{Peers: []string{fmt.Sprintf("127.0.0.1:%d", port)}})
	select {
	case <-b.Settled():
	case <-time.After(storetest.AtMost(settleLimit + 10*time.Second)):
		t.Error("not settled although the only peer has been tried")
	}
	a, _ = startTestLANAs(t, Config{}, testHostConfig(t, port), Hooks{})
	waitConnected(t, b, a.host.ID())
	if a.host.ID() == id {
		t.Fatal("both have the same identity")
	}
}

func TestNamingOneselfIsHarmless(t *testing.T) {
	a, stop := startTestLAN(t, Config{})
	port := transport.ListenPort(a.host)
	stop()
	b, _ := startTestLANAs(t, Config{Peers: []string{fmt.Sprintf("127.0.0.1:%d", port)}}, testHostConfig(t, port), Hooks{})
	select {
	case <-b.Settled():
	case <-time.After(storetest.AtMost(settleLimit + 10*time.Second)):
		t.Error("not settled")
	}
	if n := len(b.host.Network().Conns()); n != 0 {
		t.Errorf("%d connections to itself, want none", n)
	}
}

func TestIDsOfANamedMachineAreBounded(t *testing.T) {
	l, err := New(Config{Peers: []string{"10.1.0.9"}}, testHostConfig(t, 0), Hooks{}) // no connection is made
	if err != nil {
		t.Fatal(err)
	}
	defer l.host.Close()
	for i := range 3 * maxNamedAddrs {
		l.added.named.remember(peer.ID(fmt.Sprint(i)), l.added.named.all[0])
	}
	if got := len(l.added.named.byID); got > maxNamedAddrs {
		t.Errorf("%d IDs of a machine are remembered, want at most %d", got, maxNamedAddrs)
	}
}
