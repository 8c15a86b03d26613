package broker

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"edgeclaim"
	"edgeclaim/internal/topic"
	"edgeclaim/internal/userhash"
)

// User is somebody on the line who is no device: he hears what devices say, and
// gives them commands, as far as his filters go, and nothing else.
type User struct {
	// Name is 1 to 64 characters of A-Z, a-z, 0-9, '.', '_' and '-', the first
	// of them a letter or a digit; not provision, not a UUID.
	Name string `yaml:"name"`
	// PasswordHash is bcrypt's, of a cost of 10 to 14 (edgeclaim user hash).
	PasswordHash string `yaml:"password_hash"`
	// Read is the filters of what he may hear, of devices' telemetry and
	// events: devices/+/telemetry, devices/ID/events, devices/# and the like.
	// He may subscribe to what one of them covers, also shared.
	Read []string `yaml:"read"`
	// Command is the topics he may publish commands to: devices/+/commands, or
	// devices/ID/commands.
	Command []string `yaml:"command"`
}

const (
	maxUsers    = 1_000
	maxUserName = 64
	// maxFilters bounds the filters of one user.
	maxFilters = 1_000
)

// validateUsers names the key at fault, never its value: a password is easily
// put where its hash belongs (P5).
func (c *Config) validateUsers() error {
	if len(c.Users) > maxUsers {
		return fmt.Errorf("users: want %d at most", maxUsers)
	}
	names := map[string]bool{}
	for i := range c.Users {
		u := &c.Users[i]
		if err := u.validate(); err != nil {
			return fmt.Errorf("users[%d].%w", i, err)
		}
		if names[u.Name] {
			return fmt.Errorf("users[%d].name: there already", i)
		}
		names[u.Name] = true
	}
	return nil
}

func (u *User) validate() error {
	if !validUserName(u.Name) {
		return fmt.Errorf("name: want 1 to %d of A-Z a-z 0-9 . _ -, and neither %s nor a UUID", maxUserName, claimantName)
	}
	if _, err := userhash.CostOf(u.PasswordHash); err != nil {
		return fmt.Errorf("password_hash: %w", err)
	}
	if len(u.Read) > maxFilters || len(u.Command) > maxFilters {
		return fmt.Errorf("read, command: want %d filters at most", maxFilters)
	}
	for i, filter := range u.Read {
		if !mayRead(filter) {
			return fmt.Errorf("read[%d]: want a filter of devices' telemetry or events, such as devices/+/telemetry", i)
		}
	}
	for i, filter := range u.Command {
		if !mayCommand(filter) {
			return fmt.Errorf("command[%d]: want devices/+/commands or devices/ID/commands", i)
		}
	}
	return nil
}

func validUserName(name string) bool {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	if name == "" || len(name) > maxUserName || name == claimantName || !strings.Contains(letters, name[:1]) {
		return false
	}
	_, err := edgeclaim.ParseDeviceID(name)
	return err != nil && strings.Trim(name, letters+"._-") == ""
}

// mayRead reports whether a filter may be a user's: one below devices/ that hears
// a device's telemetry or events. Nothing else is ever told to users; a filter
// that hears nothing is a mistake.
func mayRead(filter string) bool {
	if !topic.Covers("devices/#", filter) {
		return false
	}
	id := "00000000-0000-5000-8000-000000000000"
	if levels := strings.Split(filter, "/"); len(levels) > 1 && levels[1] != "+" && levels[1] != "#" {
		device, err := edgeclaim.ParseDeviceID(levels[1])
		if err != nil || device.String() != levels[1] {
			return false
		}
		id = levels[1]
	}
	prefix := "devices/" + id + "/"
	return topic.Match(filter, prefix+telemetryTopic) || topic.Match(filter, prefix+eventsTopic)
}

func mayCommand(filter string) bool {
	if filter == "devices/+/"+commandsTopic {
		return true
	}
	_, ok := commanded(filter)
	return ok
}

// commanded is the device that a topic of commands is of.
func commanded(name string) (edgeclaim.DeviceID, bool) {
	text, ok := strings.CutPrefix(name, "devices/")
	text, more, _ := strings.Cut(text, "/")
	id, err := edgeclaim.ParseDeviceID(text)
	return id, ok && more == commandsTopic && err == nil && id.String() == text
}

// maySubscribe reports whether he may hear what filter matches; a shared
// subscription gives no more than its filter does.
func (u *User) maySubscribe(filter string) bool {
	if _, plain, ok := shared(filter); ok {
		filter = plain
	}
	for _, allowed := range u.Read {
		if topic.Covers(allowed, filter) {
			return true
		}
	}
	return false
}

// mayPublish reports whether he may publish to name, which is a command then.
func (u *User) mayPublish(name string) bool {
	for _, allowed := range u.Command {
		if topic.Match(allowed, name) {
			return true
		}
	}
	return false
}

