package main

import (
	"net"
	"time"

	"narbor/cmd/narbor/control"
	"narbor/narserve"
	"narbor/narserve/stats"
	"narbor/p2p"
	"narbor/store/spool"
	"narbor/store/upstream"
)

// parts are the parts of a running narbor. All are set before any of them runs, and each has its own lock.
type parts struct {
	log       logs
	start     start
	listeners []net.Listener // where Nix asks
	keys      *keyState
	shares    *shares
	spool     *spool.Spool
	accounts  *stats.Accounts
	upstreams []*upstream.Cache
	node      *p2p.Node
	server    *narserve.Server
	pause     pause
}

// A start has the time and the settings with which narbor was started.
type start struct {
	at       time.Time
	settings []control.Setting
	misspelt []misspelt // environment variables that set nothing
}

func (s *parts) urls() []string {
	urls := make([]string, len(s.listeners))
	for i, l := range s.listeners {
		urls[i] = "http://" + l.Addr().String()
	}
	return urls
}

func (s *parts) nixConfLine() string {
	if len(s.listeners) == 0 {
		return ""
	}
	return "extra-substituters = " + s.urls()[0]
}

func (s *parts) isSubstituter() bool {
	return s.keys.settings().Asks(s.urls())
}

func addrsOf(ls []net.Listener) []string {
	out := make([]string, len(ls))
	for i, l := range ls {
		out[i] = l.Addr().String()
	}
	return out
}
