package networks

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
)

type request struct {
	ResourceType, RequestType string
	Settings                  json.RawMessage
}

// Modify changes an object: a namespace's endpoints and containers, the policies of networks and endpoints, all of a load
// balancer or route.
func (s *Service) Modify(client string, k Kind, h uint64, settings string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, o, err := s.get(client, k, h)
	if err != nil {
		return err
	}
	if k == LoadBalancer || k == Route {
		fresh, err := parse(k, settings)
		if err != nil {
			return err
		}
		fresh.set("ID", id)
		s.all(k)[id] = fresh
		return s.save()
	}
	var r request
	if err := json.Unmarshal([]byte(settings), &r); err != nil {
		return badJSON("%v", err)
	}
	if !slices.Contains([]string{"Add", "Remove", "Update", "Refresh"}, r.RequestType) {
		return badJSON("'%s' is no RequestType", r.RequestType)
	}
	switch {
	case k == Namespace:
		err = s.modifyNamespace(id, o, r)
	case r.ResourceType == "Policy":
		err = s.modifyPolicies(o, r)
	case k == Endpoint && r.ResourceType == "Port", k == Network && (r.ResourceType == "DNS" || r.ResourceType == "Extension"):
	default:
		err = hresult.New(hresult.RequestUnsupported, "a %s has no '%s' to change", k, r.ResourceType)
	}
	if err != nil {
		return err
	}
	return s.save()
}

type resource struct {
	Type string
	Data struct{ ID string }
}

func (o object) resources() []resource {
	var list []resource
	_ = json.Unmarshal(o["Resources"], &list) // the service wrote it
	return list
}

func (s *Service) modifyNamespace(id string, o object, r request) error {
	var what struct{ EndpointId, ContainerId string }
	if err := json.Unmarshal(r.Settings, &what); err != nil {
		return badJSON("%v", err)
	}
	target := strings.ToLower(what.EndpointId)
	if r.ResourceType == "Container" {
		target = what.ContainerId
	} else if r.ResourceType != "Endpoint" {
		return hresult.New(hresult.RequestUnsupported, "a namespace has no '%s' to change", r.ResourceType)
	}
	if target == "" {
		return badJSON("no %s to %s", r.ResourceType, r.RequestType)
	}
	list := o.resources()
	same := func(x resource) bool { return x.Type == r.ResourceType && strings.EqualFold(x.Data.ID, target) }
	have := slices.ContainsFunc(list, same)
	if r.ResourceType == "Endpoint" {
		if err := s.attach(id, target, r.RequestType, have); err != nil {
			return err
		}
	}
	switch {
	case r.RequestType == "Add" && !have:
		list = append(list, resource{Type: r.ResourceType, Data: struct{ ID string }{target}})
	case r.RequestType == "Remove" && have:
		list = slices.DeleteFunc(list, same)
	case r.RequestType == "Remove":
		return hresult.New(hresult.ElementNotFound, "%s %s isn't in namespace %s", r.ResourceType, target, id)
	}
	o.set("Resources", list)
	return nil
}

// attach keeps an endpoint's side of a change of a namespace.
func (s *Service) attach(namespace, endpoint, how string, have bool) error {
	e := s.all(Endpoint)[endpoint]
	if e == nil {
		return notFound(Endpoint, endpoint)
	}
	switch {
	case how == "Add" && e.text("HostComputeNamespace") != "" && !have:
		return hresult.New(hresult.EndpointAttached, "endpoint %s is in namespace %s", endpoint, e.text("HostComputeNamespace"))
	case how == "Add":
		e.set("HostComputeNamespace", namespace)
	case how == "Remove" && have:
		delete(e, "HostComputeNamespace")
	}
	return nil
}

// detach takes an endpoint out of its namespace.
func (s *Service) detach(id string, e object) {
	n := s.all(Namespace)[strings.ToLower(e.text("HostComputeNamespace"))]
	if n == nil {
		return
	}
	n.set("Resources", slices.DeleteFunc(n.resources(), func(x resource) bool { return x.Type == "Endpoint" && strings.EqualFold(x.Data.ID, id) }))
	delete(e, "HostComputeNamespace")
}

func (s *Service) modifyPolicies(o object, r request) error {
	var change struct{ Policies []json.RawMessage }
	if err := json.Unmarshal(r.Settings, &change); err != nil {
		return badJSON("%v", err)
	}
	var list []json.RawMessage
	_ = json.Unmarshal(o["Policies"], &list) // was checked, or isn't there
	for _, p := range change.Policies {
		if r.RequestType == "Remove" {
			list = slices.DeleteFunc(list, func(x json.RawMessage) bool { return string(x) == string(p) })
		} else {
			list = append(list, p)
		}
	}
	if r.RequestType == "Update" {
		list = change.Policies
	}
	changed := object{"ID": o["ID"]}
	changed.set("Policies", list)
	if err := s.checkPorts(changed); err != nil {
		return err
	}
	o["Policies"] = changed["Policies"]
	return nil
}
