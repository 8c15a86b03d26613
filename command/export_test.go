package command

import (
	"encoding/json"

	"edgeclaim"
)

// ParseAnswer reads what a device says of a command.
func ParseAnswer(body []byte) (id edgeclaim.CommandID, status edgeclaim.CommandStatus, result json.RawMessage, problem, err error) {
	a, err := parseAnswer(body)
	if err != nil {
		return id, "", nil, nil, err
	}
	return a.id, a.status, a.result, a.problem, nil
}

// Look is one look of Run's at what waits.
func (s *Service) Look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index.look(s.moment(), &s.cfg, longestPause)
}

// Merge is RFC 7396's.
func Merge(target, patch []byte) ([]byte, error) {
	t, err := parseTree(target)
	if err != nil {
		return nil, err
	}
	p, err := parseTree(patch)
	if err != nil {
		return nil, err
	}
	return t.merge(p).text(), nil
}

// MaxBases bounds the inherited configurations that are kept merged, and Bases
// says how many are.
const MaxBases = maxBases

func (s *Service) Bases() int {
	s.bases.mu.Lock()
	defer s.bases.mu.Unlock()
	return len(s.bases.kept)
}
