package main

import (
	"context"
	"errors"

	"edgeclaim"
	"edgeclaim/provision/httpapi"
	"edgeclaim/store"
)

// requeuePart is how many records in quarantine are looked at before a requeue
// of all answers, so that each call ends soon.
const requeuePart = 1000

// quarantine is what an operator does with the records in quarantine. It
// implements httpapi.Quarantine.
type quarantine struct{ db *store.DB }

// Quarantine implements httpapi.Quarantine.
func (q quarantine) Quarantine(ctx context.Context, after string, limit int) ([]edgeclaim.Quarantined, error) {
	return q.db.Quarantine(ctx, after, limit)
}

// QuarantinedRecord implements httpapi.Quarantine.
func (q quarantine) QuarantinedRecord(ctx context.Context, id string) (edgeclaim.Record, edgeclaim.Quarantined, error) {
	return q.db.QuarantinedRecord(ctx, id)
}

// Requeue implements httpapi.Quarantine.
func (q quarantine) Requeue(ctx context.Context, what httpapi.Requeue) (httpapi.Requeued, error) {
	if what.All {
		return q.requeueAll(ctx, what.After)
	}
	if !what.Device.IsZero() {
		n, err := q.db.Requeue(ctx, what.Device)
		return httpapi.Requeued{Records: n}, err
	}
	_, record, err := q.db.QuarantinedRecord(ctx, what.ID)
	if err != nil {
		return httpapi.Requeued{}, err
	}
	n, err := q.requeue(ctx, &record)
	return httpapi.Requeued{Records: n}, err
}

// requeue takes a record back, with the others of its device: one before its
// elders would be told in the wrong order.
func (q quarantine) requeue(ctx context.Context, record *edgeclaim.Quarantined) (int, error) {
	if !record.Device.IsZero() {
		return q.db.Requeue(ctx, record.Device)
	}
	return 1, q.db.RequeueRecord(ctx, record.ID)
}

func (q quarantine) requeueAll(ctx context.Context, after string) (httpapi.Requeued, error) {
	page, err := q.db.Quarantine(ctx, after, requeuePart)
	if err != nil {
		return httpapi.Requeued{}, err
	}
	var done httpapi.Requeued
	gone := map[edgeclaim.DeviceID]bool{}
	for i := range page {
		device := page[i].Device
		if gone[device] {
			continue
		}
		n, err := q.requeue(ctx, &page[i])
		switch {
		case errors.Is(err, edgeclaim.ErrNotFound): // somebody else was quicker
		case err != nil:
			return done, err
		default:
			done.Records += n
		}
		gone[device] = !device.IsZero()
	}
	if len(page) == requeuePart {
		done.Next = page[len(page)-1].ID
	}
	return done, nil
}

// Discard implements httpapi.Quarantine.
func (q quarantine) Discard(ctx context.Context, id string) (edgeclaim.Quarantined, error) {
	_, record, err := q.db.QuarantinedRecord(ctx, id)
	if err != nil {
		return edgeclaim.Quarantined{}, err
	}
	return record, q.db.Discard(ctx, id)
}
