package registry

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
)

// writer is the one connection that changes. Its statements are prepared once:
// to parse them would take longer than to run them.
type writer struct {
	conn       *sql.Conn
	dialect    *dialect
	statements map[string]*sql.Stmt
}

func (w *writer) begin(ctx context.Context) error {
	for _, statement := range w.dialect.begin {
		if err := w.finish(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// finish runs a statement without arguments, COMMIT for one.
func (w *writer) finish(ctx context.Context, statement string) error {
	_, err := w.conn.ExecContext(ctx, statement)
	return err
}

func (w *writer) close() {
	for _, statement := range w.statements {
		_ = statement.Close() // the connection goes too
	}
	_ = w.conn.Close()
}

func (w *writer) prepare(ctx context.Context, statement string) (*sql.Stmt, error) {
	if prepared, ok := w.statements[statement]; ok {
		return prepared, nil
	}
	prepared, err := w.conn.PrepareContext(ctx, w.dialect.text(statement))
	if err != nil {
		return nil, err
	}
	w.statements[statement] = prepared
	return prepared, nil
}

func (w *writer) exec(ctx context.Context, statement string, args ...any) (sql.Result, error) {
	prepared, err := w.prepare(ctx, statement)
	if err != nil {
		return nil, err
	}
	return prepared.ExecContext(ctx, args...)
}

// run is exec for those who need no count.
func (w *writer) run(ctx context.Context, statement string, args ...any) error {
	_, err := w.exec(ctx, statement, args...)
	return err
}

// one reads a single row; found is false when there is none.
func (w *writer) one(ctx context.Context, statement string, args []any, into ...any) (found bool, err error) {
	prepared, err := w.prepare(ctx, statement)
	if err != nil {
		return false, err
	}
	err = prepared.QueryRowContext(ctx, args...).Scan(into...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// each calls row for every row; row scans it.
func (w *writer) each(ctx context.Context, statement string, args []any, row func(*sql.Rows) error) error {
	prepared, err := w.prepare(ctx, statement)
	if err != nil {
		return err
	}
	rows, err := prepared.QueryContext(ctx, args...)
	return eachRow(rows, err, row)
}

// eachRow reads rows to their end and closes them.
func eachRow(rows *sql.Rows, err error, row func(*sql.Rows) error) error {
	if err != nil {
		return err
	}
	for err == nil && rows.Next() {
		err = row(rows)
	}
	return errors.Join(err, rows.Err(), rows.Close())
}

// chunks are how many rows one statement takes: few lengths, so that all of
// them stay prepared.
func chunks() []int { return []int{64, 8, 1} }

// A bulk statement is repeated for many rows at once.
type bulk struct {
	head    string // INTO … VALUES, behind the dialect's INSERT
	columns int
	tail    string // ON CONFLICT …
}

// insert writes rows, whose columns lie one after the other in args.
func (w *writer) insert(ctx context.Context, b bulk, args []any) error {
	row := ",(" + strings.Repeat(",?", b.columns)[1:] + ")"
	for _, size := range chunks() {
		for n := size * b.columns; len(args) >= n; args = args[n:] {
			if err := w.run(ctx, w.dialect.insert+b.head+strings.Repeat(row, size)[1:]+b.tail, args[:n]...); err != nil {
				return err
			}
		}
	}
	return nil
}

// among calls row for each row of a query that ends in IN, for any number of
// keys.
func (w *writer) among(ctx context.Context, query string, keys []any, row func(*sql.Rows) error) error {
	return among(query, keys, func(statement string, part []any) error { return w.each(ctx, statement, part, row) })
}

// among cuts a query that ends in IN, for any number of keys, into statements
// of few lengths. The last key fills a list up: twice in a list, it is still
// found once.
func among(query string, keys []any, run func(statement string, part []any) error) error {
	most := chunks()[0]
	for part := range slices.Chunk(keys, most) {
		size := most
		for _, smaller := range chunks()[1:] {
			if smaller >= len(part) {
				size = smaller
			}
		}
		full := make([]any, size)
		for i := range full {
			full[i] = part[min(i, len(part)-1)]
		}
		if err := run(query+" IN ("+strings.Repeat(",?", size)[1:]+")", full); err != nil {
			return err
		}
	}
	return nil
}
