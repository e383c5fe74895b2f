package integration_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

const optionsFile = "nixos/OPTIONS.md"

var updateOptions = flag.Bool("update-options", false, "write "+optionsFile+" anew")

// An option as NixOS's own manual would show it.
type moduleOption struct {
	Name        string         `json:"name"`
	Description string         `json:"description"`
	Values      map[string]any `json:"values"` // default and example, as far as it has them
}

func TestOptionsOfTheModuleAreDocumented(t *testing.T) {
	var options []moduleOption
	text, err := json.Marshal(newFlake(t).evaluate(t, enabled)[0].at("documented"))
	if err == nil {
		err = json.Unmarshal(text, &options)
	}
	if err != nil || len(options) < 20 {
		t.Fatalf("%d options, %v", len(options), err)
	}
	var b strings.Builder
	b.WriteString("# Options of the NixOS module\n\n" +
		"Made from the module by `go test ./integration -run OptionsOfTheModule -update-options`. " +
		"The flags that\n`services.narbor.settings` takes are listed by `narbor run --help`.\n")
	for _, o := range options {
		fmt.Fprintf(&b, "\n## `%s`\n\n%s\n", o.Name, strings.TrimSpace(strings.ReplaceAll(o.Description, "{option}", "")))
		for _, name := range []string{"default", "example"} {
			if v, ok := o.Values[name]; ok {
				fmt.Fprintf(&b, "\n%s: `%s`\n", strings.ToUpper(name[:1])+name[1:], inNix(v))
			}
		}
	}
	if *updateOptions {
		if err := os.WriteFile(optionsFile, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(optionsFile); err != nil || string(have) != b.String() {
		t.Errorf("%s is not what the module has (%v): go test ./integration -run %s -update-options", optionsFile, err, t.Name())
	}
}

// inNix writes a value from JSON in the Nix language.
func inNix(v any) string {
	switch v := v.(type) {
	case []any:
		words := []string{"["}
		for _, e := range v {
			words = append(words, inNix(e))
		}
		return strings.Join(append(words, "]"), " ")
	case map[string]any:
		words := []string{"{"}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			words = append(words, name+" = "+inNix(v[name])+";")
		}
		return strings.Join(append(words, "}"), " ")
	case string:
		return fmt.Sprintf("%q", v)
	case nil:
		return "null"
	}
	return fmt.Sprint(v)
}
