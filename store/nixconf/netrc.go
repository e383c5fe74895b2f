package nixconf

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"syscall"
)

// readNetrc reads the hosts of a file in the form that curl takes, which is what Nix gives it to.
func readNetrc(file string) Netrc {
	n := Netrc{File: file}
	if file == "" {
		return n
	}
	text, err := readConfText(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
	case err != nil:
		n.Err = err.Error()
		if inner := new(fs.PathError); errors.As(err, &inner) {
			n.Err = inner.Err.Error()
		}
	case len(text) > maxConfSize:
		n.Err = "it is too long"
	default:
		n.Hosts = netrcHosts(text)
	}
	return n
}

// netrcHosts returns the hosts that a netrc names. Of text that it does not understand it makes rather a host too many
// than one too few: the host of a cache with credentials must not be taken for one without.
func netrcHosts(text string) []string {
	var hosts []string
	next := ""
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for word := range strings.FieldsSeq(line) {
			word = strings.Trim(word, `"`)
			keyword := next
			next = ""
			switch {
			case keyword == "machine":
				hosts = append(hosts, strings.ToLower(strings.TrimSuffix(word, ".")))
			case keyword != "":
			case word == "default":
				hosts = append(hosts, "*")
			case word == "machine" || word == "login" || word == "password" || word == "account":
				next = word
			}
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}
