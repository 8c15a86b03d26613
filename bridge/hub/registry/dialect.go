package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "modernc.org/sqlite"             // the driver "sqlite"

	"edgeclaim"
)

// dialect is all that the two databases do not share.
type dialect struct {
	name string
	// begin are the statements that open a change: once they are through, no
	// other change, of whatever process, runs beside it.
	begin []string
	// types replace the words of schema.go.
	types *strings.Replacer
	// dollar: arguments are $1, $2, … instead of ?.
	dollar bool
	// insert begins an INSERT of many rows. Whatever fails ends the change, so
	// SQLite need not keep a journal for each statement.
	insert string
}

// writerLock is the key of PostgreSQL's advisory lock, "edgehub" as digits. A
// lock on the box's row alone would let two boxes claim one device at once,
// each without seeing the other.
const writerLock = 0x65646765687562

// The dialects. A table without rowid keeps its rows in its key's order: one
// random page for each device, not two.
func sqlite() *dialect {
	return &dialect{
		name:   "sqlite",
		begin:  []string{"BEGIN IMMEDIATE"},
		insert: "INSERT OR ROLLBACK ",
		types:  strings.NewReplacer("BYTES", "BLOB", "INTEGER_KEY", "INTEGER PRIMARY KEY", "CLUSTERED", "WITHOUT ROWID"),
	}
}

func postgres() *dialect {
	return &dialect{
		name:   "postgres",
		begin:  []string{"BEGIN", fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", int64(writerLock))},
		types:  strings.NewReplacer("BYTES", "BYTEA", "INTEGER_KEY", "BIGINT PRIMARY KEY", "CLUSTERED", ""),
		dollar: true,
		insert: "INSERT ",
	}
}

// text writes a statement's arguments as the database wants them.
func (d *dialect) text(statement string) string {
	if !d.dollar {
		return statement
	}
	var b strings.Builder
	for n := 1; ; n++ {
		before, after, found := strings.Cut(statement, "?")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteString("$" + strconv.Itoa(n))
		statement = after
	}
}

// SQLite's settings. FULL: a commit is on the disk when it returns, also after
// a power cut (P1). Foreign keys are off: all rows are written here, in order.
const (
	busyTimeout   = 15_000 // milliseconds to wait for another process's change
	writerCache   = 64     // MiB
	readerCache   = 8      // MiB, each
	pageBytes     = 8192
	walPages      = 4000       // before it is folded into the file
	walKeepsBytes = 256 << 20  // of the log's file, after a large change
	sqliteScheme  = "sqlite:"  // of Config.URL
	postgresName  = "postgres" // its schemes
	postgresLong  = "postgresql"
)

func (db *DB) connect(cfg Config) error {
	scheme, rest, _ := strings.Cut(cfg.URL, ":")
	switch {
	case cfg.URL == "" && cfg.Dir == "":
		return edgeclaim.Invalid("database", "want a URL or a folder")
	case cfg.URL == "":
		if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
			return err
		}
		return db.connectSQLite(filepath.Join(cfg.Dir, FileName))
	case strings.HasPrefix(cfg.URL, sqliteScheme) && rest != "":
		return db.connectSQLite(strings.TrimPrefix(rest, "//"))
	case scheme == postgresName || scheme == postgresLong:
		return db.connectPostgres(cfg.URL)
	}
	return edgeclaim.Invalid("database", "want sqlite:PATH or postgres://…")
}

func (db *DB) connectSQLite(path string) error {
	// SQLite gives its log and index the mode of the file.
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(isSQLite(file), file.Close()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	db.dialect = sqlite()
	db.driver, db.source = "sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()
	open := func(connections int, pragmas ...string) (*sql.DB, error) {
		query := url.Values{"_pragma": pragmas, "_txlock": {"immediate"}}
		opened, err := sql.Open(db.driver, db.source+"?"+query.Encode())
		if err != nil {
			return nil, err
		}
		opened.SetMaxOpenConns(connections)
		opened.SetMaxIdleConns(connections)
		return opened, nil
	}
	busy := fmt.Sprintf("busy_timeout(%d)", busyTimeout)
	db.write, err = open(1, busy, "journal_mode(WAL)", "synchronous(FULL)",
		"foreign_keys(OFF)", fmt.Sprintf("cache_size(-%d)", writerCache<<10), fmt.Sprintf("wal_autocheckpoint(%d)", walPages),
		fmt.Sprintf("journal_size_limit(%d)", walKeepsBytes))
	if err != nil {
		return err
	}
	db.read, err = open(readers, busy, "query_only(ON)", fmt.Sprintf("cache_size(-%d)", readerCache<<10))
	return err
}

// isSQLite refuses a file that is another program's. An empty one is to be made.
func isSQLite(file io.Reader) error {
	const magic = "SQLite format 3\x00"
	begins := make([]byte, len(magic))
	n, err := io.ReadFull(file, begins)
	if n > 0 && string(begins[:n]) != magic[:n] {
		return errors.New("not a SQLite database")
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

func (db *DB) connectPostgres(text string) error {
	db.dialect = postgres()
	db.driver, db.source = "pgx", text
	open := func(connections int) (*sql.DB, error) {
		opened, err := sql.Open(db.driver, db.source)
		if err != nil {
			return nil, edgeclaim.Invalid("database", "not a URL that PostgreSQL takes")
		}
		opened.SetMaxOpenConns(connections)
		opened.SetMaxIdleConns(connections)
		return opened, nil
	}
	var err error
	if db.write, err = open(1); err != nil {
		return err
	}
	db.read, err = open(readers)
	return err
}

// query runs a query beside the changes.
func (db *DB) query(ctx context.Context, statement string, args ...any) (*sql.Rows, error) {
	return db.read.QueryContext(ctx, db.dialect.text(statement), args...)
}
