package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
)

// A report is the results of one run of bench.
type report struct {
	Date    string   `json:"date"`
	Machine string   `json:"machine"`
	Commit  string   `json:"commit"`
	Runs    int      `json:"runs"`
	Rows    []row    `json:"rows"`
	Left    []string `json:"left,omitempty"`   // cases that were not selected
	Failed  []string `json:"failed,omitempty"` // cases that ended with an error
}

// A row is a figure and its limit. It is a ratio of two series' wall times if there is a rival.
type row struct {
	Case    string  `json:"case"`
	What    string  `json:"what"`
	Unit    string  `json:"unit,omitempty"` // "" is a ratio
	Value   float64 `json:"value"`
	Limit   float64 `json:"limit"`             // a negative one is none
	AtLeast bool    `json:"atLeast,omitempty"` // the limit is a lower bound
	Exact   bool    `json:"exact,omitempty"`   // other load does not change it
	Narbor  series  `json:"narbor,omitzero"`
	Rival   series  `json:"rival,omitzero"`
}

// A series is all turns of one rival.
type series struct {
	Name    string   `json:"name"`
	Samples []sample `json:"samples"`
}

func ratio(name, what string, narbor, rival series, limit float64) row {
	v := median(narbor.seconds()) / median(rival.seconds())
	return row{Case: name, What: what, Value: v, Limit: limit, Narbor: narbor, Rival: rival}
}

func value(name, what, unit string, v, limit float64) row {
	return row{Case: name, What: what, Unit: unit, Value: v, Limit: limit}
}

func atLeast(name, what, unit string, v, limit float64) row {
	r := value(name, what, unit, v, limit)
	r.AtLeast = true
	return r
}

func (r row) missed(by float64) bool {
	if r.Limit < 0 {
		return false
	}
	if r.AtLeast {
		return r.Value*by < r.Limit
	}
	if r.Limit == 0 && by >= crowdedly {
		return r.Value > 1 // once of six hosts or of 400 paths; it is shown as missed all the same
	}
	return r.Value > r.Limit*by
}

func (s series) of(f func(sample) float64) []float64 {
	var all []float64
	for _, t := range s.Samples {
		all = append(all, f(t))
	}
	return all
}

func (s series) seconds() []float64 { return s.of(func(t sample) float64 { return t.Seconds }) }

// out returns the median of the bytes that a host has sent.
func (s series) out(host string) float64 {
	return median(s.of(func(t sample) float64 { return float64(t.Wires[host].Out) }))
}

// peak returns the largest peak memory of a process.
func (s series) peak(proc string) int64 {
	return int64(slices.Max(s.of(func(t sample) float64 { return float64(t.Uses[proc].Peak) })))
}

// tolerance is the factor by which the row's limit may be missed before bench fails.
func (r row) tolerance() float64 {
	if r.Exact {
		return exactly
	}
	switch r.Case {
	case "four", "crowd", "busy", "slow", "unshaped", "rebuilds":
		return crowdedly
	}
	if r.Narbor.saturated() {
		return crowdedly
	}
	return grossly
}

// saturated reports whether the turns took most of what this machine's processors can do: then these limit it, not the
// links. On two processors a closure at 1 Gbit/s takes 70 to 90 percent, by the day.
func (s series) saturated() bool {
	return len(s.Samples) > 0 && median(s.of(func(t sample) float64 {
		cpu := 0.0
		for _, u := range t.Uses {
			cpu += u.CPU
		}
		return cpu / t.Seconds
	})) > 0.8*float64(runtime.NumCPU())
}

// verdict returns an error if a limit was missed by more than its tolerance, or a case could not be measured.
func (r report) verdict() error {
	var bad []string
	for _, row := range r.Rows {
		if row.missed(row.tolerance()) {
			bad = append(bad, fmt.Sprintf("%s: %s: %s, limit %s", row.Case, row.What, row.value(), row.limit()))
		}
	}
	for _, name := range r.Failed {
		bad = append(bad, name+" was not measured")
	}
	if bad == nil {
		return nil
	}
	return fmt.Errorf("limits missed by more than %.1f times, or %.1f where processors limit, or %.1f for bytes:\n\t%s",
		grossly, crowdedly, exactly, strings.Join(bad, "\n\t"))
}

func (r row) value() string { return figure(r.Value) + unit(r.Unit) }

