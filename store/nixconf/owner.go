package nixconf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"narbor/store"
)

// maxLinks bounds a chain of symbolic links, as the kernel does.
const maxLinks = 40

// Tools that make configuration files of Nix.
const (
	toolNixOS       = "NixOS"
	toolDarwin      = "nix-darwin"
	toolHome        = "Home Manager"
	toolDeterminate = "Determinate Nix"
)

// A ForeignFile is the reason why a file is not edited: another tool makes it, and would undo the change.
type ForeignFile struct {
	File, tool string
	instead    string // what to do, and in which file
}

func (e *ForeignFile) Error() string {
	return fmt.Sprintf("%s is made by %s: %s", e.File, e.tool, e.instead)
}

// A chain is a file and the symbolic links that lead to it.
type chain struct {
	end   string   // the file itself; it need not exist
	names []string // as they were followed, the first one included
}

// followLinks follows a file's symbolic links to their end. For root it refuses a link of another user to a file that
// is not that user's: it would make root write where the link's owner may not.
func followLinks(file string) (c chain, err error) {
	owners := map[string]uint32{}
	for range maxLinks {
		c.names = append(c.names, file)
		i := strings.LastIndexByte(file, '/')
		dir, err := filepath.EvalSymlinks(file[:i+1]) // as it stands: "x/.." is not "." where x is a link
		if errors.Is(err, fs.ErrNotExist) {           // it may be a link to a directory that is not there
			if dir = filepath.Clean(file[:i+1]); dir == "/" || dir == "." {
				return c, err
			}
			parent, err := followLinks(dir)
			c.names = append(c.names, parent.names...)
			c.end = filepath.Join(parent.end, file[i+1:])
			return c, err
		}
		if err != nil {
			return c, err
		}
		file = filepath.Join(dir, file[i+1:])
		st, err := os.Lstat(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return c, err
		}
		if err != nil || st.Mode()&fs.ModeSymlink == 0 {
			c.end = file
			return c, foreignLinks(owners, st)
		}
		if s, ok := st.Sys().(*syscall.Stat_t); ok {
			owners[file] = s.Uid
		}
		target, err := os.Readlink(file)
		if err != nil {
			return c, err
		}
		if !filepath.IsAbs(target) {
			target = dir + "/" + target
		}
		file = target
	}
	return c, fmt.Errorf("%s: too many symbolic links", c.names[0])
}

func foreignLinks(owners map[string]uint32, end fs.FileInfo) error {
	uid := uint32(0)
	if end != nil {
		if s, ok := end.Sys().(*syscall.Stat_t); ok {
			uid = s.Uid
		}
	}
	for link, owner := range owners {
		if os.Geteuid() == 0 && owner != 0 && owner != uid {
			return fmt.Errorf("%s is a link of user %d to a file of user %d: change the file itself", link, owner, uid)
		}
	}
	return nil
}

// inStore reports whether a file is in the Nix store, where each file stays as it was registered.
func inStore(file string) bool {
	dirs := []string{store.Dir}
	if real, err := filepath.EvalSymlinks(store.Dir); err == nil {
		dirs = append(dirs, real)
	}
	return slices.ContainsFunc(dirs, func(dir string) bool { return strings.HasPrefix(file, dir+"/") })
}

// OnNixOS reports whether this machine runs NixOS.
func OnNixOS() bool {
	_, err := os.Stat("/etc/NIXOS")
	return err == nil
}

// toolOfLinks names the tool that put a file into the store. It looks at the text of the file, the links to it, and the
// operating system.
func (c chain) toolOfLinks(text string) string {
	if tool, _ := toolOfText(text); tool != "" && tool != toolDeterminate {
		return tool
	}
	all := strings.Join(append(c.names, c.end), "\n")
	switch {
	case strings.Contains(all, "home-manager"):
		return toolHome
	case strings.Contains(all, "system-manager"):
		return "system-manager"
	case OnNixOS():
		return toolNixOS
	case runtime.GOOS == "darwin":
		return toolDarwin
	}
	return "the tool that linked it to " + c.end
}

// toolOfText returns the tool that owns a file by the comments in it, and the words that show so; "" is none.
func toolOfText(text string) (tool, words string) {
	var comments []string
	for line := range strings.Lines(text) {
		if _, comment, found := strings.Cut(line, "#"); found {
			comments = append(comments, strings.Join(strings.Fields(comment), " "))
		}
	}
	all := strings.ToLower(strings.Join(comments, " "))
	for _, known := range [][2]string{{"your nixos configuration", toolNixOS}, {"your nix-darwin configuration", toolDarwin},
		{"your home manager configuration", toolHome}} {
		if strings.Contains(all, known[0]) && strings.Contains(all, "generated from") {
			return known[1], known[0]
		}
	}
	for _, mark := range []string{"do not modify", "do not edit", "don't edit", "don't modify", "do not change", "will be replaced",
		"will be overwritten",
		"changes will be lost", "ansible managed", "managed by"} {
		for _, c := range comments {
			if !strings.Contains(strings.ToLower(c), mark) {
				continue
			}
			if strings.Contains(all, "determinate nix") {
				return toolDeterminate, c
			}
			return fmt.Sprintf("another tool (it says %.80q)", c), c
		}
	}
	return "", ""
}

// userPart returns the file that a file of Determinate Nix includes for what the user sets; "" is none.
func userPart(file, text string) string {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 2 && (words[0] == "!include" || words[0] == "include") && filepath.Base(words[1]) == "nix.custom.conf" {
			if filepath.IsAbs(words[1]) {
				return words[1]
			}
			return filepath.Join(filepath.Dir(file), words[1])
		}
	}
	return ""
}
