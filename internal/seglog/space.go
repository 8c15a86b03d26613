package seglog

import (
	"math"
	"sync"
	"time"
)

// freeFor is how long what the file system says of its free space is believed.
const freeFor = 100 * time.Millisecond

// space watches the file system's free space.
type space struct {
	dir     string
	reserve int64 // to be left alone; 0: nobody looks
	ask     func(dir string) (int64, error)

	mu   sync.Mutex
	seen time.Time
	left int64 // free beyond the reserve when it was seen, and reckoned since
	poor bool  // it was below the reserve when it was seen
}

// beyond returns how many bytes are free beyond the reserve. It asks again when
// that is long ago, or now is set. What cannot be found out is taken for plenty.
func (s *space) beyond(now bool) int64 {
	if s.reserve == 0 {
		return math.MaxInt64
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now || s.seen.IsZero() || time.Since(s.seen) >= freeFor {
		s.left = math.MaxInt64
		if free, err := s.ask(s.dir); err == nil {
			s.left = free - s.reserve
		}
		s.poor = s.left <= 0
		s.seen = time.Now()
	}
	return s.left
}

// reckon changes what is left by what was written or given back since it was
// seen: a file system may take its time to give back.
func (s *space) reckon(by int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left != math.MaxInt64 {
		s.left += by
	}
}

// low says whether the file system is below the reserve.
func (s *space) low() bool {
	s.beyond(false)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.poor
}
