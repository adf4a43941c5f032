package schema

import "encoding/json"

// ProcessParameters is a process to create, in both versions of the schema.
type ProcessParameters struct {
	ApplicationName, CommandLine, User, WorkingDirectory  string
	CommandArgs                                           []string
	Environment                                           map[string]string
	RestrictedToken, EmulateConsole                       bool
	CreateStdInPipe, CreateStdOutPipe, CreateStdErrPipe   bool
	ConsoleSize                                           []uint16 // height, width
	UseExistingLogin, UseLegacyConsole, CreateInUtilityVm bool
	OCISpecification                                      *json.RawMessage
}

// ParseProcess reads and checks the parameters of a process.
func ParseProcess(doc string) (*ProcessParameters, error) {
	var p ProcessParameters
	if err := Decode(doc, &p); err != nil {
		return nil, err
	}
	switch {
	case p.CommandLine == "" && p.ApplicationName == "":
		return nil, missing("$", "CommandLine")
	case len(p.CommandArgs) > 0 || p.OCISpecification != nil:
		return nil, badValue("$", "only Linux containers take CommandArgs and OCISpecification")
	case len(p.ConsoleSize) != 0 && len(p.ConsoleSize) != 2:
		return nil, badValue("$.ConsoleSize", "%d elements instead of 2", len(p.ConsoleSize))
	case p.EmulateConsole && p.CreateStdErrPipe:
		return nil, badValue("$.CreateStdErrPipe", "a console has no pipe for errors")
	case p.WorkingDirectory != "" && !absolute(p.WorkingDirectory) && p.WorkingDirectory[0] != '\\':
		return nil, badValue("$.WorkingDirectory", "'%s' is no full path", p.WorkingDirectory)
	}
	for k := range p.Environment {
		if k == "" {
			return nil, badValue("$.Environment", "a variable without a name")
		}
	}
	return &p, nil
}

// ProcessChange is what is changed of a running process.
type ProcessChange struct {
	Operation   string
	ConsoleSize *struct{ Height, Width uint16 }
	CloseHandle *struct{ Handle string }
}

// ParseProcessChange reads and checks a change of a process.
func ParseProcessChange(doc string) (*ProcessChange, error) {
	var c ProcessChange
	if err := Decode(doc, &c); err != nil {
		return nil, err
	}
	switch {
	case c.Operation == "ConsoleSize" && c.ConsoleSize == nil:
		return nil, missing("$", "ConsoleSize")
	case c.Operation == "CloseHandle" && (c.CloseHandle == nil || c.CloseHandle.Handle == ""):
		return nil, missing("$", "CloseHandle")
	case c.Operation != "ConsoleSize" && c.Operation != "CloseHandle":
		return nil, badValue("$.Operation", "'%s' is not known", c.Operation)
	}
	return &c, nil
}

// ParseSignal reads the options of a signal and answers its name.
func ParseSignal(doc string) (string, error) {
	var o struct{ Signal string }
	if doc == "" {
		return "", missing("$", "Signal")
	}
	if err := Decode(doc, &o); err != nil {
		return "", err
	}
	switch o.Signal {
	case "CtrlC", "CtrlBreak", "CtrlClose", "CtrlLogOff", "CtrlShutdown":
		return o.Signal, nil
	case "":
		return "", missing("$", "Signal")
	}
	return "", badValue("$.Signal", "'%s' is not known", o.Signal)
}

// Change is a request to change a system: of version 1 when Resource is set, else of version 2.
type Change struct {
	ResourceType, RequestType, ResourcePath string
	Settings                                json.RawMessage
	GuestRequest                            *json.RawMessage
}

// ParseChange reads and checks a request to change a system.
func ParseChange(doc string) (*Change, error) {
	var c Change
	if err := Decode(doc, &c); err != nil {
		return nil, err
	}
	if c.ResourceType == "" && c.ResourcePath == "" && c.GuestRequest == nil {
		return nil, missing("$", "ResourcePath")
	}
	switch c.RequestType {
	case "", "Add", "Remove", "Update", "PreAdd":
		return &c, nil
	}
	return nil, badValue("$.RequestType", "'%s' is not known", c.RequestType)
}

// ParseQuery reads the properties asked for; an empty document asks for the basic ones.
func ParseQuery(doc string) ([]string, error) {
	if doc == "" {
		return nil, nil
	}
	var q struct {
		PropertyTypes []string
		Queries       map[string]json.RawMessage
	}
	if err := Decode(doc, &q); err != nil {
		return nil, err
	}
	for _, p := range q.PropertyTypes {
		switch p {
		case "Memory", "GuestMemory", "Statistics", "ProcessList", "TerminateOnLastHandleClosed", "SharedMemoryRegion", "ContainerCredentialGuard",
			"GuestConnection", "ICHeartbeatStatus", "ProcessorTopology", "CpuGroup", "SystemGUID", "MappedVirtualDisk", "Basic":
		default:
			return nil, badValue("$.PropertyTypes", "'%s' is not known", p)
		}
	}
	return q.PropertyTypes, nil
}

// Filter chooses systems; an empty list chooses all.
type Filter struct{ Ids, Types, Names, Owners []string }

// ParseFilter reads a filter of systems.
func ParseFilter(doc string) (Filter, error) {
	var f Filter
	if doc == "" {
		return f, nil
	}
	err := Decode(doc, &f)
	return f, err
}
