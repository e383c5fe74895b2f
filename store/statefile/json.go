package statefile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
)

// Read reads a JSON file of at most limit bytes into what v points at. If there is no file, or its name is "", v stays
// as it is. Anything after the value is an error; after an error v may be partly filled.
func Read(file string, limit int64, v any) error {
	if file == "" {
		return nil
	}
	text, _, err := ReadText(file, limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// Write replaces a file by v as JSON, see [Replace]. If the name is "" it does nothing.
func Write(file string, v any) error {
	if file == "" {
		return nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return Replace(file, append(text, '\n'), 0o600)
}
