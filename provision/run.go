package provision

import (
	"context"
	"time"
)

// tellEvery is how often refusals and alarms are told upstream, added up.
const tellEvery = time.Minute

// Run tells upstream once a minute what was refused and which alarms rose, of
// devices that look cloned as they come, and of credentials that nobody uses
// once an hour; and the first two once more when ctx ends. It returns nil.
func (s *Service) Run(ctx context.Context) error {
	// What was taken out of the channel is told, whoever ends us then.
	whole := context.WithoutCancel(ctx) // the store closes after us
	ticker := time.NewTicker(tellEvery)
	defer ticker.Stop()
	sweep := time.NewTimer(sweepFirst)
	defer sweep.Stop()
	for {
		select {
		case <-ticker.C:
			s.tell(ctx)
		case what := <-s.suspicions:
			s.suspect(whole, &what)
		case <-sweep.C:
			sweep.Reset(s.sweepPage(ctx))
		case <-ctx.Done():
			s.lastWords(whole)
			return nil
		}
	}
}

func (s *Service) tell(ctx context.Context) {
	s.tellRefused(ctx)
	s.tellAlarms(ctx)
}

// lastWords tells what is known at the end.
func (s *Service) lastWords(ctx context.Context) {
	for range len(s.suspicions) {
		what := <-s.suspicions
		s.suspect(ctx, &what)
	}
	s.tell(ctx)
}
