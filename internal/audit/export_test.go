package audit

// OpenAsking is Open; before is asked before every change of a file and can
// fail it.
func OpenAsking(cfg Config, before func(op, name string) error) (*Log, error) {
	return open(cfg, before)
}

// Work is what Run does at a tick.
func (l *Log) Work() { l.work() }

// WorkNow is Work while somebody waits: a disk that failed is tried at once.
func (l *Log) WorkNow() {
	l.mu.Lock()
	l.urgent = true
	l.mu.Unlock()
	l.work()
}
