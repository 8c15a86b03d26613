package mint

// Message is what a secret is the HMAC of.
func Message(in *Input) []byte { return in.message() }
