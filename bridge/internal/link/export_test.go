package link

// GuardReads gives the fuzz test a guard that follows the pieces of a stream.
func GuardReads(maxInbound int, pieces ...[]byte) error {
	g := guard{maxInbound: maxInbound}
	for _, p := range pieces {
		if err := g.read(p); err != nil {
			return err
		}
	}
	return nil
}

var PublishID = publishID
