package bridge

import (
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// reportEvery is the least time between two reports of one session: what changes
// together is told together.
const reportEvery = time.Second

// stated are the documents that a hello states, nil where the box takes none.
func (c *conversation) stated() []wire.DocumentVersion {
	if !c.takes() {
		return nil
	}
	stated := []wire.DocumentVersion{}
	for _, d := range c.parts.Documents.Held() {
		if len(stated) == wire.MaxStated {
			break
		}
		if d.Version == 0 || !d.Confirmed && d.Type != edgeclaim.DocumentSigner {
			continue
		}
		stated = append(stated, wire.DocumentVersion{DocumentID: d.DocumentID, Version: d.Version, Hash: d.Hash})
	}
	return stated
}

// reportSoon has what the box holds told soon.
func (c *conversation) reportSoon(now time.Time) {
	if !c.takes() || c.phase != welcomed {
		return
	}
	at := now
	if next := c.reported.Add(reportEvery); next.After(now) {
		at = next
	}
	if c.report.IsZero() || at.Before(c.report) {
		c.report = at
	}
}

// sayReport tells which documents the box has, and how they are.
func (c *conversation) sayReport(now time.Time) error {
	c.report, c.reported = time.Time{}, now
	held := c.parts.Documents.Held()
	list := newNonce()
	for page := uint64(1); ; page++ {
		n := min(len(held), wire.MaxReported)
		m := &wire.DocumentsReport{
			Type: wire.TypeDocuments, Box: c.identity.Box, Epoch: c.epoch, Nonce: c.nonce,
			List: list, Page: page, Last: n == len(held), Documents: make([]wire.DocumentReport, n),
		}
		for i := range held[:n] {
			m.Documents[i] = reported(&held[i])
		}
		if err := c.say(wire.KindControl, m); err != nil || m.Last {
			return err
		}
		held = held[n:]
	}
}

func reported(d *edgeclaim.DocumentState) wire.DocumentReport {
	return wire.DocumentReport{
		DocumentID: d.DocumentID, Version: d.Version, Hash: d.Hash,
		Confirmed: d.Confirmed, Stale: d.Stale, Age: max(0, d.Age), Refused: d.Refused, RefusedVersion: d.RefusedVersion,
	}
}
