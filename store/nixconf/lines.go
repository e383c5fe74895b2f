package nixconf

import "slices"

// A Line says where in Nix's configuration files a value is given.
type Line struct {
	Setting  string // without "extra-"
	Value    string // one of a list's
	At       string // "file:line"
	UndoneBy string // "file:line" of a later line that replaces the whole setting; "" if this one is in force
}

// Lines returns where the configuration files give the values of a setting: substituters, trusted-public-keys,
// secret-key-files or require-sigs, in the order in which Nix reads them. It is what the files say at this moment, read
// as the user that this program runs as; a nix-daemon that runs has read them when it began.
func Lines(setting string) []Line {
	var out []Line
	for _, l := range readNixConf().lines {
		if l.Setting == setting {
			out = append(out, l)
		}
	}
	return out
}

// A Reset is a line that replaces a whole setting, with all that earlier lines say of it.
type Reset struct {
	At   string // "file:line"; "" if there is no such line
	File string // the file that is read by itself and is At's or includes that; NIX_CONFIG for the environment variable
}

// ResetBy returns the last line that replaces a setting of those that [Lines] knows: a line that is read
// before it has no effect on the setting.
func ResetBy(setting string) Reset { return readNixConf().reset[setting] }

// SystemFiles returns the configuration files that nix-daemon reads for all users, included ones as well, whether
// they are there or not.
func SystemFiles() []string {
	files, own := readNixConf().files, userConfFiles()
	if i := slices.IndexFunc(files, func(f string) bool { return slices.Contains(own, f) }); i >= 0 {
		files = files[:i]
	}
	return files
}

// note takes down the values of the line that is being read.
func (c *nixConf) note(setting string, values []string, extra bool) {
	if !extra {
		c.reset[setting] = Reset{At: c.at, File: c.top}
	}
	for i, l := range c.lines {
		if l.Setting == setting && l.UndoneBy == "" && !extra {
			c.lines[i].UndoneBy = c.at
		}
	}
	for _, v := range values {
		c.lines = append(c.lines, Line{Setting: setting, Value: v, At: c.at})
	}
}
