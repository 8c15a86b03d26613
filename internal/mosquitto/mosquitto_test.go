package mosquitto_test

import (
	"net"
	"testing"

	"edgeclaim/internal/mosquitto"
)

func TestRestartKeepsTheAddress(t *testing.T) {
	s := mosquitto.Start(t, mosquitto.Options{Users: map[string]string{"u": "p"}})
	addr := s.Addr()
	dial := func() error {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err
	}
	for _, end := range []func(){s.Stop, s.Kill} {
		end()
		if err := dial(); err == nil {
			t.Fatal("still accepts connections after its end")
		}
		s.Restart()
		if err := dial(); err != nil {
			t.Fatalf("after Restart: %v", err)
		}
	}
}
