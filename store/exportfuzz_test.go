package store

import (
	"crypto/sha256"
	"path/filepath"
)

// ParseConf applies a configuration file with that text, which lies in dir, to Nix's defaults.
func ParseConf(text, dir string) (NixSettings, error) {
	c := nixConf{settings: defaultNixSettings(), sum: sha256.New(), reset: map[string]ConfReset{}, all: NixConf{}}
	err := c.parse(text, filepath.Join(dir, "nix.conf"))
	return c.settings, err
}
