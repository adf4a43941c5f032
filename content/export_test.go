package content

// SetStep makes the store call fn before each step of its work on disk; an error ends the call that takes the step.
func (s *FS) SetStep(fn func(step string) error) { s.step = fn }

// ParseMeta is the parser of an ingest's meta file.
func ParseMeta(name string, data []byte) (ref string, err error) {
	m, err := parseMeta(name, data)
	return m.Ref, err
}

var IngestName = ingestName
