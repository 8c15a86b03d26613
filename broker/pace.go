package broker

import "time"

// pace is the rate of one client's packets: so many a second, and a burst of
// them at once. The zero value sets no bound. It belongs to the goroutine that
// reads.
type pace struct {
	each  time.Duration // what a packet costs
	burst time.Duration // what may be owed
	paid  time.Time     // until when the packets so far have used up the rate
}

func newPace(rate, burst int) pace {
	each := time.Second / time.Duration(rate)
	return pace{each: each, burst: time.Duration(burst) * each}
}

// spend counts packets that came; fewer than none gives some back.
func (p *pace) spend(now time.Time, packets int) {
	if p.paid.Before(now) {
		p.paid = now
	}
	p.paid = p.paid.Add(time.Duration(packets) * p.each)
}

// ahead is how long to wait until another may come.
func (p *pace) ahead(now time.Time) time.Duration {
	if p.each == 0 {
		return 0
	}
	return p.paid.Sub(now.Add(p.burst))
}
