package nixstore_test

import (
	"testing"

	"narbor/store"
)

// The answers are what Nix 2.8, 2.26 and 2.34 say of such paths; TestSourcesAreForTheGroup asks them.
func TestFetchedSourcesAreTold(t *testing.T) {
	const (
		flat, recursive = "fixed:sha256:x", "fixed:r:sha256:x"
		named           = "/nix/store/syd87l2rxw8cbsxmxl853h0r6pdwhwjr-curl"
		source          = "/nix/store/syd87l2rxw8cbsxmxl853h0r6pdwhwjr-source"
		drv             = "/nix/store/6w8g7njm4mck5dmjxws0z1xnrxvl81xa-x.drv"
	)
	for name, c := range map[string]struct {
		path, deriver, ca string
		refs              []string
		ultimate          bool
		derivers          []string // nil is an error
		want              bool
	}{
		"fixed output":                         {named, drv, recursive, nil, true, []string{drv}, true},
		"fixed output from a substituter":      {named, "", recursive, nil, false, []string{drv}, true},
		"content-addressed build":              {source, drv, recursive, nil, true, []string{}, false},
		"content-addressed build of a file":    {source, drv, flat, nil, true, []string{}, false},
		"the same from another machine":        {source, drv, recursive, nil, false, []string{}, false},
		"tree that is fetched":                 {source, "", recursive, nil, false, nil, true},
		"file that is fetched":                 {named, "", flat, nil, false, nil, true},
		"local directory":                      {named, "", recursive, nil, false, []string{}, false},
		"local directory, and an old daemon":   {named, "", recursive, nil, false, nil, false},
		"local directory by git's hash":        {named, "", "fixed:git:sha1:x", nil, false, []string{}, false},
		"tree with references":                 {source, "", recursive, []string{pathLibc}, false, []string{drv}, false},
		"text":                                 {source, "", "text:sha256:x", nil, false, []string{drv}, false},
		"build with the signature of a server": {source, drv, "", nil, true, []string{drv}, false},
	} {
		d := newTwin()
		ultimate := 0
		if c.ultimate {
			ultimate = 1
		}
		d.answers[29] = frames(msgLast, c.path)
		if c.refs == nil {
			c.refs = []string{}
		}
		d.answers[26] = frames(msgLast, 1, c.deriver, hexHash, c.refs, 1, 196040, ultimate, []string{}, c.ca)
		d.answers[33] = frames(msgError, "Error", 0, "x", "no such operation", 0, 0)
		if c.derivers != nil {
			d.answers[33] = frames(msgLast, c.derivers)
		}
		if info, err := openTwin(t, d).Info(t.Context(), store.HashPart(hpCurl)); err != nil || info.Fetched != c.want {
			t.Errorf("%s: Fetched = %t, %v, want %t", name, info.Fetched, err, c.want)
		}
	}
}
