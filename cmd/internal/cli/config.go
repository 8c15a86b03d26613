package cli

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/goccy/go-yaml"
)

// ReadConfig reads a configuration file over the defaults; see ParseConfig.
func ReadConfig[T any](path string, defaults func() T) (T, error) {
	document, err := os.ReadFile(path)
	if err != nil {
		var none T
		return none, Usagef("--config: %v", err)
	}
	return ParseConfig(path, document, defaults)
}

// ParseConfig reads a YAML document over the defaults. Unknown and repeated
// keys are refused with their line; path is for the error's text.
func ParseConfig[T any](path string, document []byte, defaults func() T) (T, error) {
	var none T
	s := defaults()
	decoder := yaml.NewDecoder(bytes.NewReader(document), yaml.Strict())
	err := decoder.Decode(&s)
	if errors.Is(err, io.EOF) {
		return defaults(), nil // nothing but comments; the decoder has emptied s
	}
	if err != nil {
		return none, Usagef("--config: %s%s", path, yamlProblem(err))
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return none, Usagef("--config: %s: want one document", path)
	}
	return s, nil
}

// yamlProblem is a decoder's error in one line, led by its place: ":3:1: …".
// The line itself is not repeated, it may hold a secret in the wrong place (P5).
func yamlProblem(err error) string {
	text := strings.TrimSpace(yaml.FormatError(err, false, false))
	if place, problem, ok := strings.Cut(text, "] "); ok && strings.HasPrefix(place, "[") {
		return ":" + place[1:] + ": " + problem
	}
	return ": " + text
}

// LogConfig is how the log is written, to the error output.
type LogConfig struct {
	Format string `yaml:"format"` // text or json
	Level  string `yaml:"level"`  // debug, info, warn or error
}

// DefaultLog is a log for people, without what only developers want.
func DefaultLog() LogConfig { return LogConfig{Format: "text", Level: "info"} }

// Validate names the key at fault.
func (l LogConfig) Validate() error {
	_, err := l.Logger(io.Discard)
	return err
}

// Logger writes to w as the keys say.
func (l LogConfig) Logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		return nil, Usagef("log.level: want debug, info, warn or error")
	}
	options := &slog.HandlerOptions{Level: level}
	switch l.Format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, Usagef("log.format: want text or json")
}
