package device

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"edgeclaim"
)

const claimPath = "/api/v1/provision"

// claimHTTP asks once, on a connection of its own, past every proxy, and
// follows nobody elsewhere: the body holds a key.
func (t *target) claimHTTP(ctx context.Context, body []byte) (Answer, error) {
	var reached atomic.Bool
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			reached.Store(err == nil)
			return conn, err
		},
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&tls.Dialer{Config: t.tls}).DialContext(ctx, network, addr)
			reached.Store(err == nil) // a failed handshake has sent nothing
			return conn, err
		},
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, t.scheme+"://"+t.address+claimPath, bytes.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	request.Header.Set("Content-Type", string(edgeclaim.FormatJSON))
	response, err := client.Do(request)
	if err != nil {
		if reached.Load() {
			return Answer{}, fmt.Errorf("%w: %w", ErrNoAnswer, err)
		}
		return Answer{}, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return Answer{}, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	if len(text) > maxAnswer {
		return Answer{}, fmt.Errorf("%w: its answer is longer than %d bytes", ErrNotABox, maxAnswer)
	}
	answer, err := read(text)
	if err != nil {
		return Answer{}, fmt.Errorf("%w (HTTP status %d)", err, response.StatusCode)
	}
	answer.HTTPStatus = response.StatusCode
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		answer.RetryAfter = time.Duration(seconds) * time.Second
	}
	return answer, nil
}
