package acceptance

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// chatterVariable makes this test binary the devices of a chatter: it reads
// orders from its standard input, and answers each with a line.
const chatterVariable = "EDGECLAIM_CHATTER"

// chatterNice is the least claim on the processors that a process can have.
const chatterNice = 19

// chatter is devices that send telemetry while they are told to, in a process of
// their own.
type chatter struct {
	b      *testing.B
	orders io.WriteCloser
	lines  *bufio.Scanner
	said   int64 // points acknowledged up to the last rest
}

// chatterOrder is one line to the process.
type chatterOrder struct {
	Addr    string            `json:",omitempty"` // the first: where to connect
	Devices map[string]string `json:",omitempty"` // their keys by id
	Talk    bool
	Rate    int `json:",omitempty"` // points a second of all of them; 0: as fast as they are acknowledged
}

func startChatter(b *testing.B, box *box, devices []claimed) *chatter {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), chatterVariable+"=1")
	cmd.Stderr = os.Stderr
	orders, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		orders.Close() //nolint:errcheck,gosec // it ends with it
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	c := &chatter{b: b, orders: orders, lines: bufio.NewScanner(answers)}
	first := chatterOrder{Addr: box.mqttAddr, Devices: map[string]string{}}
	for _, d := range devices {
		first.Devices[d.id] = d.apiKey
	}
	c.order(first)
	return c
}

func (c *chatter) order(o chatterOrder) {
	c.b.Helper()
	line, err := json.Marshal(o)
	if err == nil {
		_, err = c.orders.Write(append(line, '\n'))
	}
	if err != nil || !c.lines.Scan() {
		c.b.Fatal("the chatter has ended: ", err, c.lines.Err())
	}
	if _, err := fmt.Sscan(c.lines.Text(), &c.said); err != nil {
		c.b.Fatal(err)
	}
}

// talk has the devices send so many points a second together.
func (c *chatter) talk(rate int) { c.order(chatterOrder{Talk: true, Rate: rate}) }

// rest returns when they are silent and all that they said is acknowledged.
func (c *chatter) rest() { c.order(chatterOrder{}) }

// serveChatter is the process.
func serveChatter() int {
	if err := chat(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "chatter:", err)
		return 1
	}
	return 0
}

func chat(orders io.Reader, answers io.Writer) error {
	// Each of a process's threads has its own; those begun later have this one's.
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, thread := range threads {
		var id int
		if _, err := fmt.Sscan(thread.Name(), &id); err != nil {
			return err
		}
		if err := syscall.Setpriority(syscall.PRIO_PROCESS, id, chatterNice); err != nil {
			return err
		}
	}
	var (
		said    atomic.Int64
		streams []*stream
		rest    = func() error { return nil }
	)
	for d := json.NewDecoder(orders); ; {
		var o chatterOrder
		switch err := d.Decode(&o); {
		case err == io.EOF: //nolint:errorlint // Decode's own word
			return nil
		case err != nil:
			return err
		}
		if o.Addr != "" {
			for id, key := range o.Devices {
				s, err := deviceStream(o.Addr, id, key)
				if err != nil {
					return err
				}
				streams = append(streams, s)
			}
		}
		if err := rest(); err != nil {
			return err
		}
		if rest = (func() error { return nil }); o.Talk {
			rest = talk(streams, o.Rate, &said)
		}
		if _, err := fmt.Fprintln(answers, said.Load()); err != nil {
			return err
		}
	}
}

// talk has the streams send until rest is called, which waits for their ends.
func talk(streams []*stream, rate int, said *atomic.Int64) (rest func() error) {
	var (
		work  sync.WaitGroup
		quiet = make(chan struct{})
		errs  = make(chan error, len(streams))
		point = []byte(benchPoint)
	)
	for i, s := range streams {
		work.Go(func() {
			window, turn := benchWindow, make(<-chan time.Time)
			if rate > 0 {
				every := time.Second * time.Duration(len(streams)) / time.Duration(rate)
				select { // not all at once
				case <-time.After(every * time.Duration(i) / time.Duration(len(streams))):
				case <-quiet:
				}
				ticker := time.NewTicker(every)
				defer ticker.Stop()
				window, turn = 1, ticker.C
			}
			errs <- s.say(window, func() ([]byte, bool) {
				select {
				case <-quiet:
					return nil, false
				default:
				}
				if rate == 0 {
					return point, true
				}
				select {
				case <-quiet:
					return nil, false
				case <-turn:
					return point, true
				}
			}, func() { said.Add(1) })
		})
	}
	return func() error {
		close(quiet)
		work.Wait()
		for range streams {
			if err := <-errs; err != nil {
				return err
			}
		}
		return nil
	}
}
