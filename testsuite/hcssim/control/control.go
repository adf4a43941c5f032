// Package control speaks with a running hcssimd for tests and hcssimctl: on Windows (or wine) and from Linux.
package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/slipwayd/slipway/testsuite/hcssim/faults"
	"github.com/slipwayd/slipway/testsuite/hcssim/wire"
)

// Request is a request of a Client, as JSON.
type Request struct {
	Verb string       // add, release, clear, hits, calls, exit
	Rule *faults.Rule `json:",omitempty"`
	Name string       `json:",omitempty"`
}

// Answer is what comes back.
type Answer struct {
	Error string
	Count int
	Calls map[string]int
}

// AddressFile is where hcssimd says how it is reached, as programs under Windows see it.
const AddressFile = `C:\hcssim\addr`

// Client is a connection. It is not for concurrent use.
type Client struct{ c net.Conn }

// Dial connects to the simulator that wrote the file. The caller closes the Client.
func Dial(file string) (*Client, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot find hcssimd: %w (ci/wine start starts it)", err)
	}
	words := strings.Fields(string(b)) // port, token, process
	if len(words) != 3 {
		return nil, fmt.Errorf("%s doesn't say where hcssimd is", file)
	}
	c, err := net.DialTimeout("tcp", "127.0.0.1:"+words[0], 10*time.Second)
	if err != nil {
		return nil, fmt.Errorf("cannot reach hcssimd: %w (ci/wine start starts it)", err)
	}
	if err := wire.WriteFrame(c, []byte(words[1]), []byte("control"), []byte("0")); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &Client{c}, nil
}

// Close ends the connection; rules stay in force.
func (c *Client) Close() error { return c.c.Close() }

func (c *Client) ask(q Request) (Answer, error) {
	var a Answer
	b, err := json.Marshal(q)
	if err != nil {
		return a, err
	}
	if err := wire.WriteFrame(c.c, b); err != nil {
		return a, err
	}
	fields, err := wire.ReadFrame(c.c)
	if err != nil {
		return a, err
	}
	if len(fields) != 2 {
		return a, wire.ErrMalformed
	}
	if err := json.Unmarshal(fields[1], &a); err != nil {
		return a, err
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// Add puts a rule in force.
func (c *Client) Add(r faults.Rule) error {
	_, err := c.ask(Request{Verb: "add", Rule: &r})
	return err
}

// Release lets stalled calls go on, of rules with this name or of all.
func (c *Client) Release(name string) error {
	_, err := c.ask(Request{Verb: "release", Name: name})
	return err
}

// Clear removes all rules.
func (c *Client) Clear() error {
	_, err := c.ask(Request{Verb: "clear"})
	return err
}

// Hits says how often rules of this name acted.
func (c *Client) Hits(name string) (int, error) {
	a, err := c.ask(Request{Verb: "hits", Name: name})
	return a.Count, err
}

// Calls says how often each function was called.
func (c *Client) Calls() (map[string]int, error) {
	a, err := c.ask(Request{Verb: "calls"})
	return a.Calls, err
}

// Exit ends the simulator at once, as if it had crashed. Containers go on.
func (c *Client) Exit() error {
	_, err := c.ask(Request{Verb: "exit"})
	if err == nil {
		return errors.New("hcssimd is still there")
	}
	return nil
}
