package httpapi

import (
	"bytes"
	"context"
	"net/http"
	"strconv"

	"edgeclaim"

	"github.com/gin-gonic/gin"
)

const (
	// streamPage is how many rows a streamed list reads at a time: no read
	// transaction outlives a page, and memory holds one page.
	streamPage = 1000
	// maxPage is the largest page that may be asked for.
	maxPage = 10_000
)

// lister is a list that may be asked for whole or by the page.
type lister[T, ID any] struct {
	// page returns up to max rows that follow after, in a stable order.
	page func(ctx context.Context, after ID, max int) ([]T, error)
	id   func(*T) ID
	keep func(*T) bool // nil for all
	show func(*T) any  // nil for the row as it is
}

// answer writes one page after the given row when one is asked for, else
// everything.
func (l lister[T, ID]) answer(c *gin.Context, errs errorWriter, after ID) {
	if l.show == nil {
		l.show = func(row *T) any { return row }
	}
	limit, paged, err := pageLimit(c)
	switch {
	case err != nil:
		errs.told(c, err)
	case paged:
		l.some(c, errs, after, limit)
	default:
		l.stream(c, errs, after)
	}
}

func (l lister[T, ID]) keeps(row *T) bool { return l.keep == nil || l.keep(row) }

// some writes up to limit rows of those that are kept.
func (l lister[T, ID]) some(c *gin.Context, errs errorWriter, after ID, limit int) {
	kept := []any{} // [] and not null
	size := limit
	if l.keep != nil { // few may be kept, and not each is worth a transaction
		size = max(size, streamPage)
	}
	for len(kept) < limit {
		rows, err := l.page(c.Request.Context(), after, size)
		if err != nil {
			errs.told(c, err)
			return
		}
		for i := range rows {
			after = l.id(&rows[i])
			if l.keeps(&rows[i]) && len(kept) < limit {
				kept = append(kept, l.show(&rows[i]))
			}
		}
		if len(rows) < size {
			break
		}
	}
	writeJSON(c, errs, http.StatusOK, kept)
}

// stream writes every row that is kept as one JSON array, a page at a time, each
// encoded before it is written. An error after the first page can no longer be
// a status: the connection is broken off, so that nobody takes half a list for
// a whole one.
func (l lister[T, ID]) stream(c *gin.Context, errs errorWriter, after ID) {
	var body bytes.Buffer
	ctx := c.Request.Context()
	separator := "["
	for first := true; ; first = false {
		rows, err := l.page(ctx, after, streamPage)
		for i := 0; err == nil && i < len(rows); i++ {
			after = l.id(&rows[i])
			if !l.keeps(&rows[i]) {
				continue
			}
			body.WriteString(separator)
			separator = ",\n"
			err = encode(&body, l.show(&rows[i]))
		}
		if err != nil && first {
			errs.told(c, err)
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		last := len(rows) < streamPage
		if last && separator == "[" {
			body.WriteString("[")
		}
		if last {
			body.WriteString("]\n")
		}
		if first {
			c.Header("Content-Type", contentTypeJSON)
			c.Status(http.StatusOK)
		}
		if _, err := body.WriteTo(c.Writer); err != nil || last {
			return // the end, or the reader has gone
		}
	}
}

// pageLimit reads how many rows are asked for; paged is false when all are.
func pageLimit(c *gin.Context) (limit int, paged bool, err error) {
	text := c.Query("limit")
	if text == "" {
		return 0, false, nil
	}
	limit, err = strconv.Atoi(text)
	if err != nil || limit < 1 || limit > maxPage {
		return 0, true, edgeclaim.Invalid("limit", "want 1 to %d", maxPage)
	}
	return limit, true, nil
}

// readAfter reads the row that ended the page before, or answers that it is
// none.
func readAfter[ID any](c *gin.Context, errs errorWriter, after *ID, parse func(string) (ID, error)) bool {
	text := c.Query("after")
	if text == "" {
		return true
	}
	id, err := parse(text)
	if err != nil {
		errs.told(c, edgeclaim.Invalid("after", "not the id of a row"))
		return false
	}
	*after = id
	return true
}
