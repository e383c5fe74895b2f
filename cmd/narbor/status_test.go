package main

import (
	"bytes"
	"strings"
	"testing"

	"narbor/cmd/narbor/control"
	"narbor/narserve/stats"
	"narbor/p2p/netmon"
)

func TestStatusSaysWhichNetworksAreUsed(t *testing.T) {
	i := func(name, reason string) netmon.InterfaceStatus {
		return netmon.InterfaceStatus{Name: name, Used: reason == "", Reason: reason}
	}
	for _, c := range []struct {
		in            []netmon.InterfaceStatus
		used, ignored string
	}{
		{nil, "none", ""},
		{[]netmon.InterfaceStatus{i("eth0", ""), i("lo", "loopback"), i("wlan0", "")}, "eth0, wlan0", ""},
		{[]netmon.InterfaceStatus{i("a1", "down"), i("a2", "down"), i("b", "no carrier"), i("c", "down"), i("d", "down"), i("e", "down")},
			"none", "a1, a2, c, 2 more: down; b: no carrier"},
	} {
		var st control.Status
		st.Interfaces = c.in
		if used, ignored := st.NetworkLines(); used != c.used || ignored != c.ignored {
			t.Errorf("NetworkLines of %+v = %q, %q, want %q, %q", c.in, used, ignored, c.used, c.ignored)
		}
	}
}

func TestShortAddr(t *testing.T) {
	for addr, want := range map[string]string{
		"/ip4/10.0.0.2/tcp/6273": "10.0.0.2", "/ip4/10.0.0.2/tcp/7000": "10.0.0.2:7000", "/ip4/10.0.0.2": "10.0.0.2",
		"/ip6/fd00::2/tcp/7000":              "[fd00::2]:7000",
		"/ip6zone/eth0/ip6/fe80::1/tcp/6273": "fe80::1%eth0", "/ip6zone/eth0/ip6/fe80::1": "fe80::1%eth0", "vsock:2": "vsock:2", "": "",
	} {
		if got := shortAddr(addr); got != want {
			t.Errorf("shortAddr(%q) = %q, want %q", addr, got, want)
		}
	}
}

func TestStatusSaysThatNothingMovesOnlyWithoutTransfers(t *testing.T) {
	var st control.Status
	for _, want := range []string{"nothing moves", "1 transfer under way", "2 transfers under way"} {
		var b bytes.Buffer
		printTransfers(st, screen{Writer: &b, width: plainWidth})
		if got := strings.Fields(b.String()); strings.Join(got, " ") != "now "+want {
			t.Errorf("with %d transfers it says %q, want %q", len(st.Now), got, want)
		}
		st.Now = append(st.Now, stats.Transfer{})
	}
}
