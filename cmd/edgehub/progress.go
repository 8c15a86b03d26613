package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// progressEvery is how often the line is written anew at most.
	progressEvery = 100 * time.Millisecond
	// barWidth is how long the whole bar is, in characters.
	barWidth = 30
)

// progress shows on a terminal how far a file is read; elsewhere it writes
// nothing. Its methods are for one goroutine.
type progress struct {
	out   io.Writer // nil: nobody looks
	size  int64     // of the file, in bytes; 0: nobody knows
	now   func() time.Time
	last  time.Time
	shown bool
}

// newProgress shows progress on the error output where that is a terminal.
func (a *app) newProgress(size int64) *progress {
	p := &progress{size: size, now: time.Now}
	if file, ok := a.stderr.(*os.File); ok && terminal(file) {
		p.out = file
	}
	return p
}

func terminal(file *os.File) bool {
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// show says how many bytes and rows are read.
func (p *progress) show(read int64, rows, refused int) {
	if p.out == nil {
		return
	}
	now := p.now()
	if now.Sub(p.last) < progressEvery {
		return
	}
	p.last, p.shown = now, true
	line := fmt.Sprintf("%d rows", rows)
	if refused > 0 {
		line += fmt.Sprintf(", %d refused", refused)
	}
	if p.size > 0 {
		part := float64(min(read, p.size)) / float64(p.size)
		done := int(part * barWidth)
		line = fmt.Sprintf("[%s%s] %3.0f%% %s", strings.Repeat("#", done), strings.Repeat(" ", barWidth-done), part*100, line)
	}
	_, _ = io.WriteString(p.out, "\r\x1b[K"+line) // it is for looking at
}

// clear takes the line away, so that another may be written.
func (p *progress) clear() {
	if p.out == nil || !p.shown {
		return
	}
	_, _ = io.WriteString(p.out, "\r\x1b[K")
	p.shown, p.last = false, time.Time{}
}
