package peers

import (
	"errors"
	"strings"
)

// MaxName bounds the name of a machine: it is that of a label of DNS.
const MaxName = 63

var errName = errors.New("is not a name of 1 to 63 letters, digits, hyphens and full stops, with a letter or digit at both ends")

// CheckName returns an error unless a machine may have this name. Such a name is harmless on a terminal and on a web
// page.
func CheckName(name string) error {
	const ends = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	if name == "" || len(name) > MaxName || strings.Trim(name, ends+"-.") != "" ||
		!strings.Contains(ends, name[:1]) || !strings.Contains(ends, name[len(name)-1:]) {
		return errName
	}
	return nil
}

// Name returns the name that the peer has told; "" is none. It is not verified: any peer may take any name.
func (t *Tally) Name() string {
	if name := t.name.Load(); name != nil {
		return *name
	}
	return ""
}

// SetName keeps a name that [CheckName] accepts, and in place of any other one none.
func (t *Tally) SetName(name string) {
	if CheckName(name) != nil {
		name = ""
	}
	t.name.Store(&name)
}
