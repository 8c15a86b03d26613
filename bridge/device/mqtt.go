package device

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"edgeclaim"
	"edgeclaim/bridge/internal/link"
)

const (
	requestTopic  = "provision/request"
	responseTopic = "provision/response"
	claimant      = "provision" // the user name of a client that claims

	qos1 = 1
	// version311 makes the library try MQTT 3.1.1 only.
	version311 = 4
	// subscribeRefused is the return code of a SUBACK that refuses (MQTT
	// 3.1.1, section 3.9.3).
	subscribeRefused = 0x80

	keepAlive    = 10 * time.Second
	writeTimeout = 3 * time.Second
	// goodbye is how long the DISCONNECT may take to be written.
	goodbye = 250 * time.Millisecond
)

var errRefused = errors.New("the box refused the connection")

// spareAnswers is how many answers may come before the first is read: one that
// says to wait, and the one behind it.
const spareAnswers = 4

// claimMQTT subscribes, asks, and waits for the one answer; behind one that says
// to wait for an operator, until then for another.
func (t *target) claimMQTT(ctx context.Context, body []byte, until time.Time) (Answer, error) {
	c, err := dial(ctx, t, login{clientID: "edgeclaim-claim", username: claimant})
	if err != nil {
		return Answer{}, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer c.close()
	answers := make(chan []byte, spareAnswers)
	token := c.client.Subscribe(responseTopic, qos1, func(_ mqtt.Client, m mqtt.Message) {
		select {
		case answers <- m.Payload():
		default: // what comes on top tells nothing new
		}
	})
	if err := c.subscribed(ctx, token); err != nil {
		return Answer{}, fmt.Errorf("%w: subscribing to %s: %w", ErrUnreachable, responseTopic, err)
	}
	// The PUBACK is not waited for: the answer says all it could, and may come
	// before it.
	c.client.Publish(requestTopic, qos1, false, body)
	first, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	answer, err := c.answer(first, answers)
	if err != nil || answer.Code != edgeclaim.CodeFailedPrecondition {
		return answer, err
	}
	waiting, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	if decided, err := c.answer(waiting, answers); err == nil {
		return decided, nil
	}
	return answer, nil // it waits still, whatever became of the connection
}

// answer waits for what the box says next.
func (c *conn) answer(ctx context.Context, answers <-chan []byte) (Answer, error) {
	select {
	case text := <-answers:
		return read(text)
	case <-c.lost:
		// It may have come with the end.
		select {
		case text := <-answers:
			return read(text)
		default:
			return Answer{}, fmt.Errorf("%w: %w", ErrNoAnswer, c.why(ctx, nil))
		}
	case <-ctx.Done():
		return Answer{}, fmt.Errorf("%w: %w", ErrNoAnswer, context.Cause(ctx))
	}
}

// Login reports whether a device may log in at mqtt://host[:1883]: nil, an
// edgeclaim.ErrUnauthenticated when the box refuses the credential,
// ErrUnreachable for everything else. It leaves again at once.
func Login(ctx context.Context, address string, id edgeclaim.DeviceID, key edgeclaim.Secret) error {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	to, err := parse(address, nil)
	if err != nil {
		return err
	}
	if to.scheme != "mqtt" {
		return edgeclaim.Invalid("url", "want mqtt://host[:port]")
	}
	c, err := dial(ctx, to, login{clientID: id.String(), username: id.String(), password: key})
	switch {
	case errors.Is(err, edgeclaim.ErrUnauthenticated):
		return err
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	c.close()
	return nil
}

// login is who a connection is.
type login struct {
	clientID, username string
	password           edgeclaim.Secret
}

// conn is one MQTT connection that never connects again.
type conn struct {
	client  mqtt.Client
	link    *link.Link    // set while connecting, constant then
	openErr error         // set while connecting, constant then
	release func() bool   // unties the link from the context
	lost    chan struct{} // closed when the connection is gone
}

// dial returns once CONNECT is accepted. The connection ends with ctx.
func dial(ctx context.Context, to *target, who login) (*conn, error) {
	c := &conn{lost: make(chan struct{})}
	o := mqtt.NewClientOptions().AddBroker("tcp://" + to.address)
	o.SetAutoReconnect(false).SetConnectRetry(false).SetCleanSession(true).SetProtocolVersion(version311)
	o.SetClientID(who.clientID).SetUsername(who.username).SetPassword(who.password.Reveal())
	o.SetKeepAlive(keepAlive).SetConnectTimeout(Timeout).SetWriteTimeout(writeTimeout).SetOrderMatters(false)
	gone := sync.OnceFunc(func() { close(c.lost) })
	o.SetConnectionLostHandler(func(mqtt.Client, error) { gone() })
	o.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
		l, err := link.Dial(ctx, link.Options{
			Address: to.address, TLS: to.tls, ConnectTimeout: Timeout, WriteTimeout: writeTimeout, MaxInbound: maxAnswer,
		})
		if err != nil {
			c.openErr = err
			return nil, err
		}
		c.link = l
		c.release = context.AfterFunc(ctx, func() { l.Fail(context.Cause(ctx)) })
		return l, nil
	})
	c.client = mqtt.NewClient(o)
	token, ok := c.client.Connect().(*mqtt.ConnectToken)
	if !ok {
		return nil, errors.New("the MQTT client returned no token for CONNECT")
	}
	<-token.Done() // bounded: the link ends with ctx
	if err := token.Error(); err != nil {
		if c.release != nil {
			c.release()
		}
		return nil, c.refused(ctx, token.ReturnCode(), err)
	}
	return c, nil
}

// refused says why CONNECT failed.
func (c *conn) refused(ctx context.Context, code byte, err error) error {
	switch code {
	case packets.ErrRefusedBadUsernameOrPassword, packets.ErrRefusedNotAuthorised:
		return fmt.Errorf("%w: %w (code %d)", edgeclaim.ErrUnauthenticated, errRefused, code)
	case packets.ErrRefusedBadProtocolVersion, packets.ErrRefusedIDRejected, packets.ErrRefusedServerUnavailable:
		return fmt.Errorf("%w (code %d)", errRefused, code)
	}
	return c.why(ctx, err)
}

// why returns the reason that a connection ended: the caller's context, what
// opening or the link said, else err.
func (c *conn) why(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case c.openErr != nil:
		return c.openErr
	case c.link != nil && c.link.Fault() != nil:
		return fmt.Errorf("the box closed the connection: %w", c.link.Fault())
	}
	return err
}

// subscribed waits for a SUBACK. The library's token has no error for one that
// refuses.
func (c *conn) subscribed(ctx context.Context, token mqtt.Token) error {
	select {
	case <-token.Done():
	case <-c.lost:
		return c.why(ctx, ErrNoAnswer)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := token.Error(); err != nil {
		return c.why(ctx, err)
	}
	sub, ok := token.(*mqtt.SubscribeToken)
	if !ok {
		return errors.New("the MQTT client returned no token for SUBSCRIBE")
	}
	for _, code := range sub.Result() {
		if code >= subscribeRefused {
			return errors.New("refused")
		}
	}
	return nil
}

// close says goodbye and closes the connection.
func (c *conn) close() {
	c.release()
	c.client.Disconnect(uint(goodbye.Milliseconds()))
	c.link.Fail(link.ErrClosed)
}
