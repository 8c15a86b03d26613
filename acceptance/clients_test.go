package acceptance

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"edgeclaim/internal/mqttwire"
)

// httpClient keeps that many connections alive.
func httpClient(connections int) *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConns: connections, MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections}}
}

// claimant is an open connection, subscribed to its answers.
func claimant(t testing.TB, addr string, filters ...string) *mqttwire.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, ack, err := mqttwire.Dial(ctx, addr, mqttwire.V311, mqttwire.Login{ClientID: "device", Clean: true, KeepAlive: 60})
	if err != nil || ack.Code() != 0 {
		t.Errorf("connect: %v, code %#x", err, ack.Code())
		return nil
	}
	if err := client.SetDeadline(time.Now().Add(4 * patience)); err != nil {
		t.Error(err)
	}
	if len(filters) == 0 {
		filters = []string{"provision/response"}
	}
	if _, err := client.Subscribe(filters...); err != nil {
		t.Error(err)
	}
	return client
}

// roundTrip claims over an open connection, which stays open.
func roundTrip(client *mqttwire.Client, body string) error {
	if err := client.Publish(mqttwire.Message{Topic: "provision/request", Payload: []byte(body), QoS: 1}); err != nil {
		return err
	}
	for range 2 { // the answer and the PUBACK
		if _, err := client.Read(); err != nil {
			return err
		}
	}
	return nil
}

// parallel runs do in that many goroutines, waits for all, and fails the test
// with the first error.
func parallel(t testing.TB, workers int, do func() error) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make(chan error, workers)
	for range workers {
		wg.Go(func() {
			if err := do(); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
}
