package bridge

import (
	"context"
	"encoding/json"

	"golang.org/x/sync/errgroup"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// ordersAtOnce is how many devices' commands are kept, or commands taken back, at
// once, so that they share a commit.
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
	var keeping errgroup.Group
	keeping.SetLimit(ordersAtOnce)
	for _, id := range devices {
		keeping.Go(func() error {
			for _, o := range orders[id] {
				if err := c.order(ctx, o); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := keeping.Wait()
	if err == nil {
		err = c.takeBack(ctx, l.cancels)
	}
	if err != nil && ctx.Err() == nil {
		c.logger.Warn("commands from upstream were not all taken; it says them again", "err", err)
	}
}

// takeBack has the box forget commands, which it has to know by then.
func (c *conversation) takeBack(ctx context.Context, cancels []wire.OrderName) error {
	var group errgroup.Group
	group.SetLimit(ordersAtOnce)
	for _, name := range cancels {
		group.Go(func() error { return c.parts.Commands.Cancel(ctx, name.Device, name.ID, c.upstream) })
	}
	return group.Wait()
}

// order has the box keep one command.
func (c *conversation) order(ctx context.Context, o *wire.Order) error {
	return c.parts.Commands.Order(ctx, edgeclaim.Order{
		ID: o.ID, Device: o.Device, Payload: json.RawMessage(o.Payload), ExpiresAt: o.ExpiresAt,
		Origin: edgeclaim.OriginUpstream, By: c.upstream,
	})
}
