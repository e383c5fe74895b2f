package store

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
)

// MaxInfoLen is the longest narinfo text accepted, in bytes. A system path with 2,000 references takes 120 KiB.
const MaxInfoLen = 1 << 20

// maxSignatures bounds how many Sig lines a claim may carry: each costs its checker an ed25519 verification.
const maxSignatures = 64

// ParseInfo reads the part of a narinfo text that narbor believes after checking; the format is Nix's (see
// nar-info.cc): lines "Key: value", each ended by a line feed. Keys it has no use for are skipped. It is stricter
// than Nix: a key other than Sig must not repeat, and no carriage return or NUL may occur anywhere.
func ParseInfo(text string) (Info, error) {
	var info Info
	seen := map[string]bool{}
	for key, value := range infoLines(text) {
		if key == "" {
			return Info{}, fmt.Errorf("narinfo: %s", value)
		}
		if key != "Sig" && seen[key] {
			return Info{}, fmt.Errorf("narinfo: %.40q is given twice", key)
		}
		seen[key] = true
		if err := info.set(key, value); err != nil {
			return Info{}, fmt.Errorf("narinfo: %s: %w", key, err)
		}
	}
	for _, key := range []string{"StorePath", "NarHash", "NarSize"} {
		if !seen[key] {
			return Info{}, fmt.Errorf("narinfo: no %s", key)
		}
	}
	return info, nil
}

// infoLines yields the keys and values of a narinfo text. A key of "" ends it; its value is the error.
func infoLines(text string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		if len(text) > MaxInfoLen {
			yield("", fmt.Sprintf("longer than %d bytes", MaxInfoLen))
			return
		}
		if i := strings.IndexAny(text, "\r\x00"); i >= 0 {
			yield("", fmt.Sprintf("has %q in it", text[i]))
			return
		}
		for n := 1; text != ""; n++ {
			line, rest, ended := strings.Cut(text, "\n")
			key, value, _ := strings.Cut(line, ":")
			value, ok := strings.CutPrefix(value, " ")
			if !ended || !ok || key == "" {
				yield("", fmt.Sprintf("line %d is not \"Key: value\" and a line feed", n))
				return
			}
			if !yield(key, value) {
				return
			}
			text = rest
		}
	}
}

func (i *Info) set(key, value string) (err error) {
	switch key {
	case "StorePath":
		i.Path, err = ParsePath(value)
	case "NarHash":
		i.NarHash, err = ParseHash(value)
	case "NarSize":
		i.NarSize, err = strconv.ParseInt(value, 10, 64)
		if err == nil && (i.NarSize < 1 || i.NarSize > MaxNarSize || strconv.FormatInt(i.NarSize, 10) != value) {
			err = fmt.Errorf("%.40q is not a size from 1 to %d", value, int64(MaxNarSize))
		}
	case "References":
		i.References, err = parseReferences(value)
	case "Deriver":
		if value != "unknown-deriver" {
			i.Deriver, err = ParsePathName(value)
		}
	case "Sig":
		i.Signatures = append(i.Signatures, value)
		if len(i.Signatures) > maxSignatures {
			err = fmt.Errorf("more than %d signatures", maxSignatures)
		}
	case "CA":
		i.CA = value
	}
	return err
}

func parseReferences(value string) ([]Path, error) {
	var refs []Path
	for base := range strings.SplitSeq(value, " ") {
		if base == "" { // several spaces are one, to Nix
			continue
		}
		p, err := ParsePathName(base)
		if err != nil {
			return nil, err
		}
		refs = append(refs, p)
	}
	return SortPaths(refs), nil
}

// WithSignatures returns the claim with as many of the signatures as a claim may carry.
func (i Info) WithSignatures(sigs []string) Info {
	i.Signatures = sigs[:min(len(sigs), maxSignatures)]
	return i
}

// SortPaths sorts paths in place, bytewise as Nix's fingerprint wants them, and returns them without duplicates.
func SortPaths(paths []Path) []Path {
	slices.SortFunc(paths, func(a, b Path) int { return strings.Compare(a.name, b.name) })
	return slices.Compact(paths)
}

// Narinfo returns a complete narinfo file of the claim, with an uncompressed archive at url. FileHash and FileSize are
// those of the archive, so that Nix can say how much it will download.
func (i Info) Narinfo(url string) string {
	return fmt.Sprintf("%sURL: %s\nCompression: none\nFileHash: %s\nFileSize: %d\n", i, url, i.NarHash, i.NarSize)
}

// String returns the claim as narinfo text, the inverse of [ParseInfo]. A complete narinfo file also says where the
// archive is, see [Info.Narinfo]; the order of lines means nothing.
func (i Info) String() string {
	var b strings.Builder
	line := func(key, value string) { b.WriteString(key + ": " + value + "\n") }
	line("StorePath", i.Path.String())
	line("NarHash", i.NarHash.String())
	line("NarSize", strconv.FormatInt(i.NarSize, 10))
	bases := make([]string, len(i.References))
	for j, r := range i.References {
		bases[j] = r.Base()
	}
	line("References", strings.Join(bases, " ")) // Nix writes the line without references, too, and other clients' parsers require it
	if !i.Deriver.IsZero() {
		line("Deriver", i.Deriver.Base())
	}
	for _, sig := range i.Signatures {
		line("Sig", sig)
	}
	if i.CA != "" {
		line("CA", i.CA)
	}
	return b.String()
}