func (r row) limit() string {
	if r.Limit < 0 {
		return "none"
	}
	if r.AtLeast {
		return "≥ " + figure(r.Limit) + unit(r.Unit)
	}
	return "≤ " + figure(r.Limit) + unit(r.Unit)
}

func figure(v float64) string {
	if v >= 10 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func unit(s string) string {
	if s == "" {
		return ""
	}
	return " " + s
}

func (r row) verdict() string {
	if r.missed(1) {
		return "**missed**"
	}
	return "met"
}

// markdown returns the report as tables of the figures and of the resource usage.
func (r report) markdown() string {
	var b strings.Builder
	fmt.Fprint(&b, "# Benchmark results\n\n"+
		"Made by `go run ./integration/bench -o integration/bench/RESULTS.md`; the package's comment explains the method.\n")
	fmt.Fprintf(&b, "%s, commit %s, %s. Medians; in brackets minimum, maximum and number of runs.\n\n", r.Date, r.Commit, r.Machine)
	fmt.Fprintln(&b, "| case | what | against | that takes | narbor takes | figure | limit | |")
	fmt.Fprintln(&b, "|---|---|---|---|---|---|---|---|")
	for _, row := range r.Rows {
		rival, taken := "–", "–"
		if row.Rival.Samples != nil {
			rival, taken = spread(row.Rival.seconds()), spread(row.Narbor.seconds())
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n",
			row.Case, row.What, row.Rival.Name, rival, taken, row.value(), row.limit(), row.verdict())
	}
	for _, name := range r.Left {
		fmt.Fprintf(&b, "| %s | not measured | | | | | | |\n", name)
	}
	for _, name := range r.Failed {
		fmt.Fprintf(&b, "| %s | not measured, or not wholly: an error | | | | | | |\n", name)
	}
	if !slices.ContainsFunc(r.Rows, func(row row) bool { return row.Rival.Samples != nil }) {
		return b.String()
	}
	fmt.Fprint(&b, "\nResources: processor time and peak memory of each process, bytes in and out on each host's wire.\n\n")
	fmt.Fprintln(&b, "| case | what | rival | processes | wires |")
	fmt.Fprintln(&b, "|---|---|---|---|---|")
	for i, row := range r.Rows {
		for _, s := range []series{row.Rival, row.Narbor} {
			if s.Samples == nil || i > 0 && s.Name == r.Rows[i-1].Narbor.Name && row.What == r.Rows[i-1].What {
				continue
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", row.Case, row.What, s.Name, s.processes(), s.wires())
		}
	}
	return b.String()
}

func (s series) processes() string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(s.Samples[0].Uses)) {
		cpu := median(s.of(func(t sample) float64 { return t.Uses[name].CPU }))
		all = append(all, fmt.Sprintf("%s %.1f s, %d MiB", name, cpu, s.peak(name)>>20))
	}
	return strings.Join(all, "; ")
}

func (s series) wires() string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(s.Samples[0].Wires)) {
		in := median(s.of(func(t sample) float64 { return float64(t.Wires[name].In) }))
		all = append(all, fmt.Sprintf("%s %.1f / %.1f MB", name, in/1e6, s.out(name)/1e6))
	}
	return strings.Join(all, "; ")
}

func spread(s []float64) string {
	if len(s) == 1 {
		return fmt.Sprintf("%.2f s [1]", s[0])
	}
	return fmt.Sprintf("%.2f s [%.2f–%.2f, %d]", median(s), slices.Min(s), slices.Max(s), len(s))
}

// median returns the median of s, which is the mean of the middle two if their number is even.
func median(s []float64) float64 {
	s = slices.Sorted(slices.Values(s))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// machine describes this computer briefly.
func machine(ctx context.Context) string {
	model := "unknown processor"
	cpu, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(cpu)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	nix, err := exec.CommandContext(ctx, "nix", "--version").Output() // nix-store would create a store
	if err != nil {
		nix = []byte("no Nix")
	}
	load, _ := os.ReadFile("/proc/loadavg")
	others, _, _ := strings.Cut(string(load), " ")
	return fmt.Sprintf("%d cores of %s (load by others at the start: %s), %s, %s", runtime.NumCPU(), model, others,
		strings.TrimSpace(string(nix)), runtime.Version())
}

func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
