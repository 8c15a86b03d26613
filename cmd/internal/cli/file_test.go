package cli_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"edgeclaim/cmd/internal/cli"

	"golang.org/x/sys/unix"
)

func writes(text string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	}
}

// entries is what a folder has.
func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	found, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range found {
		names = append(names, entry.Name())
	}
	return names
}

func TestWriteWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, text := range []string{"first", "second"} { // made, and made anew
		if err := cli.WriteWhole(path, writes(text)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		info, _ := os.Stat(path)
		if err != nil || string(got) != text || info.Mode() != 0o600 {
			t.Errorf("%q, %v, %v", got, info.Mode(), err)
		}
	}
	failed := errors.New("half")
	err := cli.WriteWhole(path, func(w io.Writer) error { return errors.Join(writes("third")(w), failed) })
	if got, _ := os.ReadFile(path); !errors.Is(err, failed) || string(got) != "second" {
		t.Errorf("after a failure: %q, %v", got, err)
	}
	if names := entries(t, dir); len(names) != 1 {
		t.Errorf("left behind: %q", names)
	}
}

// A link stays one, and its target is what is written; one that leads nowhere
// and a folder are errors that say so.
func TestWriteWholeLinksAndFolders(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	target, link := filepath.Join(elsewhere, "target"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(target, []byte("old"), 0o600), os.Symlink(target, link)); err != nil {
		t.Fatal(err)
	}
	if err := cli.WriteWhole(link, writes("new")); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(target)
	if info, statErr := os.Lstat(link); err != nil || statErr != nil || string(got) != "new" || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("target %q, link %v, %v", got, info, err)
	}

	nowhere := filepath.Join(dir, "nowhere")
	if err := os.Symlink(filepath.Join(elsewhere, "gone"), nowhere); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{nowhere: "leads nowhere", dir: "a folder"} {
		err := cli.WriteWhole(path, writes("x"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
	if names := entries(t, dir); len(names) != 2 {
		t.Errorf("left behind: %q", names)
	}
}

// A pipe and a device are written through: they are what they were afterwards.
func TestWriteWholeWritesThrough(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	read := make(chan string, 1)
	go func() {
		text, _ := os.ReadFile(pipe)
		read <- string(text)
	}()
	if err := cli.WriteWhole(pipe, writes("through")); err != nil {
		t.Fatal(err)
	}
	if got := <-read; got != "through" {
		t.Errorf("read %q", got)
	}
	if info, err := os.Lstat(pipe); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		t.Errorf("the pipe is %v now, %v", info, err)
	}

	// A device of its own: a fault here must not cost the machine its /dev/full.
	full := filepath.Join(t.TempDir(), "full")
	if err := unix.Mknod(full, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 7))); err != nil {
		t.Skipf("no device can be made here: %v", err)
	}
	file, err := os.OpenFile(full, os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("no device can be opened here: %v", err)
	}
	_ = file.Close()
	if err := cli.WriteWhole(full, writes("x")); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a full device: %v, want ENOSPC", err)
	}
	if info, err := os.Lstat(full); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		t.Errorf("the device is %v now, %v", info, err)
	}
}

func TestIsStdout(t *testing.T) {
	for path, want := range map[string]bool{"-": true, "/dev/stdout": true, "/dev/fd/1": true, "": false, "stdout": false, "/dev/null": false} {
		if got := cli.IsStdout(path); got != want {
			t.Errorf("%q: %t", path, got)
		}
	}
}
