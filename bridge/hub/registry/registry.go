// Package registry is what an application upstream knows of its boxes: their
// records, their devices and where each lane stands, in SQLite or PostgreSQL.
// It is the only importer of both. DESIGN.md says how it merges and why.
//
//   - What Apply returned is committed. An error of Apply means that nothing of
//     it is: the box is asked to send again (P8).
//   - For each epoch and lane, records ∪ holes = 1..upto, each sequence once.
//     Records that Prune took are counted by the mark.
//   - Nothing is renamed to resolve a conflict (P9): a device that two boxes
//     hold has two credentials until the policy or an operator decides.
//   - Memory does not depend on how much is stored (P7).
package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"edgeclaim"
)

// Policy decides which credential of a device stays valid when two boxes gave
// it one.
type Policy string

// The policies.
const (
	// PolicyOperator keeps all valid until somebody calls Resolve.
	PolicyOperator Policy = "operator"
	// PolicyFirst keeps the one that was committed here first; later ones are
	// void at once.
	PolicyFirst Policy = "first"
)

// Config is how a registry is opened.
type Config struct {
	// URL is "" for FileName in Dir, sqlite:PATH, or postgres://… as libpq
	// writes it, which may hold a password and is never repeated in an error.
	URL string
	// Dir is made when it is missing (mode 0700); of no use beside a URL.
	Dir string
	// Policy is PolicyOperator when empty.
	Policy Policy
	// Tenants are those that are served; empty serves all.
	Tenants []edgeclaim.TenantID
	// Now is time.Now when nil. No merge rests on it: it is what people see, and
	// when Verify holds overlaps and certificates to have ended.
	Now    func() time.Time
	Logger *slog.Logger // no log when nil
}

// FileName is the SQLite file in Config.Dir.
const FileName = "hub.db"

const (
	// readers is how many queries run at once, each on a connection.
	readers = 4
	// finishTimeout bounds a COMMIT or ROLLBACK, which no caller may cut off.
	finishTimeout = 30 * time.Second
)

// DB is an open registry. All methods may be called at once, also by several
// processes: changes take turns.
type DB struct {
	dialect *dialect
	driver  string // of database/sql, and what it opens
	source  string
	write   *sql.DB // one connection
	read    *sql.DB
	turn    chan struct{} // holds the right to use writer
	writer  *writer       // nil until used, and after its connection broke

	policy  Policy
	tenants map[edgeclaim.TenantID]bool // empty: all
	now     func() time.Time
	log     *slog.Logger
	id      string
}

// Open opens the registry, and makes or brings up to date its tables. A
// database of a later version is refused and not touched. ErrInvalid: the
// configuration.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	switch cfg.Policy {
	case "":
		cfg.Policy = PolicyOperator
	case PolicyOperator, PolicyFirst:
	default:
		return nil, edgeclaim.Invalid("policy", "want %s or %s", PolicyOperator, PolicyFirst)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	db := &DB{
		turn: make(chan struct{}, 1), policy: cfg.Policy, now: cfg.Now, log: cfg.Logger,
		tenants: make(map[edgeclaim.TenantID]bool, len(cfg.Tenants)),
	}
	for _, tenant := range cfg.Tenants {
		db.tenants[tenant] = true
	}
	if err := db.connect(cfg); err != nil {
		return nil, err
	}
	if err := db.migrate(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// Close waits for a running change and closes the database.
func (db *DB) Close() error {
	db.turn <- struct{}{}
	defer func() { <-db.turn }()
	db.dropWriter()
	return errors.Join(db.read.Close(), db.write.Close())
}

// Ping reports whether the database answers.
func (db *DB) Ping(ctx context.Context) error { return db.read.PingContext(ctx) }

// ID names this database upstream, made once with it: 26 characters.
func (db *DB) ID() string { return db.id }

// SigningKey is the id of the key that signs for this database, as BindKey noted
// it; empty while none does.
func (db *DB) SigningKey(ctx context.Context) (id string, err error) {
	err = db.read.QueryRowContext(ctx, db.dialect.text(`SELECT value FROM meta WHERE name = ?`), metaKey).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return id, err
}

// BindKey notes the id of the key that signs for this database: boxes were
// enrolled with it, and take nothing that another has signed. ErrConflict:
// another one signs already, unless replace says that it shall not any more.
func (db *DB) BindKey(ctx context.Context, id string, replace bool) error {
	return db.change(ctx, func(w *writer) error {
		var bound string
		found, err := w.one(ctx, `SELECT value FROM meta WHERE name = ?`, []any{metaKey}, &bound)
		switch {
		case err != nil || found && bound == id:
			return err
		case found && !replace:
			return fmt.Errorf("%w: the key %s signs for this database, not %s", edgeclaim.ErrConflict, bound, id)
		}
		return w.run(ctx, `INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, metaKey, id)
	})
}

// change runs do in one transaction that no other change, of this or another
// process, overlaps. An error means that nothing of it is stored, but for a
// COMMIT whose outcome could not be learnt.
func (db *DB) change(ctx context.Context, do func(*writer) error) (err error) {
	select {
	case db.turn <- struct{}{}:
		defer func() { <-db.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if db.writer == nil {
		conn, err := db.write.Conn(ctx)
		if err != nil {
			return fmt.Errorf("registry: %w", err)
		}
		db.writer = &writer{conn: conn, dialect: db.dialect, statements: map[string]*sql.Stmt{}}
	}
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	if err = db.writer.begin(ctx); err == nil {
		if err = do(db.writer); err == nil {
			err = db.writer.finish(finish, "COMMIT")
		}
	}
	if err == nil {
		return nil
	}
	if rollback := db.writer.finish(finish, "ROLLBACK"); rollback != nil {
		db.dropWriter()
	}
	return fmt.Errorf("registry: %w", err)
}

// dropWriter gives the connection up, so that the next change takes a new one.
// An open transaction ends with it.
func (db *DB) dropWriter() {
	if db.writer == nil {
		return
	}
	db.writer.close()
	db.writer = nil
}

// micros is a time as it is stored: microseconds since 1970, 0 for none.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// fromMicros reads what micros wrote.
func fromMicros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

// flag is a truth as both databases store it.
func flag(is bool) int64 {
	if is {
		return 1
	}
	return 0
}
