package cli

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// WriteWhole makes the file at path, mode 0600, with what write writes: on an
// error, what was there before stays. Nil means that it is on the disk, so that
// a stick may be pulled.
func WriteWhole(path string, write func(io.Writer) error) (err error) {
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
