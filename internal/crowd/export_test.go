package crowd

// Sources is how many sources are counted.
func (c *Crowd) Sources() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}
