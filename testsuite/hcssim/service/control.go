package service

import (
	"encoding/json"
	"fmt"

	"github.com/slipwayd/slipway/testsuite/hcssim/control"
)

func (s *Server) control(fields [][]byte) ([][]byte, error) {
	var c control.Request
	var a control.Answer
	err := fmt.Errorf("no request")
	if len(fields) == 1 {
		err = json.Unmarshal(fields[0], &c)
	}
	if err == nil {
		a, err = s.obey(c)
	}
	if err != nil {
		a.Error = err.Error()
	}
	b, err := json.Marshal(a)
	return [][]byte{b}, err
}

func (s *Server) obey(c control.Request) (control.Answer, error) {
	switch c.Verb {
	case "add":
		if c.Rule == nil {
			return control.Answer{}, fmt.Errorf("no rule to add")
		}
		return control.Answer{}, s.Faults.Add(*c.Rule)
	case "release":
		s.Faults.Release(c.Name)
	case "clear":
		s.Faults.Clear()
	case "hits":
		return control.Answer{Count: s.Faults.Hits(c.Name)}, nil
	case "calls":
		s.mu.Lock()
		defer s.mu.Unlock()
		calls := map[string]int{}
		for k, n := range s.calls {
			calls[k] = n
		}
		return control.Answer{Calls: calls}, nil
	case "exit":
		s.Exit()
	default:
		return control.Answer{}, fmt.Errorf("%q is no verb", c.Verb)
	}
	return control.Answer{}, nil
}
