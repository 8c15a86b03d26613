package broker

import (
	"context"
	"log/slog"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"edgeclaim"
)

// renewDesk is where a device's wish for another credential is answered.
func renewDesk(topics *deviceTopics) desk {
	return desk{
		response: topics.prefix + credentialsAnswer, responseCBOR: topics.prefix + credentialsAnswerCB,
		mayAnswerTo: topics.mayAnswerTo,
		want:        "want the device's own credentials/response or credentials/response/cbor",
	}
}

// renew puts a device's wish for another credential to the rule, and writes
// what it says as claim does: to this connection alone, after the decision is
// durable (P1).
func (b *Broker) renew(c *conn, cl *mqtt.Client, pk *packets.Packet) {
	received := time.Now()
	c.renewing.Store(true)
	defer func() {
		c.renewing.Store(false)
		b.stopping(cl)
	}()
	q := ask(cl, pk, renewDesk(&c.topics))
	in := edgeclaim.RotateAsk{Ask: b.askOf(c, pk, &q, received), By: c.admission}
	ans := b.decide(&q, func(ctx context.Context) edgeclaim.Answer { return b.parts.Devices.Renew(ctx, in) })
	b.answer(c, cl, &q, ans)
	if undecided(ans.Code) {
		b.hangUp(cl, packets.ErrServerBusy)
	}
	b.log.LogAttrs(b.ctx, slog.LevelDebug, "renewal answered",
		slog.Any("device_id", c.device), slog.Int("code", int(ans.Code)))
}
