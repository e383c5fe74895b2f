package dashboard

import (
	"bytes"
	"fmt"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"narbor/p2p"
	"narbor/store"
)

func (p *Page) metrics() (string, error) {
	families, err := p.registry.Gather()
	if err != nil {
		return "", fmt.Errorf("metrics: %w", err)
	}
	var buf bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&buf, f); err != nil {
			return "", fmt.Errorf("metric %s: %w", f.GetName(), err)
		}
	}
	return buf.String(), nil
}

// A collector makes metrics of counts that are kept elsewhere, at the moment of the request for them.
// No label has values that peers, or paths, could choose.
type collector struct{ page *Page }

// Describe implements [prometheus.Collector].
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descs() {
		ch <- d
	}
}

// descs returns all that a collector makes, by name.
func descs() map[string]*prometheus.Desc {
	out := map[string]*prometheus.Desc{}
	for _, d := range []struct {
		name, help string
		labels     []string
	}{
		{"build_info", "1, with the versions as labels.", []string{"version", "goversion"}},
		{"narinfo_total", "Questions of Nix for a path, by the answer.", []string{"result"}},
		{"nar_bytes_total", "Bytes of NARs: in to Nix, by where they came from; out to neighbours, from the store.",
			[]string{"direction", "source"}},
		{"nars_total", "NARs that Nix was given to their last byte.", nil},
		{"saved_bytes_total", "Bytes of NARs that did not come over the internet.", nil},
		{"internet_bytes_total", "Bytes of NARs that Nix fetched elsewhere after narbor had none: at least these.", nil},
		{"rejected_total", "What neighbours sent that was not believed.", []string{"reason"}},
		{"peers", "Neighbours, and peers that are banned, by how they were found.", []string{"state", "via"}},
		{"peer_bans_total", "Peers that were banned, by their last lie.", []string{"reason"}},
		{"discovery_packets_total", "Questions and announcements by multicast DNS.", []string{"kind", "result"}},
		{"verify_seconds", "How long NARs waited to be verified once they were here as a whole.", nil},
		{"spool_bytes", "Bytes on disk that wait for Nix.", nil},
		{"spool_max_bytes", "The most that may wait.", nil},
		{"network_changes_total", "Times that the interfaces that are used, or their addresses, have changed.", nil},
		{"upstreams", "Caches on the internet that are asked for what no neighbour has, by whether they answer.", []string{"state"}},
		{"upstream_wire_bytes_total", "Bytes of archives from upstreams, compressed as they were.", nil},
		{"downloaded_for_others_bytes_total", "Bytes of NARs that neighbours have asked to be downloaded from upstreams.", nil},
		{"proxies", "Neighbours that download for this machine.", nil},
		{"health", "1 for each thing that is not as it should be.", []string{"code", "severity"}},
		{"unverified_bytes_served_total", "Bytes given to Nix that were not verified: 0, for there is no way to do it.", nil},
	} {
		out[d.name] = prometheus.NewDesc("narbor_"+d.name, d.help, d.labels, nil)
	}
	return out
}

// Collect implements [prometheus.Collector].
func (c collector) Collect(ch chan<- prometheus.Metric) {
	of := descs()
	count := func(name string, n float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(of[name], prometheus.CounterValue, n, labels...)
	}
	gauge := func(name string, n float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(of[name], prometheus.GaugeValue, n, labels...)
	}
	facts, passed := c.page.facts(), c.page.accounts.SinceStart()
	gauge("build_info", 1, facts.Version, runtime.Version())
	for result, n := range passed.Answers {
		count("narinfo_total", float64(n), result)
	}
	for _, o := range store.Origins() {
		count("nar_bytes_total", float64(passed.Received[o]), "in", string(o))
	}
	count("nar_bytes_total", float64(passed.Sent), "out", string(store.FromStore))
	count("nars_total", float64(passed.NARs))
	count("saved_bytes_total", float64(passed.Saved()))
	count("internet_bytes_total", float64(passed.Received[store.FromInternet]+passed.ByNix))
	for reason, n := range facts.Rejected {
		count("rejected_total", float64(n), reason)
	}
	for via, n := range byVia(facts.Neighbours) {
		gauge("peers", float64(n), "connected", via)
	}
	gauge("peers", float64(len(facts.Banned)), "banned", "")
	for reason, n := range facts.Bans {
		count("peer_bans_total", float64(n), reason)
	}
	for kind, results := range facts.Discovery {
		for result, n := range results {
			count("discovery_packets_total", float64(n), kind, result)
		}
	}
	ch <- prometheus.MustNewConstSummary(of["verify_seconds"], uint64(facts.Spool.Verified), facts.Spool.VerifySeconds, nil)
	gauge("spool_bytes", float64(facts.Spool.Bytes))
	gauge("spool_max_bytes", float64(facts.Spool.MaxBytes))
	count("network_changes_total", float64(facts.Networks))
	c.collectUpstreams(facts, gauge, count)
	seen := map[string]bool{}
	for _, h := range facts.Health {
		if !seen[h.Code] {
			seen[h.Code] = true
			gauge("health", 1, h.Code, h.Severity)
		}
	}
	count("unverified_bytes_served_total", 0)
}

func (collector) collectUpstreams(facts Facts, gauge, count func(name string, n float64, labels ...string)) {
	var down, wire int64
	for _, u := range facts.Upstreams {
		wire += u.WireReceived
		if u.Down {
			down++
		}
	}
	gauge("upstreams", float64(int64(len(facts.Upstreams))-down), "up")
	gauge("upstreams", float64(down), "down")
	count("upstream_wire_bytes_total", float64(wire))
	count("downloaded_for_others_bytes_total", float64(facts.ForOthers))
	gauge("proxies", float64(facts.Proxies))
}

func byVia(neighbours []p2p.NeighbourStatus) map[string]int {
	out := map[string]int{}
	for _, n := range neighbours {
		out[n.Via]++
	}
	return out
}