// accounts tells the users by their passwords.
type accounts struct {
	byName  map[string]*account
	dearest int  // the highest cost of all hashes
	gate    gate // one at a time computes
	refused atomic.Uint64
	// seal is the key, of this process alone, of what is remembered of
	// passwords.
	seal [sha256.Size]byte
}

type account struct {
	user *User
	cost int

	mu sync.Mutex
	// right is the HMAC of the password that bcrypt found right; nil: none was
	// yet. It lets a consumer come back without the computing. Guarded by mu.
	right []byte
}

// newAccounts takes users that were validated.
func newAccounts(users []User) *accounts {
	a := &accounts{byName: map[string]*account{}, gate: newGate()}
	_, _ = rand.Read(a.seal[:]) // never fails
	for _, user := range users {
		cost, _ := userhash.CostOf(user.PasswordHash)
		a.byName[user.Name] = &account{user: &user, cost: cost}
		a.dearest = max(a.dearest, cost)
	}
	return a
}

// attempt is a login with a name and a password.
type attempt struct {
	name     string
	password edgeclaim.Secret
	source   netip.Addr
	gone     <-chan struct{} // who asks has gone
	by       time.Time       // how long it may wait
}

// restAfterRefusal times as long as a refused password took to compute, nobody
// computes: a flood of logins costs a quarter of one core, whatever its rate.
const restAfterRefusal = 3

// login returns who it is. A name that nobody has takes as long as a wrong
// password (P3). Who finds too many before him is told to come again.
func (a *accounts) login(t *attempt) (*User, packets.Code) {
	if len(a.byName) == 0 {
		a.refused.Add(1)
		return nil, packets.ErrBadUsernameOrPassword
	}
	who := a.byName[t.name]
	if who != nil && a.remembers(who, t) {
		return who.user, packets.CodeSuccess
	}
	if !a.gate.enter(t) {
		return nil, packets.ErrServerBusy
	}
	rest := time.Duration(0)
	defer func() { a.gate.leave(rest) }()
	if who != nil && a.remembers(who, t) { // the same user's, who was before us
		return who.user, packets.CodeSuccess
	}
	began := time.Now()
	if a.check(who, t.password) {
		who.mu.Lock()
		defer who.mu.Unlock()
		who.right = a.digest(t)
		return who.user, packets.CodeSuccess
	}
	a.refused.Add(1)
	rest = restAfterRefusal * time.Since(began)
	return nil, packets.ErrBadUsernameOrPassword
}

// known is the name if somebody has it, else nothing: it may be a password.
func (a *accounts) known(name string) string {
	if a.byName[name] == nil {
		return ""
	}
	return name
}

// check takes the time of the dearest hash, unless the password is right: of a
// cheaper one it computes the steps between, each twice as dear as the one
// before.
func (a *accounts) check(who *account, password edgeclaim.Secret) bool {
	if who == nil {
		userhash.Idle(a.dearest, password)
		return false
	}
	if userhash.Check(who.user.PasswordHash, password) {
		return true
	}
	for cost := who.cost; cost < a.dearest; cost++ {
		userhash.Idle(cost, password)
	}
	return false
}

func (a *accounts) remembers(who *account, t *attempt) bool {
	who.mu.Lock()
	defer who.mu.Unlock()
	return who.right != nil && hmac.Equal(who.right, a.digest(t))
}

func (a *accounts) digest(t *attempt) []byte {
	mac := hmac.New(sha256.New, a.seal[:])
	_, _ = mac.Write([]byte(t.name + "\x00" + t.password.Reveal()))
	return mac.Sum(nil)
}

// admitUser lets a named user in. His client id means nothing, his session is
// clean, whatever he asks for, and he has no will: nobody would be told it.
func (b *Broker) admitUser(c *conn, cl *mqtt.Client, pk *packets.Packet) packets.Code {
	if pk.Connect.WillFlag {
		return packets.ErrNotAuthorized
	}
	name := string(pk.Connect.Username)
	user, code := b.accounts.login(&attempt{
		name: name, password: edgeclaim.NewSecret(string(pk.Connect.Password)),
		source: c.source(), gone: c.gone, by: time.Now().Add(b.cfg.ConnectTimeout),
	})
	if code != packets.CodeSuccess {
		if code == packets.ErrBadUsernameOrPassword && b.parts.Refused != nil {
			b.parts.Refused(b.accounts.known(name), c.source())
		}
		return code
	}
	k := newConsumer(b, c, cl, user)
	k.listensTo(pk)
	if !b.consumers.enter(k) {
		return packets.ErrServerBusy
	}
	c.consumer = k
	b.rename(c, cl, "user-"+user.Name+"-")
	b.connecting.leave(c)
	b.leaveCrowd(c)
	c.role = roleUser
	c.frame.limit = b.cfg.MaxDevicePacket
	c.pace = newPace(b.cfg.MaxDeviceRate, b.cfg.MaxDeviceBurst)
	if tcp, ok := c.sock.Conn.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true})
	}
	return packets.CodeSuccess
}
