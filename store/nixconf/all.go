package nixconf

import (
	"context"
	"encoding/json"
	"os/exec"
	"time"
)

// readFiles returns all that the configuration files say, as this program reads them. The error is that of the
// first file which Nix would refuse.
func readFiles() (allSettings, error) {
	conf := readNixConf()
	return conf.all, conf.err
}

// showNixTimeout bounds a run of nix that a change of its configuration waits for: on a busy machine it takes seconds.
const showNixTimeout = time.Minute

// showAll returns the effective configuration as nix itself says it, defaults included, and the command that said
// it. Two commands may differ in their output, so a second call may name the command of the first; nil tries the
// commands that versions of Nix have. It fails where there is no nix, or nix refuses the configuration.
func showAll(ctx context.Context, command []string) (allSettings, []string, error) {
	nix, err := exec.LookPath("nix")
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, showNixTimeout)
	defer cancel()
	var values map[string]shownSetting
	const feature = "--extra-experimental-features"
	commands := [][]string{
		{"config", "show", "--json"}, // first without the feature, which would hide that the configuration lost it
		{"show-config", "--json"},
		{"config", "show", "--json", feature, "nix-command"},
		{"show-config", "--json", feature, "nix-command"},
	}
	if command != nil {
		commands = [][]string{command}
	}
	for _, command = range commands {
		if values, err = showNix(ctx, nix, command); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return nil, nil, err
	}
	conf := allSettings{}
	for name, v := range values {
		conf[name] = elements(v.Value)
	}
	return conf, command, nil
}

// elements returns the strings of a list, or the text of any other value.
func elements(value json.RawMessage) []string {
	var list []json.RawMessage
	if json.Unmarshal(value, &list) != nil {
		list = []json.RawMessage{value}
	}
	out := []string{}
	for _, v := range list {
		s := string(v)
		_ = json.Unmarshal(v, &s) // Nix 2.8 says experimental features as numbers, which stay as they are
		out = append(out, s)
	}
	return out
}
