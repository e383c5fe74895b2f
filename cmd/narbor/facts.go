package main

import (
	"net/http"
	"runtime"
	"slices"
	"time"

	"narbor/cmd/narbor/control"
	"narbor/cmd/narbor/dashboard"
	"narbor/p2p"
	"narbor/store"
)

// facts returns what the page shows of this service.
func (s *parts) facts() dashboard.Facts {
	st := s.status()
	return dashboard.Facts{Status: st, NixConf: s.nixConfLine(), NixAsks: s.isSubstituter(), Kinds: shareKinds(st)}
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
