package acceptance

import (
	"bufio"
	"context"
	"os/exec"
	"strings"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// livePaho is a device made with a common client library, which connects again,
// and sends again, by itself.
func (h *hand) livePaho(ctx context.Context) {
	options := mqtt.NewClientOptions().AddBroker("tcp://" + h.mqttAddr).SetClientID("paho").SetUsername(h.id).SetPassword(h.apiKey).
		SetProtocolVersion(4).SetCleanSession(false).SetKeepAlive(5 * time.Second).SetPingTimeout(2 * time.Second).SetWriteTimeout(2 * time.Second).
		SetAutoReconnect(true).SetConnectRetry(true).SetConnectRetryInterval(100 * time.Millisecond).SetMaxReconnectInterval(500 * time.Millisecond).
		SetOnConnectHandler(func(c mqtt.Client) {
			c.Subscribe(h.commands(), 1, func(c mqtt.Client, m mqtt.Message) {
				id, answer := h.do(m.Payload())
				if answer != nil {
					h.keepWatch(ctx, id, c.Publish(h.events(), 1, false, answer))
				}
			})
		})
	defer h.watches.Wait()
	for ctx.Err() == nil {
		client := mqtt.NewClient(options)
		client.Connect()
		awake, sleep := context.WithCancel(ctx)
		each(awake, 500*time.Millisecond, func(int) {
			for id, answer := range h.owed() {
				if client.IsConnectionOpen() {
					h.keepWatch(ctx, id, client.Publish(h.events(), 1, false, answer))
				}
			}
			if h.rough(6) {
				sleep()
			}
		})
		sleep()
		client.Disconnect(50)
		h.rest(ctx, 2*time.Second)
	}
}

// keepWatch notes the acknowledgement when it comes soon. It does not block the
// library, whose own goroutines complete the token.
func (h *hand) keepWatch(ctx context.Context, id string, token mqtt.Token) {
	watched, cancel := context.WithTimeout(ctx, 5*time.Second)
	h.watches.Go(func() {
		defer cancel()
		select {
		case <-token.Done():
			if token.Error() == nil {
				h.acknowledged(id)
			}
		case <-watched.Done():
		}
	})
}

// liveMosquitto is a device of two programs of Mosquitto's: one that listens
// and, for each answer, one that takes its place, for a device has one
// connection.
func (h *hand) liveMosquitto(ctx context.Context) {
	for ctx.Err() == nil {
		h.rest(ctx, 2*time.Second)
		h.mosquittoSession(ctx)
	}
}

// mosquittoSession runs mosquitto_sub until it has said something, or for a
// while, and answers.
func (h *hand) mosquittoSession(ctx context.Context) {
	awake, sleep := context.WithTimeout(ctx, 5*time.Second)
	defer sleep()
	host, port, _ := strings.Cut(h.mqttAddr, ":")
	who := []string{"-h", host, "-p", port, "-i", "m", "-u", h.id, "-P", h.apiKey, "-q", "1"}
	// Else it keeps what it says to itself until it ends.
	sub := exec.CommandContext(awake, "stdbuf", append([]string{"-oL", "mosquitto_sub", "-t", h.commands(), "-k", "5"}, who...)...)
	out, err := sub.StdoutPipe()
	if err != nil || sub.Start() != nil {
		return
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if h.rough(8) {
			break
		}
		h.do(lines.Bytes())
		// There may be more; a device that has something to say does not wait long.
		timer := time.AfterFunc(100*time.Millisecond, sleep)
		defer timer.Stop()
	}
	sleep()
	_ = sub.Wait() // it was killed
	for id, answer := range h.owed() {
		pub := exec.CommandContext(ctx, "mosquitto_pub", append([]string{"-t", h.events(), "-m", string(answer)}, who...)...)
		if pub.Run() == nil && !h.rough(6) {
			h.acknowledged(id)
		}
	}
}
