package main

import (
	"net/http"
	"runtime"
	"slices"
	"time"

	"narbor/cmd/narbor/control"
	"narbor/narserve/dashboard"
	"narbor/p2p"
	"narbor/store"
)

// facts returns what the page shows of this service.
func (s *parts) facts() dashboard.Facts {
	st := s.status()
	now := time.Now()
	f := dashboard.Facts{Status: st, Version: st.Version, Started: s.start.at, ID: st.ID, Health: st.Health,
		NixFacts: dashboard.NixFacts{Listen: st.HTTP, NixConf: s.nixConfLine(), NixAsks: s.isSubstituter(), Keys: st.Keys},
		ShareFacts: dashboard.ShareFacts{Sharing: st.Sharing == "signed" && (len(st.ShareKeys) > 0 || st.ShareSources),
			Paused: st.Sharing == "none", Sources: st.ShareSources,
			ShareFrom: st.CacheDirs, ShareKeys: st.ShareKeys, PrivateKeys: st.PrivateKeys, CircleKeys: st.CircleKeys,
			UploadRate: st.UploadRate, Group: st.Group, Kinds: shareKinds(st)},
		NetworkFacts:  dashboard.NetworkFacts{Rejected: st.Rejected, Bans: st.Bans, Networks: st.Networks, Discovery: st.Discovery},
		UpstreamFacts: dashboard.UpstreamFacts{ForOthers: st.ForOthers, Alone: st.Alone, Helpers: st.Helpers},
		Spool: dashboard.SpoolUse{Bytes: st.Spool.Bytes, MaxBytes: st.Spool.MaxBytes, Entries: st.Spool.Entries,
			Verified:   st.Spool.Verified,
			VerifyTime: time.Duration(st.Spool.VerifySeconds * float64(time.Second))}}
	if st.Store != "" {
		f.ShareFrom = append([]string{st.Store}, f.ShareFrom...)
	}
	for _, u := range st.Upstreams {
		f.Upstreams = append(f.Upstreams, dashboard.UpstreamUse{URL: u.URL, Down: u.Down, Received: u.WireReceived})
	}
	for _, n := range st.Neighbours {
		f.Neighbours = append(f.Neighbours, dashboard.Neighbour{ID: n.ID, Name: n.Name, Addr: n.Addr, Via: n.Via, Received: n.BytesReceived,
			Sent: n.BytesSent, Strikes: n.Strikes, Since: now.Add(-time.Duration(n.ConnectedSeconds) * time.Second)})
	}
	for _, b := range st.Struck {
		f.Banned = append(f.Banned, dashboard.Banned{ID: b.ID, Reason: b.Reason, Until: b.Until})
	}
	for _, i := range st.Interfaces {
		f.Interfaces = append(f.Interfaces, dashboard.Interface{Name: i.Name, Reason: i.Reason, Used: i.Used})
	}
	return f
}

// getStatus returns the current status. If the Nix store was missing so far, it tries to open it first.
func (s *parts) getStatus(r *http.Request) (any, error) {
	_, _ = s.shares.nix.open(r.Context()) // the status has the error
	return s.status(), nil
}

func (s *parts) status() control.Status {
	spool, account := s.spool.Stats(), s.accounts.Account()
	st := control.Status{
		Schema: control.Schema, Version: version, UptimeSeconds: int64(time.Since(s.start.at).Seconds()),
		Goroutines: runtime.NumGoroutine(),
		Status:     s.node.Status(), HTTP: addrsOf(s.listeners),
		StoreStatus: control.StoreStatus{CacheDirs: append([]string{}, s.shares.cacheDirs...)},
		KeyStatus: control.KeyStatus{Keys: append([]string{}, s.keys.trusted.Names()...),
			ShareKeys: append([]string{}, s.keys.shared.Names()...)},
		SharingStatus: control.SharingStatus{Sharing: "signed", ShareSources: s.keys.fetched},
		TransferStatus: control.TransferStatus{LastUpdate: account.LastUpdate, Month: account.Sum(30), Rates: account.Rates,
			Now: account.Now},
		Nix: s.server.Stats(),
		Spool: control.SpoolStatus{Bytes: spool.Bytes, Entries: spool.Entries, MaxBytes: spool.MaxBytes, FreeBytes: spool.Free,
			MinFree: spool.MinFree, Verified: spool.Verified, VerifySeconds: spool.VerifyTime.Seconds()},
	}
	st.Away = account.Away(func(id string) bool {
		return slices.ContainsFunc(st.Neighbours, func(n p2p.NeighbourStatus) bool { return n.ID == id })
	}, time.Now())
	st.CircleKeys = s.keys.circleNames()
	st.PublicKeys, st.PrivateKeys = s.keys.policy().split(st.Keys)
	st.NixConfProblems = s.keys.problems()
	if s.shares.nix.here() {
		st.Store = store.Dir
	}
	st.StoreProblem = s.shares.nix.problem()
	st.Damaged = s.shares.damage.List()
	if !s.node.Sharing() {
		st.Sharing, st.PausedUntil = "none", s.pause.end()
	}
	st.Health = s.health(st)
	return st
}
