package nixconf

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// maxConfFiles bounds the files read in all, a file included twice counted twice.
const maxConfFiles = 256

// A nixConf is what the configuration files say, read as Nix does: line by line, the later line wins, "#" begins a
// comment, settings that begin with "extra-" append to a list.
type nixConf struct {
	settings Settings
	digest   string // of everything read: it changes if and only if any of the files does
	err      error  // of the first file that Nix would refuse

	sum   hash.Hash
	files []string // those that were looked for
	found []string
	top   string // the file that includes the one that is being read, or is that one
	at    string // "file:line" of the line that is being read
	lines []Line // of lists, and require-sigs
	reset map[string]Reset
	all   allSettings
}

// readNixConf reads the system's file, the user's own files, and the environment variable NIX_CONFIG.
func readNixConf() nixConf {
	c := nixConf{settings: defaultNixSettings(), sum: sha256.New(), reset: map[string]Reset{}, all: allSettings{}}
	files := userConfFiles()
	slices.Reverse(files)
	for _, file := range append([]string{SystemFile()}, files...) {
		c.top = file
		c.keep(c.readFile(file))
		c.at = ""
	}
	if text, ok := os.LookupEnv("NIX_CONFIG"); ok {
		c.top = "NIX_CONFIG"
		c.found = append(c.found, "NIX_CONFIG")
		c.keep(c.parse(text, "NIX_CONFIG"))
	}
	if len(c.found) > 0 {
		c.settings.Origin = strings.Join(c.found, ", ")
	}
	c.settings.Netrc = readNetrc(c.settings.Netrc.File)
	c.files = append(c.files, c.settings.Netrc.File)
	fmt.Fprintf(c.sum, "%q ", c.settings.Netrc)
	c.digest = string(c.sum.Sum(nil))
	return c
}

// SystemFile returns the name of the configuration file that all users of this machine have in common.
func SystemFile() string { return filepath.Join(nixConfDir(), "nix.conf") }

func (c *nixConf) keep(err error) { c.err = cmp.Or(c.err, err) }

// userConfFiles returns the files of the user that we run as, those that win first.
func userConfFiles() []string {
	if files, ok := os.LookupEnv("NIX_USER_CONF_FILES"); ok {
		return splitColons(files)
	}
	var dirs []string
	if home := os.Getenv("XDG_CONFIG_HOME"); home != "" {
		dirs = append(dirs, home)
	} else if home, err := os.UserHomeDir(); err == nil {
		dirs = append(dirs, filepath.Join(home, ".config"))
	}
	system, ok := os.LookupEnv("XDG_CONFIG_DIRS")
	if !ok {
		system = "/etc/xdg"
	}
	files := make([]string, 0, 4)
	for _, dir := range append(dirs, splitColons(system)...) {
		files = append(files, filepath.Join(dir, "nix", "nix.conf"))
	}
	return files
}

func splitColons(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ':' })
}

// readFile applies a file. One that is not there says nothing, and one that may not be read is taken note of: Nix, too,
// goes on without it, but a Nix that runs as another user may be able to read it.
func (c *nixConf) readFile(path string) error {
	if c.files = append(c.files, path); len(c.files) > maxConfFiles {
		return fmt.Errorf("%s: too many files are included, or in a circle", path)
	}
	fmt.Fprintf(c.sum, "%q ", path)
	text, err := readConfText(path)
	if err != nil {
		c.leaveUnread(path, err)
		return nil
	}
	fmt.Fprintf(c.sum, "%q ", text)
	if len(text) > maxConfSize {
		return fmt.Errorf("%s: longer than %d bytes", path, maxConfSize)
	}
	c.found = append(c.found, path)
	return c.parse(text, path)
}

// leaveUnread records a file that cannot be read, unless there is none.
func (c *nixConf) leaveUnread(path string, err error) {
	fmt.Fprintf(c.sum, "- %v ", err)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return
	}
	why := err.Error()
	if inner := new(fs.PathError); errors.As(err, &inner) {
		why = inner.Err.Error()
	}
	c.settings.Unread = append(c.settings.Unread, Unread{File: path, Why: why, At: c.at})
}

