package acceptance

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"edgeclaim/internal/mqttwire"
)

// renew has a device ask for another credential over a face; with a certificate
// over TLS.
func (b *box) renew(root, face string, i *identity, body string) (string, error) {
	b.t.Helper()
	if face == "mqtt" {
		return b.renewOverMQTT(root, i, body)
	}
	address := "http://" + b.httpAddr
	transport := &http.Transport{DisableKeepAlives: true}
	if i.kind == kindX509 {
		address, transport.TLSClientConfig = "https://"+b.httpsAddr, trusting(b.t, root, i.pair(b.t))
	}
	request, err := http.NewRequest(http.MethodPost, address+"/api/v1/credentials/rotate", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/json")
	if i.kind != kindX509 {
		request.Header.Set("Authorization", "Bearer "+i.secret)
	}
	response, err := (&http.Client{Timeout: patience, Transport: transport}).Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	return string(said), err
}

func (b *box) renewOverMQTT(root string, i *identity, body string) (string, error) {
	b.t.Helper()
	own := "devices/" + i.id + "/credentials/"
	var client *mqttwire.Client
	if i.kind == kindX509 {
		var err error
		if client, _, err = connect(b.t, b.mqttsAddr, trusting(b.t, root, i.pair(b.t)), mqttwire.Login{ClientID: i.id, Clean: true}); err != nil {
			return "", err
		}
	} else {
		client = login(b.t, b.mqttAddr, i.id, i.secret)
	}
	defer client.Close()
	if suback, err := client.Subscribe(own + "response"); err != nil || suback.Code() >= 0x80 {
		return "", errors.Join(err, errors.New("not subscribed"))
	}
	if err := client.Publish(mqttwire.Message{Topic: own + "request", Payload: []byte(body), QoS: 1}); err != nil {
		return "", err
	}
	for {
		if p, err := client.Read(); err != nil || p.Type == mqttwire.Publish {
			return string(p.Payload), err
		}
	}
}

// TestPowerCutInARotation: a device that asks for another credential and loses
// the answer, with the power cut behind it, gets in with the old one, and with
// the nonce it gets the same new one over the other face. Without one it gets
// another in its place, and what was lost is void. Once the new one was used
// after another cut, the old one makes no more.
func TestPowerCutInARotation(t *testing.T) {
	t.Parallel()
	b := newBox(t).secure()
	b.start()
	root := b.root()
	all := victims(t, b)
	holders, lost := map[*victim]identity{}, map[*victim]string{}
	asked := func(v *victim) string { // the same each time
		return body(t, map[string]string{"claim_nonce": v.nonce, "csr": v.csr})
	}
	for _, v := range all {
		i := identityOf(t, v.kind, v.claims(b, v.face), v.key)
		if !b.logsIn(root, &i) {
			t.Fatalf("%s: it does not log in", v.name)
		}
		said, err := b.renew(root, v.face, &i, asked(v))
		if err != nil {
			t.Fatalf("%s: %v", v.name, err)
		}
		holders[v], lost[v] = i, said
	}
	b.kill()
	b.start()
	renewed := map[*victim]identity{}
	for _, v := range all {
		i := holders[v]
		said, err := b.renew(root, v.other(), &i, asked(v))
		if err != nil || (said == lost[v]) != (v.nonce != "") {
			t.Errorf("%s: asked again, it hears %v %s\nfirst it was %s", v.name, err, said, lost[v])
		}
		renewed[v] = identityOf(t, v.kind, said, v.key)
		first := identityOf(t, v.kind, lost[v], v.key)
		if v.nonce == "" && b.logsIn(root, &first) {
			t.Errorf("%s: what was lost logs in", v.name)
		}
		if now := renewed[v]; !b.logsIn(root, &now) {
			t.Errorf("%s: the new one does not log in", v.name)
		}
	}
	b.kill()
	b.start()
	for _, v := range all {
		i, now := holders[v], renewed[v]
		if said, err := b.renew(root, v.face, &i, asked(v)); err != nil || said != denied {
			t.Errorf("%s: the old one asks, though the new one was used: %v %s", v.name, err, said)
		}
		if !b.logsIn(root, &i) || !b.logsIn(root, &now) {
			t.Errorf("%s: within the overlap, both log in", v.name)
		}
	}
}
