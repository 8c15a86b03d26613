package token

import (
	"fmt"
	"strings"

	"edgeclaim"
)

const (
	// scheme is that of RFC 6750, in any case (RFC 9110, section 11.1).
	scheme = "Bearer"
	// MaxHeader is the longest header that is looked at, in bytes: several
	// times what a token of ours needs.
	MaxHeader = 512
	// letters are those of b64token, but for the '=' that may end it.
	letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/"
)

// Parse reads the value of an Authorization header: the scheme Bearer, one
// space, a b64token (RFC 6750, section 2.1, which would allow more spaces).
// Anything else, another scheme among it, is edgeclaim.ErrUnauthenticated; the
// error never repeats the value (P5). Whether the token is one of ours, Check
// tells. Callers refuse a request with more than one such header.
func Parse(header string) (edgeclaim.Secret, error) {
	name, credentials, _ := strings.Cut(header, " ")
	if len(header) > MaxHeader || !strings.EqualFold(name, scheme) || !isB64Token(credentials) {
		return edgeclaim.Secret{}, fmt.Errorf("authorization header: %w", edgeclaim.ErrUnauthenticated)
	}
	return edgeclaim.NewSecret(credentials), nil
}

// isB64Token: 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="
func isB64Token(text string) bool {
	text = strings.TrimRight(text, "=")
	return text != "" && strings.Trim(text, letters) == ""
}
