package httpapi

import (
	"crypto/rand"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/gin-gonic/gin"
)

const (
	requestIDHeader = "X-Request-Id"
	maxRequestID    = 64 // characters
	requestIDChars  = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
)

// requestID gives every answer a request id: the caller's own where it is a
// plain word, else a fresh one, unique to this run of the program.
func requestID() gin.HandlerFunc {
	run := rand.Text()[:12]
	var count atomic.Uint64
	return func(c *gin.Context) {
		id := c.GetHeader(requestIDHeader)
		if id == "" || len(id) > maxRequestID || strings.Trim(id, requestIDChars) != "" {
			id = run + "-" + strconv.FormatUint(count.Add(1), 10)
		}
		c.Header(requestIDHeader, id)
		c.Next()
	}
}
