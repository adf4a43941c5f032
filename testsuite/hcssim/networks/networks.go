// Package networks is the simulated host network service in version 2 of its API (computenetwork.dll): networks, endpoints with
// addresses out of their subnets, namespaces, load balancers and routes. No packet flows.
//
// All objects are in one file, replaced as a whole before a call is answered. Handles die with the client that had them.
package networks

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
	"github.com/slipwayd/slipway/testsuite/hcssim/wire"
)

// Kind is a kind of object, named as in the functions: HcnCreateNetwork.
type Kind string

// The kinds of objects.
const (
	Network      Kind = "Network"
	Endpoint     Kind = "Endpoint"
	Namespace    Kind = "Namespace"
	LoadBalancer Kind = "LoadBalancer"
	Route        Kind = "SdnRoute"
)

const (
	maxObjects = 4096
	noGUID     = "00000000-0000-0000-0000-000000000000"
)

// object is a JSON object as its creator wrote it, with what the service filled in.
type object map[string]json.RawMessage

// Service is the network service. Its methods are functions of computenetwork.dll; their errors carry the HRESULT.
type Service struct {
	file string

	mu      sync.Mutex
	state   state
	handles map[uint64]ref
	last    uint64
}

type state struct {
	Objects     map[Kind]map[string]object
	Compartment uint32 // of the newest namespace
	Serial      uint32 // of the newest address
}

type ref struct {
	client string
	kind   Kind
	id     string
}

// New makes a Service that keeps its objects in file.
func New(file string) (*Service, error) {
	s := &Service{file: file, handles: map[uint64]ref{}, last: 0x1000, state: state{Objects: map[Kind]map[string]object{}, Compartment: 1}}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, os.MkdirAll(filepath.Dir(file), 0o700)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, &s.state); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", file, err)
	}
	return s, nil
}

func (s *Service) save() error {
	b, err := json.MarshalIndent(s.state, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.file+".tmp", b, 0o600); err != nil {
		return err
	}
	return os.Rename(s.file+".tmp", s.file)
}

func (s *Service) all(k Kind) map[string]object {
	if s.state.Objects[k] == nil {
		s.state.Objects[k] = map[string]object{}
	}
	return s.state.Objects[k]
}

func notFound(k Kind, id string) error {
	code := hresult.ElementNotFound
	switch k {
	case Network:
		code = hresult.NetworkNotFound
	case Endpoint:
		code = hresult.EndpointNotFound
	}
	return hresult.New(code, "%s %s was not found", k, id)
}

func (s *Service) open(client string, k Kind, id string) uint64 {
	s.last += 8
	s.handles[s.last] = ref{client, k, id}
	return s.last
}

func (s *Service) get(client string, k Kind, h uint64) (string, object, error) {
	r, ok := s.handles[h]
	if !ok || r.client != client || r.kind != k {
		return "", nil, hresult.New(hresult.InvalidHandle, "The handle is invalid")
	}
	o := s.all(k)[r.id]
	if o == nil {
		return "", nil, notFound(k, r.id)
	}
	return r.id, o, nil
}

// Create makes an object and answers a handle on it. An id of zeros lets the settings or the service choose one. An endpoint is
// made on a network, of which the client has a handle.
func (s *Service) Create(client string, k Kind, network uint64, id, settings string) (uint64, error) {
	o, err := parse(k, settings)
	if err != nil {
		return 0, err
	}
	if id == noGUID {
		if id = strings.ToLower(o.text("ID")); id == "" {
			id = newGUID()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all(k)[id] != nil {
		return 0, hresult.New(hresult.AlreadyExists, "%s %s exists", k, id)
	}
	if len(s.all(k)) >= maxObjects {
		return 0, hresult.New(hresult.Fail, "more than %d objects of kind %s", maxObjects, k)
	}
	o.set("ID", id)
	switch k {
	case Network:
		err = s.newNetwork(o)
	case Endpoint:
		err = s.newEndpoint(client, network, o)
	case Namespace:
		s.state.Compartment++
		o.set("NamespaceId", s.state.Compartment)
		o.set("Resources", []any{})
	}
	if err != nil {
		return 0, err
	}
	s.all(k)[id] = o
	if err := s.save(); err != nil {
		delete(s.all(k), id)
		return 0, err
	}
	return s.open(client, k, id), nil
}

func newGUID() string {
	var g [16]byte
	_, _ = rand.Read(g[:]) // never fails
	g[7], g[8] = g[7]&0x0f|0x40, g[8]&0x3f|0x80
	return wire.FormatGUID(g)
}

// Open opens an object by its id.
func (s *Service) Open(client string, k Kind, id string) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all(k)[id] == nil {
		return 0, notFound(k, id)
	}
	return s.open(client, k, id), nil
}

// Close closes a handle.
func (s *Service) Close(client string, k Kind, h uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.handles[h]; !ok || r.client != client || r.kind != k {
		return hresult.New(hresult.InvalidHandle, "The handle is invalid")
	}
	delete(s.handles, h)
	return nil
}

// Gone closes all handles of a client that died.
func (s *Service) Gone(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for h, r := range s.handles {
		if r.client == client {
			delete(s.handles, h)
		}
	}
}

// Query answers an object as a JSON document.
func (s *Service) Query(client string, k Kind, h uint64, query string) (string, error) {
	if _, err := parseQuery(query); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, o, err := s.get(client, k, h)
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(o)
	return string(b), err
}

// Enumerate answers the ids of the objects that a query's filter chooses, as a JSON document.
func (s *Service) Enumerate(k Kind, query string) (string, error) {
	filter, err := parseQuery(query)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := []string{}
	for id, o := range s.all(k) {
		if o.matches(filter) {
			ids = append(ids, id)
		}
	}
	sort.Strings(ids)
	b, err := json.Marshal(ids)
	return string(b), err
}

// Delete deletes an object, a network with its endpoints, an endpoint also out of its namespace.
func (s *Service) Delete(k Kind, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.all(k)[id]
	if o == nil {
		return notFound(k, id)
	}
	switch k {
	case Network:
		for e, eo := range s.all(Endpoint) {
			if strings.EqualFold(eo.text("HostComputeNetwork"), id) {
				s.detach(e, eo)
				delete(s.all(Endpoint), e)
			}
		}
	case Endpoint:
		s.detach(id, o)
	case Namespace:
		for _, eo := range s.all(Endpoint) {
			if strings.EqualFold(eo.text("HostComputeNamespace"), id) {
				delete(eo, "HostComputeNamespace")
			}
		}
	}
	delete(s.all(k), id)
	return s.save()
}

// Call is version 1 of the API, of which only the question for the version is simulated.
func (s *Service) Call(method, path string) string {
	if method == "GET" && path == "/globals/version" {
		return `{"Success":true,"Output":{"Major":15,"Minor":4}}`
	}
	if id, ok := strings.CutPrefix(path, "/endpointstats/"); ok && method == "GET" {
		s.mu.Lock()
		defer s.mu.Unlock()
		for have := range s.all(Endpoint) {
			if strings.EqualFold(have, id) { // no packet flows
				return fmt.Sprintf(`{"Success":true,"Output":{"BytesReceived":0,"BytesSent":0,"DroppedPacketsIncoming":0,"DroppedPacketsOutgoing":0,"EndpointId":%q,"InstanceId":%[1]q,"PacketsReceived":0,"PacketsSent":0}}`, have)
			}
		}
		return `{"Success":false,"Error":"Element not found. ","ErrorCode":2147943568}`
	}
	return `{"Success":false,"Error":"not simulated","ErrorCode":2147942450}`
}
