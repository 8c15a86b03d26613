package provision

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"edgeclaim"
)

// maxInherited bounds the names of the groups and tags of a new device, in bytes:
// they are in its record, which has to fit into the outbox. What the template,
// or the device's own row, says is not left out for it.
const maxInherited = 16 << 10

// heritage is what a new device gets beside its credential. Of two that say the
// same, the later of tenant default, profile and its own wins.
type heritage struct {
	room   int // bytes left for what is inherited
	groups []string
	tags   map[string]string
}

// inherit gathers what a device gets of its tenant's default, its profile, and
// by itself.
func inherit(from edgeclaim.Inherited, groups []string, tags map[string]string) heritage {
	h := heritage{room: maxInherited}
	lists := [3][]string{2: groups}
	for i, profile := range []*edgeclaim.Profile{from.Default, from.Profile} {
		if profile != nil {
			lists[i] = profile.Groups
		}
	}
	h.groups = h.union(lists)
	h.tag(tags, true)
	for _, profile := range []*edgeclaim.Profile{from.Profile, from.Default} {
		if profile != nil {
			h.tag(profile.Tags, false)
		}
	}
	return h
}

// union is what is in the lists, in their order and without repeats: at most
// MaxGroups, of which the last list's have the first claim.
func (h *heritage) union(lists [3][]string) []string {
	if len(lists[0]) == 0 && len(lists[1]) == 0 {
		return lists[2] // as it is: nothing is copied where nothing is inherited
	}
	chosen := map[string]bool{}
	for i := len(lists) - 1; i >= 0; i-- {
		for _, group := range lists[i] {
			own := i == len(lists)-1
			if chosen[group] || len(chosen) >= edgeclaim.MaxGroups || !own && len(group) > h.room {
				continue
			}
			chosen[group] = true
			h.room -= len(group)
		}
	}
	var all []string
	for _, group := range slices.Concat(lists[:]...) {
		if chosen[group] {
			chosen[group] = false
			all = append(all, group)
		}
	}
	return all
}

// tag adds tags whose names are not there yet, in the order of their names, as
// long as there is room; the device's own in any case.
func (h *heritage) tag(tags map[string]string, own bool) {
	if len(tags) == 0 {
		return
	}
	if h.tags == nil {
		h.tags = map[string]string{}
	}
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		size := len(name) + len(tags[name])
		if _, there := h.tags[name]; there || len(h.tags) >= edgeclaim.MaxTags || !own && size > h.room {
			continue
		}
		h.tags[name] = tags[name]
		h.room -= size
	}
}

// policy is how a device's credentials are made, as its profile says, else its
// tenant's default, else the box.
type policy struct {
	validity time.Duration // of a certificate
	overlap  time.Duration // beside one that the device asked for itself
}

func (s *Service) policyOf(tenant edgeclaim.TenantID, profile string) policy {
	return s.policyIn(s.store.Inherited(tenant, profile))
}

func (s *Service) policyIn(from edgeclaim.Inherited) policy {
	var said edgeclaim.CredentialsPolicy
	for _, p := range []*edgeclaim.Profile{from.Profile, from.Default} {
		if p != nil && p.Credentials != nil {
			said.X509Validity = cmp.Or(said.X509Validity, p.Credentials.X509Validity)
			said.Overlap = cmp.Or(said.Overlap, p.Credentials.Overlap)
		}
	}
	return policy{
		validity: cmp.Or(time.Duration(said.X509Validity)*time.Second, s.cfg.X509Validity),
		overlap:  cmp.Or(time.Duration(said.Overlap)*time.Second, s.cfg.DeviceOverlap),
	}
}

// profileOf is a new device's profile: its own row's, else the template's.
func profileOf(p *edgeclaim.Present) string {
	if p.Listed != nil && p.Listed.Profile != "" {
		return p.Listed.Profile
	}
	return p.Grant.Template.Profile
}
