package httpapi

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"edgeclaim"

	"github.com/gin-gonic/gin"
)

// uncompressed refuses a body that would have to be unpacked: a few bytes of it
// could be a gigabyte. Nothing of it is read.
func uncompressed(errs errorWriter) gin.HandlerFunc {
	return func(c *gin.Context) {
		for _, encoding := range c.Request.Header.Values("Content-Encoding") {
			if !strings.EqualFold(strings.TrimSpace(encoding), "identity") {
				c.Header("Connection", "close")
				errs.status(c, http.StatusUnsupportedMediaType, "content_encoding: want identity")
				return
			}
		}
	}
}

// formatOf reads a Content-Type: JSON with or without a UTF-8 charset, or CBOR.
func formatOf(contentType string) (edgeclaim.Format, error) {
	if contentType == string(edgeclaim.FormatJSON) { // what nearly everyone sends
		return edgeclaim.FormatJSON, nil
	}
	media, params, err := mime.ParseMediaType(contentType)
	if err == nil {
		charset, hasCharset := params["charset"]
		switch {
		case media == string(edgeclaim.FormatJSON) && len(params) == 0,
			media == string(edgeclaim.FormatJSON) && len(params) == 1 && hasCharset && strings.EqualFold(charset, "utf-8"):
			return edgeclaim.FormatJSON, nil
		case media == string(edgeclaim.FormatCBOR) && len(params) == 0:
			return edgeclaim.FormatCBOR, nil
		}
	}
	return "", edgeclaim.Invalid("content_type", "want %s or %s", edgeclaim.FormatJSON, edgeclaim.FormatCBOR)
}

// readBody reads what the rule may see. A body that says it is too large is
// refused before a byte of it is read.
func readBody(c *gin.Context) ([]byte, error) {
	declared := c.Request.ContentLength
	if declared > edgeclaim.MaxClaimBody {
		c.Header("Connection", "close")
		return nil, edgeclaim.ErrBodyTooLarge
	}
	reader := http.MaxBytesReader(c.Writer, c.Request.Body, edgeclaim.MaxClaimBody)
	var body []byte
	var err error
	if declared > 0 {
		body = make([]byte, declared)
		_, err = io.ReadFull(reader, body)
	} else {
		body, err = io.ReadAll(reader)
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, edgeclaim.ErrBodyTooLarge
	}
	if err != nil {
		return nil, edgeclaim.Invalid("body", "not read to its end")
	}
	return body, nil
}

// source is the peer's address; no header is believed.
func source(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{} // a Unix socket has none
	}
	return peer.Addr().Unmap()
}

// pathValue returns a parameter of the path, unescaped. net/http has done so
// already where the path needs no spelling of its own.
func pathValue(c *gin.Context, name string) string {
	text := c.Param(name)
	if c.Request.URL.RawPath == "" {
		return text
	}
	if plain, err := url.PathUnescape(text); err == nil {
		return plain
	}
	return text
}
