package cli

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// Day is what people count an expiry in.
const Day = 24 * time.Hour

// maxDays bounds a span before it is multiplied: above it, it would not fit.
const maxDays = 100 * 365

// ParseSpan reads a length of time, as Go writes one or in whole days: 90d.
func ParseSpan(text string) (time.Duration, error) {
	if whole, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(whole, 10, 31); err == nil && n <= maxDays {
			return time.Duration(n) * Day, nil
		}
	} else if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return d, nil
	}
	return 0, errors.New("want a length of time such as 90d, 24h or 30m")
}
