// Package nixconf reads and edits the configuration of this machine's Nix: the settings that narbor goes by ([Read]), where
// in which file each value is given ([Lines]), the hosts of which Nix has credentials ([Netrc]), and changes ([Edit]).
//
// What nix itself prints comes first; its configuration files are read where nix cannot be run. [Watch] calls back when
// the settings have changed. Only [Edit.Apply] writes a file. It refuses the files of other tools, and puts a file back if
// any other setting has changed by the edit. The package keeps no state, and starts no goroutine that outlives the context
// of a call; all functions may be called concurrently, but edits one after another.
package nixconf

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
)

const (
	// nixSettingsTimeout bounds one run of nix, which takes 30–100 ms.
	nixSettingsTimeout = 10 * time.Second
	// maxNixSettings bounds what nix prints, which is about 60 KB.
	maxNixSettings = 4 << 20
	// nixSettingsPoll is how often the configuration files are checked where the kernel does not report changes, and
	// nixSettingsRest where it does: a file may be on another machine's disk. After adding a key, a user has to restart
	// nix-daemon, too, and waits for both.
	nixSettingsPoll, nixSettingsRest = 10 * time.Second, time.Minute
	// nixSettingsQuiet is how long to wait for more changes after one: a program may write a file in steps.
	nixSettingsQuiet = 100 * time.Millisecond
)

// Read returns the effective configuration of this machine's Nix: what nix itself says, or what the
// configuration files say where there is no nix to ask, or Nix's defaults where there are no files either. A file that
// may not be read is no error but one of Unread; Nix, too, goes on without it. With an error, which Nix would report as
// well, the settings are those of the lines that could be understood.
func Read(ctx context.Context) (Settings, error) {
	conf := readNixConf()
	nix, err := exec.LookPath("nix")
	if err == nil {
		s, err := askNix(ctx, nix)
		if ctx.Err() != nil {
			return s, err
		}
		if err == nil {
			s.Unread, s.Netrc = conf.settings.Unread, readNetrc(s.Netrc.File)
			return s, nil
		}
	}
	return conf.settings, conf.err
}

// askNix runs the first of the commands that this version of Nix has.
func askNix(ctx context.Context, nix string) (s Settings, err error) {
	const feature = "--extra-experimental-features"
	for _, args := range [][]string{
		{"config", "show", "--json", feature, "nix-command"}, // since 2.20
		{"show-config", "--json", feature, "nix-command"},    // since 2.4
		{"show-config", "--json"},                            // since 2.0
	} {
		if s, err = runNix(ctx, nix, args); err == nil {
			s.Origin = "nix " + strings.Join(args[:slices.Index(args, "--json")], " ")
			break
		}
	}
	return s, err
}

func runNix(ctx context.Context, nix string, args []string) (Settings, error) {
	ctx, cancel := context.WithTimeout(ctx, nixSettingsTimeout)
	defer cancel()
	values, err := showNix(ctx, nix, args)
	if err != nil {
		return Settings{}, err
	}
	var s Settings
	for name, dst := range map[string]any{
		"trusted-public-keys": &s.TrustedPublicKeys,
		"substituters":        &s.Substituters,
		"require-sigs":        &s.RequireSigs,
	} {
		if err := json.Unmarshal(values[name].Value, dst); err != nil {
			return Settings{}, fmt.Errorf("nix %s: %s: %w", args[0], name, err)
		}
	}
	seconds := uint64(defaultStalled / time.Second)
	if shown := values["stalled-download-timeout"].Value; shown != nil {
		if err := json.Unmarshal(shown, &seconds); err != nil {
			return Settings{}, fmt.Errorf("nix %s: stalled-download-timeout: %w", args[0], err)
		}
	}
	s.StalledTimeout = stalledTimeout(seconds)
	var features []string
	_ = json.Unmarshal(values["experimental-features"].Value, &features) // without them it is off
	s.GitHashing = slices.Contains(features, gitHashing)
	if err := json.Unmarshal(values["netrc-file"].Value, &s.Netrc.File); err != nil {
		s.Netrc.File = filepath.Join(nixConfDir(), "netrc")
	}
	return s, nil
}

// A shownSetting is what nix says of one setting.
type shownSetting struct{ Value json.RawMessage }

// showNix runs a command of nix that prints every setting.
func showNix(ctx context.Context, nix string, args []string) (values map[string]shownSetting, err error) {
	var out capped
	cmd := exec.CommandContext(ctx, nix, args...)
	cmd.Stdout, cmd.WaitDelay = &out, time.Second
	if err := cmd.Run(); err != nil {
		return nil, cmp.Or(ctx.Err(), err)
	}
	return values, json.Unmarshal(out, &values)
}

// A capped collects what a program prints, and fails when that is more than maxNixSettings.
type capped []byte

func (c *capped) Write(p []byte) (int, error) {
	if len(*c)+len(p) > maxNixSettings {
		return 0, errors.New("prints too much")
	}
	*c = append(*c, p...)
	return len(p), nil
}

// Watch calls changed each time that the configuration files have changed and the settings with them,
// or cannot be read since. It returns the context's error when that ends.
func Watch(ctx context.Context, changed func(Settings, error)) error {
	return watchWith(ctx, watchFiles, changed)
}

// watchWith is told by watch, which is [watchFiles] or does as that does, when there may be something to read.
func watchWith(ctx context.Context, watch func(context.Context, []string) <-chan struct{}, changed func(Settings, error)) error {
	start := time.Now()
	seen := readNixConf()
	last, lastErr := Read(ctx)
	for {
		awaitConf(ctx, watch, start, seen)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		now := readNixConf()
		if now.digest == seen.digest {
			continue
		}
		s, err := Read(ctx)
		if ctx.Err() != nil {
			continue
		}
		seen = now
		last.Origin = s.Origin // another file that says nothing new is no change
		if !reflect.DeepEqual(s, last) || (err == nil) != (lastErr == nil) {
			changed(s, err)
		}
		last, lastErr = s, err
	}
}

// awaitConf returns when the configuration files may be others than those that were seen, or ctx has ended. It looks at
// whole intervals after a moment: when others do with which it wakes this machine up.
func awaitConf(ctx context.Context, watch func(context.Context, []string) <-chan struct{}, start time.Time, seen nixConf) {
	watching, stop := context.WithCancel(ctx)
	told, every := watch(watching, seen.files), nixSettingsRest
	defer func() {
		stop()
		if told != nil {
			<-told
		}
	}()
	if told == nil {
		every = nixSettingsPoll
	}
	if readNixConf().digest != seen.digest { // before it was watched
		return
	}
	look := time.NewTimer(every - time.Since(start)%every)
	defer look.Stop()
	select {
	case <-ctx.Done():
	case <-look.C:
	case <-told:
		look.Reset(nixSettingsQuiet)
		select {
		case <-ctx.Done():
		case <-look.C:
		}
	}
}
