package integration_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The dashboard shows metrics that there are, and all that there are.
func TestGrafanaNamesMetricsThatExist(t *testing.T) {
	text, err := os.ReadFile("grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil || len(dashboard.Panels) < 10 {
		t.Fatalf("%d panels, %v", len(dashboard.Panels), err)
	}
	facts := freshFacts(time.Now())
	facts.Neighbours, facts.Rejected = busyFacts().Neighbours, map[string]int64{"malformed": 0}
	facts.Bans, facts.Discovery = facts.Rejected, map[string]map[string]int64{"question": {"sent": 1}}
	page := showPage(t, nil, facts)
	resp, err := http.Get(page.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	metrics, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	series := regexp.MustCompile(`(?m)^(\w+)(\{.*\})? `)
	there := map[string]string{} // name to labels
	for _, m := range series.FindAllStringSubmatch(string(metrics), -1) {
		there[m[1]] += m[2]
	}
	named := map[string]bool{}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			for _, m := range regexp.MustCompile(`(\w+)\{([^}]*)\}`).FindAllStringSubmatch(target.Expr, -1) {
				named[m[1]] = true
				if _, ok := there[m[1]]; !ok {
					t.Errorf("%s: there is no metric %s", p.Title, m[1])
				}
				for _, l := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllString(m[2], -1) {
					if !strings.Contains(there[m[1]], l) {
						t.Errorf("%s: %s has no %s", p.Title, m[1], l)
					}
				}
			}
			for _, by := range regexp.MustCompile(`by \(([^)]*)\) \([^{]*?(narbor_\w+)\{`).FindAllStringSubmatch(target.Expr, -1) {
				for _, label := range strings.Split(by[1], ", ") {
					if !slices.Contains([]string{"instance", "job"}, label) && !strings.Contains(there[by[2]], label+`="`) {
						t.Errorf("%s: %s has no label %s", p.Title, by[2], label)
					}
				}
			}
		}
	}
	for name := range there {
		if base := strings.TrimSuffix(strings.TrimSuffix(name, "_sum"), "_count"); strings.HasPrefix(name, "narbor_") && !named[name] &&
			!named[base+"_bucket"] {
			t.Errorf("no panel shows %s", name)
		}
	}
}
