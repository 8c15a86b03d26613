package httpapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"

	"edgeclaim"

	"github.com/gin-gonic/gin"
)

// configHandler serves how a device is to work.
type configHandler struct {
	loginSide
	configs Configs
}

// show answers with the device's configuration, or with 304 where it has that.
func (h configHandler) show(c *gin.Context) {
	c.Header("Cache-Control", "private, no-cache")
	who, ok := h.admitted(c)
	if !ok {
		return
	}
	ctx, cancel := h.within(c)
	defer cancel()
	told, err := h.configs.Config(ctx, who.Device)
	if err != nil {
		h.refuse(c, edgeclaim.FormatJSON, 0, err)
		return
	}
	told = whole(told)
	tag := entityTag(told)
	c.Header("ETag", tag)
	if knows(c.Request.Header.Values("If-None-Match"), tag) {
		c.Status(http.StatusNotModified)
		c.Writer.WriteHeaderNow()
		return
	}
	c.Data(http.StatusOK, string(edgeclaim.FormatJSON), configJSON(told))
}

// whole is a configuration that is an object where nobody has set one, too.
func whole(told edgeclaim.DeviceConfig) edgeclaim.DeviceConfig {
	if len(told.Config) == 0 {
		told.Config = []byte("{}")
	}
	return told
}

func configJSON(told edgeclaim.DeviceConfig) []byte {
	body := append(make([]byte, 0, len(told.Config)+64), `{"version":`...)
	body = strconv.AppendUint(body, told.Version, 10)
	body = append(body, `,"config":`...)
	body = append(body, bytes.TrimSpace(told.Config)...)
	return append(body, '}')
}

// tagBytes of a configuration's hash are in its entity tag.
const tagBytes = 8

// entityTag names a configuration: by its version, and by what is in it, for a
// box that lost its registry counts versions anew.
func entityTag(told edgeclaim.DeviceConfig) string {
	sum := sha256.Sum256(told.Config)
	return `"` + strconv.FormatUint(told.Version, 10) + "-" + hex.EncodeToString(sum[:tagBytes]) + `"`
}

// knows reports whether one of the tags in If-None-Match is tag, by the weak
// comparison of RFC 9110, section 13.1.2. What cannot be read names nothing.
func knows(headers []string, tag string) bool {
	for _, header := range headers {
		if strings.Trim(header, " \t") == "*" {
			return true
		}
		for rest := header; ; {
			rest = strings.TrimLeft(rest, " \t,")
			rest = strings.TrimPrefix(rest, "W/")
			if !strings.HasPrefix(rest, `"`) {
				break
			}
			end := strings.IndexByte(rest[1:], '"')
			if end < 0 {
				break
			}
			end += 2 // past both quotes
			if rest[:end] == tag {
				return true
			}
			rest = rest[end:]
		}
	}
	return false
}
