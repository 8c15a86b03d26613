package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// IsStdout reports whether a path given for a file to write means the standard
// output: -, or one of the names that the system has for it.
func IsStdout(path string) bool {
	return path == "-" || path == "/dev/stdout" || path == "/dev/fd/1" || path == "/proc/self/fd/1"
}

// WriteWhole makes the file at path, mode 0600, with what write writes: on an
// error, what was there before stays. Nil means that it is on the disk, so that
// a stick may be pulled. A link's target is written, not the link. What is no
// regular file, a pipe or a device, is written through and never replaced; a
// folder is an error.
func WriteWhole(path string, write func(io.Writer) error) error {
	info, err := os.Stat(path) // of a link's target
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s: a link that leads nowhere", path)
		}
		return replace(path, write)
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%s: a folder, not a file", path)
	case !info.Mode().IsRegular():
		return writeThrough(path, write)
	}
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	return replace(target, write)
}

// writeThrough writes into what cannot be replaced.
func writeThrough(path string, write func(io.Writer) error) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}

// replace puts a whole file in the place of path.
func replace(path string, write func(io.Writer) error) (err error) {
	dir := filepath.Dir(path)
	file, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	if err := errors.Join(write(file), file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	folder, err := os.Open(dir)
	if err != nil {
		return nil // it is there; what a folder's fsync would add cannot be had
	}
	defer folder.Close() //nolint:errcheck // only read
	_ = folder.Sync()    // not every file system of a stick knows it
	return nil
}
