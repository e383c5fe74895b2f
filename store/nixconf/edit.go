package nixconf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"narbor/store/statefile"
)

// maxConfText bounds a configuration file that is edited; Nix's own are a few kilobytes.
const maxConfText = 1 << 20

// An Edit is a change to one file of Nix's configuration: whole lines that go, and one that is added at the end.
type Edit struct {
	File    string // as Nix names it
	Line    string // "name = value", with a comment perhaps; "" adds nothing
	drop    func(line string, number int) bool
	setting string // the only one that the edit may change
	value   string // all that may come into its list or leave it; "" where it is no list
}

// AddTo returns the edit that gives a list of Nix's configuration one more value: name begins with "extra-". It goes
// into the file that is read last of those that decide on the list.
func AddTo(name, value, comment string) (Edit, error) {
	e := Edit{File: SystemFile(), Line: name + " = " + value + comment, setting: strings.TrimPrefix(name, "extra-"),
		value: value}
	reset := ResetBy(e.setting)
	switch reset.File {
	case "", e.File:
	case "NIX_CONFIG":
		return e, fmt.Errorf("the environment variable NIX_CONFIG replaces %s: add %s there", e.setting, value)
	default:
		e.File = reset.File
	}
	e.drop = func(line string, _ int) bool { return isLine(line, name, value) } // it would be there twice
	return e, nil
}

// Below returns the "file:line" of the line that replaces the whole list: an added line belongs below it. "" is none.
func (e Edit) Below() string { return ResetBy(e.setting).At }

// isLine reports whether a line gives a list that one value, and nothing else.
func isLine(line, name, value string) bool {
	line, _, _ = strings.Cut(line, "#")
	words := strings.Fields(line)
	return len(words) == 3 && words[0] == name && words[1] == "=" && words[2] == value
}

// Apply makes the change, and then compares the effective configuration with that before: if anything but the setting
// is another, or the line has no effect, the file gets its old text again. It returns the file that was written; "" if
// the change was there already.
func (e Edit) Apply(ctx context.Context) (string, error) {
	end, err := e.Target()
	if err != nil {
		return "", err
	}
	old, st, err := readConf(end)
	if err != nil {
		return "", err
	}
	text := e.edited(old)
	if text == old {
		return "", nil
	}
	before, err := effective(ctx, nil)
	if err != nil {
		return "", fmt.Errorf("nothing was changed, since Nix refuses its configuration as it is: %w", err)
	}
	if err := writeConf(end, text, st); err != nil {
		return "", fmt.Errorf("%w; the line for it is: %s", err, e.Line)
	}
	err = e.prove(ctx, before)
	if err == nil {
		return end, nil
	}
	back := e.undo(end, old, st)
	if back != nil {
		return end, fmt.Errorf("%w; and %s could not be put back: %w", err, end, back)
	}
	return "", fmt.Errorf("%s was put back as it was: %w", end, err)
}

// undo gives a file the text and the time that it had.
func (e Edit) undo(end, old string, st fs.FileInfo) error {
	if st == nil {
		return os.Remove(end)
	}
	now, err := os.Lstat(end)
	if err != nil {
		return err
	}
	if err := statefile.Rewrite(end, []byte(old), now); err != nil {
		return err
	}
	return os.Chtimes(end, st.ModTime(), st.ModTime())
}

// Target returns the file to write: the end of the chain of links, or the part of a foreign file that is the user's.
func (e Edit) Target() (string, error) {
	c, err := followLinks(e.File)
	if err != nil {
		return "", err
	}
	text, _, err := readConf(c.end)
	if inStore(c.end) {
		tool := c.toolOfLinks(text)
		return "", &ForeignFile{e.File, tool, e.instead(tool)}
	}
	if err != nil {
		return "", err
	}
	tool, _ := toolOfText(text)
	part := userPart(e.File, text)
	switch {
	case tool == "":
		return c.end, nil
	case tool == toolDeterminate && e.Line != "" && part != "" && part != e.File:
		e.File = part
		return e.Target()
	}
	return "", &ForeignFile{e.File, tool, e.instead(tool)}
}

// instead says what to do about a file of another tool's.
func (e Edit) instead(tool string) string {
	line, _, _ := strings.Cut(e.Line, " #")
	name, value, _ := strings.Cut(line, " = ")
	attribute := fmt.Sprintf("set nix.settings.%s = [ %q ];", name, value)
	if e.Line == "" {
		attribute = "change nix.settings." + e.setting
		line = ""
	}
	switch tool {
	case toolNixOS:
		if e.setting == "substituters" && e.Line != "" {
			attribute = "set services.narbor.configureNix = true;"
		}
		return attribute + " in configuration.nix, and run nixos-rebuild switch"
	case toolDarwin:
		return attribute + " in nix-darwin's configuration, and run darwin-rebuild switch"
	case toolHome:
		return attribute + " in home.nix, and run home-manager switch"
	case toolDeterminate:
		if line == "" {
			return "take the line out by hand, and put your own settings into nix.custom.conf"
		}
		return fmt.Sprintf("let it include nix.custom.conf again, and write there: %s", line)
	}
	if line == "" {
		return "change " + e.setting + " in what it makes the file from"
	}
	return "add this line to what it makes the file from: " + line
}

