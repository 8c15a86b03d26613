package bridge

import (
	"context"
	"encoding/json"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// ordersAtOnce is how many devices' commands are kept at once, so that they
// share a commit.
const ordersAtOnce = 64

// hearOrders has the box keep what upstream wants devices to do, those of one
// device in the order they came. One that cannot be kept now is thrown away:
// upstream says it again until the record of its status comes.
func (c *conversation) hearOrders(ctx context.Context, l *letter) {
	if c.parts.Commands == nil || len(l.orders)+len(l.cancels) == 0 {
		return
	}
	var devices []edgeclaim.DeviceID
	orders := map[edgeclaim.DeviceID][]*wire.Order{}
	for i := range l.orders {
		o := &l.orders[i]
		if orders[o.Device] == nil {
			devices = append(devices, o.Device)
		}
		orders[o.Device] = append(orders[o.Device], o)
	}
	var group errgroup.Group
	group.SetLimit(ordersAtOnce)
	for _, id := range devices {
		group.Go(func() error {
			for _, o := range orders[id] {
				if err := c.order(ctx, o); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := group.Wait()
	for i := 0; i < len(l.cancels) && err == nil; i++ {
		err = c.parts.Commands.Cancel(ctx, l.cancels[i].Device, l.cancels[i].ID, c.upstream)
	}
	if err != nil && ctx.Err() == nil {
		c.logger.Warn("commands from upstream were not all taken; it says them again", "err", err)
	}
}

// order has the box keep one command.
func (c *conversation) order(ctx context.Context, o *wire.Order) error {
	return c.parts.Commands.Order(ctx, edgeclaim.Order{
		ID: o.ID, Device: o.Device, Payload: json.RawMessage(o.Payload), ExpiresAt: o.ExpiresAt,
		Origin: edgeclaim.OriginUpstream, By: c.upstream,
	})
}
