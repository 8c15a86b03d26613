package main

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"
)

// templatesBody and profilesBody are bodies whose elements stay as they were
// written: what a template leaves out is not for this program to say.
type templatesBody struct {
	Templates []json.RawMessage `json:"templates"`
	Keys      []json.RawMessage `json:"keys,omitempty"`
}

type profilesBody struct {
	Default  json.RawMessage   `json:"default,omitempty"`
	Profiles []json.RawMessage `json:"profiles,omitempty"`
}

// templates drafts a tenant's templates: what is published, with those of more in
// their place or behind; with replace, those of more alone.
func (d *drafter) templates(ctx context.Context, more *templatesBody, replace bool) ([]draft, error) {
	return draftBody(ctx, d, edgeclaim.DocumentTemplates, func(before *templatesBody) (*templatesBody, error) {
		if replace {
			before = &templatesBody{}
		}
		next := templatesBody{Templates: []json.RawMessage{}}
		var err error
		if next.Templates, err = upsert(before.Templates, more.Templates, "template_id"); err != nil {
			return nil, err
		}
		next.Keys, err = upsert(before.Keys, more.Keys, "key_id")
		return &next, err
	})
}

// profiles drafts a tenant's profiles, in the manner of templates.
func (d *drafter) profiles(ctx context.Context, more *profilesBody, replace bool) ([]draft, error) {
	return draftBody(ctx, d, edgeclaim.DocumentProfiles, func(before *profilesBody) (*profilesBody, error) {
		if replace {
			before = &profilesBody{}
		}
		next := profilesBody{Default: before.Default}
		if more.Default != nil {
			next.Default = more.Default
		}
		var err error
		next.Profiles, err = upsert(before.Profiles, more.Profiles, "profile_id")
		return &next, err
	})
}

// draftBody drafts the one document of a type: change makes its body of the one
// before, which is not its to change.
func draftBody[B any](ctx context.Context, d *drafter, kind edgeclaim.DocumentType, change func(*B) (*B, error)) ([]draft, error) {
	id := edgeclaim.DocumentID{Type: kind, Tenant: d.tenant}
	known, err := d.known(ctx, kind)
	if err != nil {
		return nil, err
	}
	published, newest := d.base(known, id)
	var before B
	var document *edgeclaim.Document
	var old []byte
	if published != nil {
		var payload []byte
		if document, payload, err = d.read(ctx, published); err != nil {
			return nil, err
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(payload, &members); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(members[string(kind)], &before); err != nil {
			return nil, err
		}
		if old, err = json.Marshal(&before); err != nil {
			return nil, err
		}
	}
	body, err := change(&before)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	head := d.head(id, newest, document)
	if bytes.Equal(text, old) && sameTerms(&head, document) {
		return nil, errNothing
	}
	one, err := finish(head, body)
	return []draft{one}, err
}

// upsert puts each of more in the place of the element of the same id, or behind
// all.
func upsert(list, more []json.RawMessage, id string) ([]json.RawMessage, error) {
	list = slices.Clone(list)
	at := map[string]int{}
	for i, element := range list {
		name, err := memberOf(element, id)
		if err != nil {
			return nil, err
		}
		at[name] = i
	}
	for _, element := range more {
		name, err := memberOf(element, id)
		if err != nil {
			return nil, err
		}
		if i, known := at[name]; known {
			list[i] = element
			continue
		}
		at[name] = len(list)
		list = append(list, element)
	}
	return list, nil
}

// memberOf is an element's id.
func memberOf(element json.RawMessage, id string) (string, error) {
	var members map[string]json.RawMessage
	var name string
	if json.Unmarshal(element, &members) != nil || json.Unmarshal(members[id], &name) != nil {
		return "", edgeclaim.Invalid(id, "want an object with one")
	}
	return name, nil
}

// readBody reads the file of --from: the body of a document, with no member that
// such a body has not. What is in it the finished draft is judged by.
func readBody[B any](a *app, from string, body *B) error {
	if from == "" {
		return nil
	}
	text, err := a.readInput(from, edgeclaim.MaxDocument*2) // it may be laid out
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(body); err != nil {
		return cli.Usagef("--from: %s: %v", from, err)
	}
	if decoder.More() {
		return cli.Usagef("--from: %s: want one JSON object", from)
	}
	return nil
}
