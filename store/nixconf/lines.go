package nixconf

import "slices"

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
