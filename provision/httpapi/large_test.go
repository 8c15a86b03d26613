package httpapi_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"edgeclaim/provision/httpapi"
)

// halfReport is the half of a large report.
var halfReport = point + strings.Repeat(" ", 20_000-len(point))

// slowly sends one large report up to its half, and says what is answered.
func slowly(t *testing.T, f *face, device credential, answers chan<- int) net.Conn {
	conn := send(t, f.claims, device, "POST /api/v1/telemetry", 2*len(halfReport), halfReport)
	go func() { // ends with the answer, or with the connection
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			answers <- 0
			return
		}
		response.Body.Close()
		answers <- response.StatusCode
	}()
	return conn
}

// finish sends the other halves, and wants so many to be taken.
func finish(t *testing.T, slow []net.Conn, answers <-chan int, taken int) {
	t.Helper()
	for _, conn := range slow {
		_, _ = io.WriteString(conn, strings.Repeat(" ", len(halfReport))) // one that was refused has its answer
	}
	for range taken {
		if status := <-answers; status != 200 {
			t.Errorf("a slow one: %d", status)
		}
	}
}

// TestLargeReportsAreCounted: those that are large and slow take so much memory and
// no more, and keep no small one out.
func TestLargeReportsAreCounted(t *testing.T) {
	f := newFace(t)
	var slow []net.Conn
	answers := make(chan int, httpapi.MaxLargeReports+1)
	var device credential
	for n := range httpapi.MaxLargeReports + 1 {
		if n%httpapi.MaxLargeOfDevice == 0 {
			device = f.device(fmt.Sprintf("H%d", n))
		}
		slow = append(slow, slowly(t, f, device, answers))
	}
	if status := <-answers; status != 429 {
		t.Errorf("one too many: %d", status)
	}
	if response, body := f.work.ask(f, device, "POST", "telemetry", point); response.StatusCode != 200 {
		t.Errorf("a small one: %d %s", response.StatusCode, body)
	}
	if response, _ := f.work.ask(f, device, "POST", "telemetry", halfReport); response.StatusCode != 429 {
		t.Errorf("another one too many: %d", response.StatusCode)
	}
	finish(t, slow, answers, httpapi.MaxLargeReports)
	if response, body := f.work.ask(f, device, "POST", "telemetry", halfReport); response.StatusCode != 200 {
		t.Errorf("when they are done: %d %s", response.StatusCode, body)
	}
}

// TestLargeReportsOfOneDevice: a device that sends large ones slowly keeps out its
// own, and nobody else's.
func TestLargeReportsOfOneDevice(t *testing.T) {
	f := newFace(t)
	evil, good := f.device("EVIL"), f.device("GOOD")
	var slow []net.Conn
	answers := make(chan int, httpapi.MaxLargeReports)
	for range httpapi.MaxLargeReports {
		slow = append(slow, slowly(t, f, evil, answers))
	}
	for range httpapi.MaxLargeReports - httpapi.MaxLargeOfDevice {
		if status := <-answers; status != 429 {
			t.Errorf("one too many of a device: %d", status)
		}
	}
	if response, body := f.work.ask(f, good, "POST", "telemetry", halfReport); response.StatusCode != 200 {
		t.Errorf("another device's: %d %s", response.StatusCode, body)
	}
	finish(t, slow, answers, httpapi.MaxLargeOfDevice)
	if response, body := f.work.ask(f, evil, "POST", "telemetry", halfReport); response.StatusCode != 200 {
		t.Errorf("when they are done: %d %s", response.StatusCode, body)
	}
}