// parse applies the lines of text, which comes from path.
func (c *nixConf) parse(text, path string) error {
	n := 0
	for line := range strings.Lines(text) {
		n++
		c.at = path + ":" + strconv.Itoa(n)
		line, _, _ = strings.Cut(line, "#")
		words := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\n\r", r) })
		if len(words) == 0 {
			continue
		}
		var err error
		switch {
		case words[0] == "include" || words[0] == "!include":
			err = c.include(words, path)
		case len(words) < 2 || words[1] != "=":
			err = fmt.Errorf("%s: illegal line %.80q", path, line)
		default:
			c.all.apply(words[0], words[2:])
			err = c.set(words[0], words[2:], path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *nixConf) include(words []string, path string) error {
	if len(words) != 2 {
		return fmt.Errorf("%s: illegal line %.80q", path, strings.Join(words, " "))
	}
	file := words[1]
	if !filepath.IsAbs(file) {
		file = filepath.Join(filepath.Dir(path), file)
	}
	if !filepath.IsAbs(file) {
		return fmt.Errorf("%s: %s is not an absolute path", path, words[1])
	}
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) && words[0] == "include" {
		fmt.Fprintf(c.sum, "%q - ", file)
		return fmt.Errorf("%s includes %s, which is not there", c.at, file)
	}
	at := c.at
	err := c.readFile(file)
	c.at = at
	return err
}

func (c *nixConf) set(name string, words []string, path string) error {
	name, extra := strings.CutPrefix(name, "extra-")
	var list *[]string
	switch name {
	case "trusted-public-keys", "binary-cache-public-keys":
		list = &c.settings.TrustedPublicKeys
	case "substituters", "binary-caches":
		list = &c.settings.Substituters
	case "secret-key-files":
		list = new([]string) // its lines are kept, and no file is opened
	case "netrc-file":
		if !extra {
			c.settings.Netrc.File = strings.Join(words, " ")
		}
		return nil
	case "require-sigs":
		if extra {
			return nil // unknown, which Nix tells with a warning
		}
		return c.setRequireSigs(strings.Join(words, " "), path)
	case "experimental-features":
		c.settings.GitHashing = extra && c.settings.GitHashing || slices.Contains(words, gitHashing)
		return nil
	case "stalled-download-timeout":
		if extra {
			return nil
		}
		return c.setStalled(strings.Join(words, " "), path)
	default:
		return nil
	}
	c.note(newName(name), words, extra)
	if !extra {
		*list = nil
	}
	*list = append(slices.Clone(*list), words...)
	return nil
}

func (c *nixConf) setRequireSigs(value, path string) error {
	c.note("require-sigs", []string{value}, false)
	switch value {
	case "true", "yes", "1":
		c.settings.RequireSigs = true
	case "false", "no", "0":
		c.settings.RequireSigs = false
	default:
		return fmt.Errorf("%s: require-sigs = %.80q is neither true nor false", path, value)
	}
	return nil
}

func (c *nixConf) setStalled(value, path string) error {
	seconds, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return fmt.Errorf("%s: stalled-download-timeout = %.80q is no number of seconds", path, value)
	}
	c.settings.StalledTimeout = stalledTimeout(seconds)
	return nil
}

// gitHashing is an experimental feature of Nix: content addresses of git's.
const gitHashing = "git-hashing"

// A Line says where in Nix's configuration files a value is given.
type Line struct {
	Setting  string // without "extra-"
	Value    string // one of a list's
	At       string // "file:line"
	UndoneBy string // "file:line" of a later line that replaces the whole setting; "" if this one is in force
}

// A Reset is a line that replaces a whole setting, with all that earlier lines say of it.
type Reset struct {
	At   string // "file:line"; "" if there is no such line
	File string // the file that is read by itself and is At's or includes that; NIX_CONFIG for the environment variable
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
