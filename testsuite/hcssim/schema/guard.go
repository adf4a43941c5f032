package schema

import "encoding/json"

// GuardChange adds or removes an instance of the container credential guard.
type GuardChange struct {
	Operation        string
	OperationDetails struct{ Id, CredentialSpec, Transport string }
}

// ParseServiceChange reads and checks a change of the service's settings.
func ParseServiceChange(doc string) (*GuardChange, error) {
	var r struct {
		PropertyType string
		Settings     json.RawMessage
	}
	if err := Decode(doc, &r); err != nil {
		return nil, err
	}
	if r.PropertyType != "ContainerCredentialGuard" {
		return nil, badValue("$.PropertyType", "'%s' is not known", r.PropertyType)
	}
	var c GuardChange
	if err := Decode(string(r.Settings), &c); err != nil {
		return nil, err
	}
	d := c.OperationDetails
	switch {
	case d.Id == "":
		return nil, missing("$.Settings.OperationDetails", "Id")
	case c.Operation == "AddInstance" && d.CredentialSpec == "":
		return nil, missing("$.Settings.OperationDetails", "CredentialSpec")
	case c.Operation == "AddInstance" && d.Transport != "LRPC" && d.Transport != "HvSocket":
		return nil, badValue("$.Settings.OperationDetails.Transport", "'%s' is not known", d.Transport)
	case c.Operation != "AddInstance" && c.Operation != "RemoveInstance":
		return nil, badValue("$.Settings.Operation", "'%s' is not known", c.Operation)
	}
	return &c, nil
}
