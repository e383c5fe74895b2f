package main

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/urfave/cli/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"
	"go.uber.org/zap/zapcore"

	"narbor/cmd/narbor/exit"
)

// libp2pPart stands for libp2p's own messages in the flag --log.
const libp2pPart = "p2p"

// noMessages is a level above that of every message.
const noMessages = zapcore.InvalidLevel

// logs are narbor's log and libp2p's own, of which each has a level that can be changed while narbor runs.
type logs struct {
	*zap.Logger
	libp2p             slog.Handler
	level, libp2pLevel zap.AtomicLevel
}

// parseLevel reads "debug", the level of narbor's messages, or "p2p=debug", that of libp2p's. The level off is for
// libp2p alone.
func parseLevel(text string) (ofLibp2p bool, level zapcore.Level, err error) {
	name, word, both := strings.Cut(text, "=")
	switch {
	case both && name != libp2pPart:
		return false, 0, exit.With(fmt.Errorf("%q: the only part with a level of its own is %s, such as %s=debug", text, libp2pPart,
			libp2pPart), exit.Usage)
	case both && word == "off":
		return true, noMessages, nil
	case !both:
		word = text
	}
	level, err = zapcore.ParseLevel(word)
	if err != nil || word == "" || level > zapcore.ErrorLevel {
		return false, 0, exit.With(fmt.Errorf("log level %q is none of debug, info, warn, error", word), exit.Usage)
	}
	return both, level, nil
}

// set changes the level that [parseLevel] reads.
func (l logs) set(text string) error {
	ofLibp2p, level, err := parseLevel(text)
	switch {
	case err != nil:
		return err
	case ofLibp2p:
		l.libp2pLevel.SetLevel(level)
	default:
		l.level.SetLevel(level)
	}
	return nil
}

// logLevel is that of --log-level; an empty variable in the environment is the default.
func logLevel(c *cli.Context) string { return cmp.Or(c.String("log-level"), "info") }

func logErrors(c *cli.Context) (out []valueError) {
	if _, _, err := parseLevel(logLevel(c)); err != nil || strings.Contains(c.String("log-level"), "=") {
		out = append(out, valueError{"log-level", fmt.Errorf("--log-level %q is none of debug, info, warn, error", c.String("log-level"))})
	}
	for _, text := range c.StringSlice("log") {
		if _, _, err := parseLevel(text); err != nil || !strings.Contains(text, "=") {
			out = append(out, valueError{"log", fmt.Errorf("--log %q is not a part and its level, such as %s=debug", text, libp2pPart)})
		}
	}
	if _, err := logEncoder(c.String("log-format"), io.Discard); err != nil {
		out = append(out, valueError{"log-format", err})
	}
	return out
}

func newLogs(c *cli.Context, w io.Writer) (logs, error) {
	if wrong := logErrors(c); len(wrong) > 0 {
		return logs{}, exit.With(wrong[0].err, exit.Usage)
	}
	enc, err := logEncoder(c.String("log-format"), w)
	if err != nil {
		return logs{}, err
	}
	out := zapcore.Lock(zapcore.AddSync(w))
	l := logs{level: zap.NewAtomicLevel(), libp2pLevel: zap.NewAtomicLevelAt(noMessages)}
	l.Logger = zap.New(zapcore.NewCore(enc, out, l.level))
	l.libp2p = zapslog.NewHandler(zapcore.NewCore(enc, out, l.libp2pLevel), zapslog.WithName("libp2p"))
	for _, text := range append([]string{logLevel(c)}, c.StringSlice("log")...) {
		if err := l.set(text); err != nil {
			return logs{}, err
		}
	}
	return l, nil
}

func logEncoder(format string, w io.Writer) (zapcore.Encoder, error) {
	cfg := zap.NewProductionEncoderConfig()
	cfg.EncodeTime = zapcore.ISO8601TimeEncoder
	cfg.EncodeDuration = zapcore.StringDurationEncoder
	switch format {
	case "json":
		return zapcore.NewJSONEncoder(cfg), nil
	case "auto", "console":
		cfg.EncodeLevel = zapcore.CapitalLevelEncoder
		f, ok := w.(*os.File)
		if format == "auto" && canRedraw(w) && os.Getenv("NO_COLOR") == "" {
			cfg.EncodeLevel = zapcore.CapitalColorLevelEncoder
		}
		if ok && f == os.Stderr && toJournal() {
			cfg.TimeKey = "" // the journal has its own
			cfg.EncodeLevel = journalLevel
		}
		cfg.ConsoleSeparator = "  "
		return zapcore.NewConsoleEncoder(cfg), nil
	default:
		return nil, exit.With(fmt.Errorf("--log-format %q is none of auto, console, json", format), exit.Usage)
	}
}

func toJournal() bool {
	yes, err := journal.StderrIsJournalStream()
	return yes && err == nil
}

// journalLevel begins a line with its priority, as sd-daemon(3) has it; systemd takes that off again.
func journalLevel(l zapcore.Level, enc zapcore.PrimitiveArrayEncoder) {
	priority := journal.PriErr
	switch l {
	case zapcore.DebugLevel:
		priority = journal.PriDebug
	case zapcore.InfoLevel:
		priority = journal.PriInfo
	case zapcore.WarnLevel:
		priority = journal.PriWarning
	}
	enc.AppendString(fmt.Sprintf("<%d>%s", priority, l.CapitalString()))
}