// readConf reads a file that may not exist: then st is nil.
func readConf(file string) (text string, st fs.FileInfo, err error) {
	b, st, err := statefile.ReadText(file, maxConfText)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, nil
	}
	return string(b), st, err
}

// writeConf gives a file that [readConf] has read another text.
func writeConf(file, text string, st fs.FileInfo) error {
	if st != nil {
		return statefile.Rewrite(file, []byte(text), st)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return statefile.Replace(file, []byte(text), 0o644)
}

// edited returns the text after the change. Lines stay as they are, and end as they did.
func (e Edit) edited(old string) string {
	feed := "\n"
	if strings.Contains(old, "\r\n") {
		feed = "\r\n"
	}
	var text strings.Builder
	number := 0
	last := ""
	for line := range strings.Lines(old) {
		number++
		if e.drop == nil || !e.drop(line, number) {
			text.WriteString(line)
			last = line
		}
	}
	if e.Line == "" {
		return text.String()
	}
	if last != "" && !strings.HasSuffix(last, "\n") {
		text.WriteString(feed)
	}
	return text.String() + e.Line + feed
}

// An effect is Nix's configuration as this program reads it, and as nix says it, if there is a nix.
type effect struct {
	files, nix allSettings
	command    []string // of nix, that said the latter
}

// effective reads the configuration; nix is asked by the command that was, if there is one.
func effective(ctx context.Context, command []string) (now effect, err error) {
	if now.files, err = readFiles(); err != nil {
		return now, err
	}
	now.nix, now.command, _ = showAll(ctx, command) // without it, what the files say is all there is
	return now, ctx.Err()
}

// prove fails unless the edit has had its intended effect, and no other.
func (e Edit) prove(ctx context.Context, before effect) error {
	after, err := effective(ctx, before.command)
	switch {
	case err != nil:
		return err
	case before.nix != nil && after.nix == nil:
		return errors.New("with the change, nix refuses its configuration")
	}
	if err := e.compare(before.files, after.files); err != nil || before.nix == nil {
		return err
	}
	return e.compare(before.nix, after.nix)
}

// compare returns an error if another setting has changed, or this one in another way than intended.
func (e Edit) compare(before, after allSettings) error {
	names := slices.Collect(maps.Keys(before))
	names = slices.AppendSeq(names, maps.Keys(after))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		was, is := before[name], after[name]
		if name == e.setting {
			was, is = without(was, e.value), without(is, e.value)
		}
		if (name != e.setting || e.value != "") && !slices.Equal(was, is) {
			return fmt.Errorf("it would change %s from %q to %q", name, strings.Join(was, " "), strings.Join(is, " "))
		}
	}
	if e.Line != "" && len(without(after[e.setting], e.value)) == len(after[e.setting]) {
		return fmt.Errorf("the line has no effect on %s: %s undoes it", e.setting, ResetBy(e.setting).At)
	}
	return nil
}

// without returns a list without a value; nix may print a URL with a slash at its end.
func without(list []string, value string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(v string) bool { return v == value || v == value+"/" })
}

// RemoveSubstituters returns the edits that take substituters which lead to one of the URLs out of the files of Nix's
// configuration: lines that name something else stay.
func RemoveSubstituters(urls []string) (edits []Edit) {
	for _, l := range Lines("substituters") {
		file := l.At[:max(strings.LastIndexByte(l.At, ':'), 0)]
		if !LeadsTo(urls, l.Value) || !filepath.IsAbs(file) ||
			slices.ContainsFunc(edits, func(e Edit) bool { return e.File == file && e.value == l.Value }) {
			continue
		}
		edits = append(edits, Edit{File: file, setting: "substituters", value: l.Value,
			drop: func(line string, _ int) bool { return isLine(line, "extra-substituters", l.Value) }})
	}
	return edits
}

// RemoveFrom returns the edits that take a value out of a list, such as trusted-public-keys, in the files of Nix's
// configuration: lines that give more than that value stay.
func RemoveFrom(setting, value string) (edits []Edit) {
	for _, l := range Lines(setting) {
		file := l.At[:max(strings.LastIndexByte(l.At, ':'), 0)]
		if l.Value != value || !filepath.IsAbs(file) || slices.ContainsFunc(edits, func(e Edit) bool { return e.File == file }) {
			continue
		}
		edits = append(edits, Edit{File: file, setting: setting, value: value,
			drop: func(line string, _ int) bool { return isLine(line, "extra-"+setting, value) }})
	}
	return edits
}

// RemoveLine returns the edit that takes one line out of a file; sets is false if that line does not set the setting.
func RemoveLine(file string, number int, setting string) (e Edit, sets bool, err error) {
	text, _, err := readConf(file)
	if err != nil {
		return e, false, err
	}
	lines := strings.Split(text, "\n")
	if number < 1 || number > len(lines) {
		return e, false, nil
	}
	words := strings.Fields(lines[number-1])
	return Edit{File: file, setting: setting, drop: func(_ string, n int) bool { return n == number }},
		len(words) >= 3 && words[0] == setting, nil
}
