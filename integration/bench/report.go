package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
)

// A report is what one run of bench has found. Times are in seconds, and memory in bytes, unless a name says other.
type report struct {
	Date     string          `json:"date"`
	Machine  string          `json:"machine"`
	Corpus   string          `json:"corpus"`
	Paths    int             `json:"paths"`
	Bytes    int64           `json:"bytes"`
	Closures []closureResult `json:"closures"`
	Big      bigResult       `json:"big"`
	Miss     missResult      `json:"miss"`
	Idle     idleResult      `json:"idle"`
}

type closureResult struct {
	Mbit         int       `json:"mbit"` // 0 is not shaped
	Nginx        []float64 `json:"nginx"`
	Narbor       []float64 `json:"narbor"`
	SenderCPU    []float64 `json:"senderCPU"`
	ReceiverCPU  []float64 `json:"receiverCPU"`
	SenderPeak   int64     `json:"senderPeakRSS"`
	ReceiverPeak int64     `json:"receiverPeakRSS"`
}

type bigResult struct {
	Bytes        int64   `json:"bytes"`
	Seconds      float64 `json:"seconds"`
	SenderPeak   int64   `json:"senderPeakRSS"`
	ReceiverPeak int64   `json:"receiverPeakRSS"`
}

type missResult struct {
	Paths         int     `json:"paths"`
	NginxMs       float64 `json:"nginxMs"`       // wall time of Nix per path, all at once, from nginx next door
	NarborMs      float64 `json:"narborMs"`      // the same through narbor
	SingleMs      float64 `json:"singleMs"`      // median, one at a time
	SingleWorstMs float64 `json:"singleWorstMs"` // of 100
}

type idleResult struct {
	SharingRSS  int64 `json:"sharingRSS"`
	FetchingRSS int64 `json:"fetchingRSS"`
}

func (c closureResult) link() string {
	if c.Mbit == 0 {
		return "not shaped"
	}
	return fmt.Sprintf("%d Mbit/s", c.Mbit)
}

func (c closureResult) ratio() float64 { return median(c.Narbor) / median(c.Nginx) }

// markdown prints the report as two tables.
func (r report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s. Closure %q: %d paths, %d MB; medians (least–most).\n\n", r.Date, r.Machine, r.Corpus, r.Paths, r.Bytes/1e6)
	fmt.Fprintln(&b, "| link | nginx | narbor | ratio | limit | CPU sender / receiver | peak RSS sender / receiver |")
	fmt.Fprintln(&b, "|---|---|---|---|---|---|---|")
	for _, c := range r.Closures {
		limit := 2.0
		if c.Mbit > 0 {
			limit = 1.15
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %.2f | ≤ %.2f | %.1f / %.1f s | %s / %s |\n", c.link(), spread(c.Nginx), spread(c.Narbor), c.ratio(), limit,
			median(c.SenderCPU), median(c.ReceiverCPU), mib(c.SenderPeak), mib(c.ReceiverPeak))
	}
	fmt.Fprintln(&b, "\n| what | measured | limit |")
	fmt.Fprintln(&b, "|---|---|---|")
	fmt.Fprintf(&b, "| peak RSS while one archive of %s is fetched (%.1f s), sender / receiver | %s / %s | ≤ 128 MiB |\n",
		mib(r.Big.Bytes), r.Big.Seconds, mib(r.Big.SenderPeak), mib(r.Big.ReceiverPeak))
	fmt.Fprintf(&b, "| a miss with two neighbours, Nix asking for %d paths (nginx: %.2f ms) | %.2f ms | ≤ 5 ms |\n", r.Miss.Paths, r.Miss.NginxMs, r.Miss.NarborMs)
	fmt.Fprintf(&b, "| a miss with two neighbours, one at a time (worst of 100: %.1f ms) | %.2f ms | ≤ 5 ms |\n", r.Miss.SingleWorstMs, r.Miss.SingleMs)
	fmt.Fprintf(&b, "| idle RSS with two neighbours, sharing / fetching | %s / %s | ≤ 60 MiB |\n", mib(r.Idle.SharingRSS), mib(r.Idle.FetchingRSS))
	return b.String()
}

func spread(s []float64) string {
	return fmt.Sprintf("%.2f s (%.2f–%.2f)", median(s), slices.Min(s), worst(s))
}

func mib(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }

func worst(s []float64) float64 { return slices.Max(s) }

// median of an even number is the mean of the two in the middle.
func median(s []float64) float64 {
	s = slices.Sorted(slices.Values(s))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// machine describes this computer in a few words.
func machine(ctx context.Context) string {
	model := "unknown processor"
	cpu, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(cpu)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	nix, err := exec.CommandContext(ctx, "nix-store", "--version").Output()
	if err != nil {
		nix = []byte("no Nix")
	}
	return fmt.Sprintf("%d cores of %s, %s, %s", runtime.NumCPU(), model, strings.TrimSpace(string(nix)), runtime.Version())
}
