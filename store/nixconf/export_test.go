package nixconf

import (
	"context"
	"crypto/sha256"
	"path/filepath"
)

// ParseConf applies a configuration file with that text, which lies in dir, to Nix's defaults.
func ParseConf(text, dir string) (Settings, error) {
	c := nixConf{settings: defaultNixSettings(), sum: sha256.New(), reset: map[string]Reset{}, all: allSettings{}}
	err := c.parse(text, filepath.Join(dir, "nix.conf"))
	return c.settings, err
}

// AskNix asks the nix that is installed, and does not fall back to reading the files.
func AskNix(ctx context.Context) (Settings, error) {
	return runNix(ctx, "nix", []string{"show-config", "--json", "--extra-experimental-features", "nix-command"})
}

// AllSettings, ReadFiles and ShowAll are what edits compare.
type AllSettings = allSettings

var (
	ReadFiles = readFiles
	ShowAll   = showAll
)
