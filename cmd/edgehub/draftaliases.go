package main

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
)

// aliasParts is what the names of aliases documents begin with.
const aliasParts = "part-"

// aliasList is a tenant's aliases on their way into documents: one board has one
// id, and one id one board, over all of them.
type aliasList struct {
	*partedList
	kind    edgeclaim.DocumentID
	boardOf map[edgeclaim.DeviceID]string // whose alias is that device
	told    map[string]int64              // by board: when its document was issued, in Unix seconds
	// replaced is by whom a board was replaced; a document says so once of each.
	replaced map[edgeclaim.HardwareID]string
}

// aliases drafts a tenant's aliases: what is published, the ids of announced
// boards where those are not the derived ones, the swaps that boxes told of, and
// those of more.
func (d *drafter) aliases(ctx context.Context, more []edgeclaim.Alias) ([]draft, error) {
	l := aliasList{
		kind:    edgeclaim.DocumentID{Type: edgeclaim.DocumentAliases, Tenant: d.tenant},
		boardOf: map[edgeclaim.DeviceID]string{}, told: map[string]int64{}, replaced: map[edgeclaim.HardwareID]string{},
	}
	var err error
	if l.partedList, err = d.parted(ctx, l.kind.Type, aliasParts, l.load); err != nil {
		return nil, err
	}
	swaps, err := d.swaps(ctx)
	if err != nil {
		return nil, err
	}
	err = eachExpected(ctx, d.db, registry.ExpectedFilter{Tenant: d.tenant}, func(e *registry.Expected) error {
		if e.Device.IsZero() || e.Device == edgeclaim.NewDeviceID(d.tenant, e.Hardware, 1) {
			return nil
		}
		return l.put(&edgeclaim.Alias{Hardware: e.Hardware, Device: e.Device})
	})
	if err != nil {
		return nil, err
	}
	for i := range swaps {
		s := &swaps[i]
		board, known := l.boardOf[s.Device]
		if known && board != s.Hardware.String() && s.ToldAt.Unix() <= l.told[board] {
			continue // the document has seen it, and says otherwise
		}
		if err := l.put(&s.Alias); err != nil {
			return nil, err
		}
	}
	for i := range more {
		if err := l.put(&more[i]); err != nil {
			return nil, err
		}
	}
	return l.drafts(d, func(rows []json.RawMessage) any {
		return struct {
			Aliases []json.RawMessage `json:"aliases"`
		}{rows}
	})
}

// load takes what a published document says.
func (l *aliasList) load(document *edgeclaim.Document) (bool, []listRow, error) {
	rows := make([]listRow, len(document.Aliases.Aliases))
	for i := range rows {
		alias := &document.Aliases.Aliases[i]
		text, err := json.Marshal(alias)
		if err != nil {
			return false, nil, err
		}
		rows[i] = listRow{alias.Hardware.String(), text}
		l.boardOf[alias.Device] = alias.Hardware.String()
		l.told[alias.Hardware.String()] = document.IssuedAt.Unix()
		if !alias.Replaces.IsZero() {
			l.replaced[alias.Replaces] = alias.Hardware.String()
		}
	}
	return true, rows, nil
}

// put gives a board an id. Another board that has it loses it: boxes keep what
// they know, and the one that took the device over stands in its place.
func (l *aliasList) put(alias *edgeclaim.Alias) error {
	text, err := json.Marshal(alias)
	if err != nil {
		return err
	}
	row := listRow{alias.Hardware.String(), text}
	if before, known := l.alias(row.key); known && before.Device != alias.Device {
		delete(l.boardOf, before.Device)
	}
	if err := l.replaceOnce(alias); err != nil {
		return err
	}
	other, taken := l.boardOf[alias.Device]
	l.boardOf[alias.Device] = row.key
	switch _, known := l.at[row.key]; {
	case !taken || other == row.key:
		l.partedList.put(row, l.kind)
	case known: // the board has an alias of its own, which this one takes the place of
		l.remove(other)
		l.partedList.put(row, l.kind)
	default:
		l.replace(l.at[other], row, l.kind)
	}
	return nil
}

// alias is what the list says of a board.
func (l *aliasList) alias(board string) (alias edgeclaim.Alias, known bool) {
	place, known := l.at[board]
	if !known {
		return alias, false
	}
	return alias, json.Unmarshal(l.parts[place.part].rows[place.row].text, &alias) == nil // it was marshalled here
}

// replaceOnce: a board that was released after a swap may be swapped again, as
// another device. The first board that took its place does not replace it then.
func (l *aliasList) replaceOnce(alias *edgeclaim.Alias) error {
	if alias.Replaces.IsZero() {
		return nil
	}
	key := alias.Hardware.String()
	first, was := l.replaced[alias.Replaces]
	l.replaced[alias.Replaces] = key
	before, known := l.alias(first)
	if !was || first == key || !known || before.Replaces != alias.Replaces {
		return nil
	}
	before.Replaces = edgeclaim.HardwareID{}
	text, err := json.Marshal(&before)
	if err == nil {
		l.replace(l.at[first], listRow{first, text}, l.kind)
	}
	return err
}

// swaps are the boards that took devices over, as boxes told: of a device, the
// last one; in the order in which they were told.
func (d *drafter) swaps(ctx context.Context) ([]registry.Swapped, error) {
	last := map[edgeclaim.DeviceID]registry.Swapped{}
	var after edgeclaim.HardwareID
	for {
		page, err := d.db.Swaps(ctx, d.tenant, after, pageRows)
		if err != nil {
			return nil, err
		}
		for _, s := range page {
			before, known := last[s.Device]
			if !known || s.ToldAt.After(before.ToldAt) || s.ToldAt.Equal(before.ToldAt) && s.Replaces == before.Hardware {
				last[s.Device] = s
			}
		}
		if len(page) < pageRows {
			break
		}
		after = page[len(page)-1].Hardware
	}
	return slices.SortedFunc(maps.Values(last), func(x, y registry.Swapped) int {
		return cmp.Or(x.ToldAt.Compare(y.ToldAt), cmp.Compare(x.Hardware.String(), y.Hardware.String()))
	}), nil
}
