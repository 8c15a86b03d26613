package seglog_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"edgeclaim/internal/seglog"
)

// victimDir names the folder that a child process writes to until it is killed.
const victimDir = "SEGLOG_VICTIM"

func victimConfig(dir string) seglog.Config {
	return seglog.Config{Dir: dir, SegmentBytes: 16 << 10, MaxBytes: 64 << 10}
}

// victim appends and acknowledges, and says on its output what was durable. It
// goes on until it is killed.
func victim(dir string) int {
	l, err := seglog.Open(victimConfig(dir))
	if err != nil {
		fmt.Println("open", err)
		return 1
	}
	var mu sync.Mutex
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				text := fmt.Sprintf("%d-%d-%d %s", os.Getpid(), w, i, strings.Repeat("v", rand.IntN(300)))
				place, c, err := l.Append([]byte(text))
				if err != nil || c.Wait(context.Background()) != nil {
					continue
				}
				mu.Lock()
				fmt.Printf("stored %d %s\n", place, text)
				mu.Unlock()
				if i%20 == 19 && w == 0 {
					b := l.Bounds()
					upto := b.Acked + (b.Last-b.Acked)/3
					own := fmt.Sprintf("own of %d", upto)
					mu.Lock()
					fmt.Printf("try %d\n", upto)
					mu.Unlock()
					if l.Ack(upto, []byte(own)) == nil {
						mu.Lock()
						fmt.Printf("acked %d\n", upto)
						mu.Unlock()
					}
				}
			}
		}()
	}
	if err := l.Run(context.Background()); err != nil {
		fmt.Println("run", err)
	}
	return 1
}

// TestKill kills the writing process again and again: what it said was durable
// is there, at its place and with its payload, or told as dropped; marks and the
// caller's bytes fit each other.
func TestKill(t *testing.T) {
	t.Parallel()
	rounds := 25
	if testing.Short() {
		rounds = 6
	}
	dir := t.TempDir()
	stored := map[uint64]string{}
	var acked, tried uint64
	for round := range rounds {
		killOnce(t, dir, stored, &acked, &tried)
		l, err := seglog.Open(victimConfig(dir))
		noErr(t, err)
		b := l.Bounds()
		if b.Acked < acked || b.Acked > max(acked, tried) {
			t.Fatalf("round %d: acked is %d, want %d to %d", round, b.Acked, acked, tried)
		}
		if own := string(l.Own()); b.Acked > 0 && own != fmt.Sprintf("own of %d", b.Acked) {
			t.Fatalf("round %d: acked is %d, and own %q", round, b.Acked, own)
		}
		found := map[uint64]bool{}
		at := b.Acked
		for _, e := range all(t, l, b.Acked) {
			if e.Lost > 0 {
				if at != b.Acked || e.Place != b.Lost || e.Lost != b.Dropped || e.Damaged {
					t.Fatalf("round %d: behind %d comes %+v, with %+v", round, at, e, b)
				}
				at = e.Place
				continue
			}
			if e.Place != at+1 {
				t.Fatalf("round %d: behind %d comes %d", round, at, e.Place)
			}
			at = e.Place
			found[at] = true
			if want, ok := stored[at]; ok && want != string(e.Payload) {
				t.Fatalf("round %d: %d has %.40q, want %.40q", round, at, e.Payload, want)
			}
		}
		if at != b.Last {
			t.Fatalf("round %d: told up to %d, with %+v", round, at, b)
		}
		for place := range stored {
			switch {
			case place <= max(b.Acked, b.Lost):
				delete(stored, place)
			case !found[place]:
				t.Fatalf("round %d: %d was durable and is gone, with %+v", round, place, b)
			}
		}
		noErr(t, l.Close())
	}
	if acked == 0 {
		t.Error("nothing was ever acknowledged")
	}
}

func killOnce(t *testing.T, dir string, stored map[uint64]string, acked, tried *uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimDir+"="+dir)
	out, err := cmd.StdoutPipe()
	noErr(t, err)
	noErr(t, cmd.Start())
	guard := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer guard.Stop()
	lines, left := bufio.NewScanner(out), 30+rand.N(1500)
	for lines.Scan() {
		if left--; left == 0 {
			noErr(t, cmd.Process.Kill())
		}
		line := lines.Text()
		var place uint64
		switch word, rest, _ := strings.Cut(line, " "); word {
		case "stored":
			number, text, ok := strings.Cut(rest, " ")
			if _, err := fmt.Sscan(number, &place); err != nil || !ok {
				continue // cut off by the kill
			}
			stored[place] = text
		case "try":
			fmt.Sscan(rest, tried)
		case "acked":
			fmt.Sscan(rest, acked)
		default:
			t.Errorf("the child says %q", line)
		}
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != -1 {
		t.Fatalf("the child was not killed: %v", err)
	}
}
