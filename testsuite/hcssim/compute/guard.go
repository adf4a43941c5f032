package compute

import (
	"encoding/json"
	"sort"
	"sync"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
	"github.com/slipwayd/slipway/testsuite/hcssim/schema"
)

const maxGuards = 4096

// guards are the instances of the container credential guard. They are gone with the service, as Windows' are.
type guards struct {
	mu   sync.Mutex
	list map[string]guard
}

type guard struct {
	ID              string `json:"Id"`
	CredentialGuard schema.CredentialGuard
}

// ModifyService adds an instance of the container credential guard, or removes one.
func (h *Host) ModifyService(settings string) error {
	c, err := schema.ParseServiceChange(settings)
	if err != nil {
		return err
	}
	d, g := c.OperationDetails, &h.guards
	g.mu.Lock()
	defer g.mu.Unlock()
	_, have := g.list[d.Id]
	switch {
	case c.Operation == "RemoveInstance" && !have:
		return hresult.New(hresult.ElementNotFound, "there is no credential guard '%s'", d.Id)
	case c.Operation == "RemoveInstance":
		delete(g.list, d.Id)
		return nil
	case have:
		return hresult.New(hresult.AlreadyExists, "there is a credential guard '%s'", d.Id)
	case len(g.list) >= maxGuards:
		return hresult.New(hresult.Fail, "more than %d credential guards", maxGuards)
	case g.list == nil:
		g.list = map[string]guard{}
	}
	g.list[d.Id] = guard{d.Id, schema.CredentialGuard{Cookie: "cookie-of-" + d.Id, RpcEndpoint: "endpoint-of-" + d.Id, Transport: d.Transport, CredentialSpec: d.CredentialSpec}}
	return nil
}

// guardProperties answers the property of the service that lists the instances.
func (h *Host) guardProperties() (string, error) {
	h.guards.mu.Lock()
	defer h.guards.mu.Unlock()
	all := struct{ Instances []guard }{[]guard{}}
	for _, g := range h.guards.list {
		all.Instances = append(all.Instances, g)
	}
	sort.Slice(all.Instances, func(i, j int) bool { return all.Instances[i].ID < all.Instances[j].ID })
	b, err := json.Marshal(struct{ Properties []any }{[]any{all}})
	return string(b), err
}
