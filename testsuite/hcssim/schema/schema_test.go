package schema

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
)

const (
	layerV1 = `"Layers":[{"ID":"6ef0ac40-2b0e-4d3c-8b1e-000000000002","Path":"C:\\l"}]`
	v1      = `"SystemType":"Container","Name":"c","VolumePath":"\\\\?\\Volume{6ef0ac40-2b0e-4d3c-8b1e-000000000001}","HvPartition":false,` + layerV1
	storage = `"Storage":{"Layers":[{"Id":"6ef0ac40-2b0e-4d3c-8b1e-000000000002","Path":"C:\\l"}],"Path":"\\\\?\\Volume{6ef0ac40-2b0e-4d3c-8b1e-000000000001}\\"}`
	v2      = `"Owner":"slipway","SchemaVersion":{"Major":2,"Minor":1}`
)

func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		doc  string
		code hresult.Code
		says string
	}{
		"v1":                       {`{` + v1 + `}`, hresult.OK, ""},
		"v1 hyper-v":               {`{"SystemType":"Container","Name":"c","HvPartition":true,"LayerFolderPath":"C:\\s","HvRuntime":{"ImagePath":"C:\\u"},` + layerV1 + `}`, hresult.OK, ""},
		"v1 unknown property":      {`{` + v1 + `,"Colour":"red"}`, hresult.InvalidJSON, "Unknown property 'Colour'"},
		"v1 another case":          {`{` + v1 + `,"hostName":"x"}`, hresult.InvalidJSON, "hostName"},
		"v1 unknown, nested":       {`{` + v1 + `,"MappedPipes":[{"HostPath":"\\\\.\\pipe\\a","Name":"a"}]}`, hresult.InvalidJSON, "$.MappedPipes[0]"},
		"v1 without type":          {`{"Name":"c"}`, hresult.InvalidJSON, "SystemType"},
		"v1 of another type":       {`{"SystemType":"Pod","Name":"c"}`, hresult.InvalidParameter, "Pod"},
		"v1 without layers":        {`{"SystemType":"Container","Name":"c","Layers":null}`, hresult.InvalidJSON, "Layers"},
		"v1 without volume":        {`{"SystemType":"Container","Name":"c",` + layerV1 + `}`, hresult.InvalidJSON, "VolumePath"},
		"v1 hyper-v, no image":     {`{"SystemType":"Container","Name":"c","HvPartition":true,` + layerV1 + `}`, hresult.InvalidJSON, "HvRuntime"},
		"v1 limits exclude":        {`{` + v1 + `,"ProcessorCount":1,"ProcessorWeight":5}`, hresult.InvalidParameter, "exclude"},
		"v1 weight too large":      {`{` + v1 + `,"ProcessorWeight":10001}`, hresult.InvalidParameter, "10001"},
		"v1 negative":              {`{` + v1 + `,"MemoryMaximumInMB":-1}`, hresult.InvalidParameter, "negative"},
		"v1 wrong type":            {`{` + v1 + `,"ProcessorCount":"2"}`, hresult.InvalidJSON, "$"},
		"v1 two at one place":      {`{` + v1 + `,"MappedDirectories":[{"HostPath":"C:\\a","ContainerPath":"C:\\x"},{"HostPath":"C:\\b","ContainerPath":"C:\\x"}]}`, hresult.AlreadyExists, `C:\x`},
		"v1 relative directory":    {`{` + v1 + `,"MappedDirectories":[{"HostPath":"a","ContainerPath":"C:\\x"}]}`, hresult.InvalidParameter, "full paths"},
		"v1 device":                {`{` + v1 + `,"AssignedDevices":[{"InterfaceClassGuid":"nonsense"}]}`, hresult.InvalidParameter, "nonsense"},
		"no object":                {`[]`, hresult.InvalidJSON, ""},
		"no JSON":                  {`{`, hresult.InvalidJSON, ""},
		"two values":               {`{` + v1 + `} {}`, hresult.InvalidJSON, ""},
		"deep":                     {strings.Repeat(`{"HvRuntime":`, 40) + `1` + strings.Repeat(`}`, 40), hresult.InvalidJSON, ""},
		"v2":                       {`{` + v2 + `,"Container":{` + storage + `}}`, hresult.OK, ""},
		"v2 without owner":         {`{"SchemaVersion":{"Major":2,"Minor":1},"Container":{` + storage + `}}`, hresult.InvalidJSON, "Owner"},
		"v2 of version 3":          {`{"Owner":"o","SchemaVersion":{"Major":3,"Minor":1},"Container":{` + storage + `}}`, hresult.InvalidParameter, "3.1"},
		"v2 without container":     {`{` + v2 + `}`, hresult.InvalidJSON, "Container"},
		"v2 both":                  {`{` + v2 + `,"Container":{},"VirtualMachine":{}}`, hresult.InvalidJSON, "both"},
		"v2 without storage":       {`{` + v2 + `,"Container":{}}`, hresult.InvalidJSON, "Storage"},
		"v2 unknown":               {`{` + v2 + `,"Container":{` + storage + `,"Cpu":{}}}`, hresult.InvalidJSON, "'Cpu'"},
		"v2 v1's property":         {`{` + v2 + `,"Container":{` + storage + `,"MappedDirectories":[{"HostPath":"C:\\a","ContainerPath":"C:\\x","IOPSMaximum":1}]}}`, hresult.InvalidJSON, "IOPSMaximum"},
		"v2 no volume":             {`{` + v2 + `,"Container":{"Storage":{"Layers":[{"Id":"6ef0ac40-2b0e-4d3c-8b1e-000000000002","Path":"C:\\l"}],"Path":"C:\\scratch"}}}`, hresult.InvalidParameter, "scratch"},
		"v2 namespace":             {`{` + v2 + `,"Container":{` + storage + `,"Networking":{"Namespace":"x"}}}`, hresult.InvalidParameter, "Namespace"},
		"v2 credentials":           {`{` + v2 + `,"Container":{` + storage + `,"ContainerCredentialGuard":{"Cookie":"c"}}}`, hresult.InvalidJSON, "RpcEndpoint"},
		"v2 isolation":             {`{` + v2 + `,"Container":{` + storage + `,"IsolationType":"Jail"}}`, hresult.InvalidParameter, "Jail"},
		"v2 hosted by nobody":      {`{` + v2 + `,"HostedSystem":{"SchemaVersion":{"Major":2,"Minor":1},"Container":{` + storage + `}}}`, hresult.InvalidJSON, "HostingSystemId"},
		"v2 machine":               {`{` + v2 + `,"VirtualMachine":{"Chipset":{},"ComputeTopology":{}}}`, hresult.OK, ""},
		"v2 machine without parts": {`{` + v2 + `,"VirtualMachine":{"Chipset":{}}}`, hresult.InvalidJSON, "ComputeTopology"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Parse(c.doc)
			if got := hresult.Of(err); got != c.code {
				t.Fatalf("0x%08x (%v), want 0x%08x", uint32(got), err, uint32(c.code))
			}
			if err == nil && s == nil || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("says %v, not %q", err, c.says)
			}
		})
	}
}

// madeUp are the names that those tests give to layers, where Windows has GUIDs.
var madeUp = regexp.MustCompile(`"id-[a-z]+"`)

// The documents that Slipway's own tests hold against golden files are ones that the simulator takes.
func TestSlipwaysDocuments(t *testing.T) {
	files, err := filepath.Glob("../../../platform/windows/document/testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Skipf("no golden documents: %v", err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		doc := madeUp.ReplaceAllString(string(b), `"6ef0ac40-2b0e-4d3c-8b1e-000000000002"`)
		if _, err := Parse(doc); err != nil {
			t.Errorf("%s: %v", filepath.Base(f), err)
		}
	}
}

func TestRequests(t *testing.T) {
	process := func(doc string) error { _, err := ParseProcess(doc); return err }
	signal := func(doc string) error { _, err := ParseSignal(doc); return err }
	change := func(doc string) error { _, err := ParseProcessChange(doc); return err }
	query := func(doc string) error { _, err := ParseQuery(doc); return err }
	modify := func(doc string) error {
		c, err := ParseChange(doc)
		if err != nil {
			return err
		}
		s := System{Limits: Limits{Count: 2}}
		return s.Apply(c)
	}
	for _, c := range []struct {
		f    func(string) error
		doc  string
		code hresult.Code
	}{
		{process, `{"CommandLine":"cmd","ConsoleSize":[0,0]}`, hresult.OK},
		{process, `{}`, hresult.InvalidJSON},
		{process, `{"CommandLine":"cmd","Args":[]}`, hresult.InvalidJSON},
		{process, `{"CommandLine":"cmd","ConsoleSize":[1]}`, hresult.InvalidParameter},
		{process, `{"CommandLine":"cmd","EmulateConsole":true,"CreateStdErrPipe":true}`, hresult.InvalidParameter},
		{process, `{"CommandLine":"cmd","WorkingDirectory":"sub"}`, hresult.InvalidParameter},
		{process, `{"CommandLine":"cmd","CommandArgs":["a"]}`, hresult.InvalidParameter},
		{process, `{"CommandLine":"cmd","Environment":{"":"x"}}`, hresult.InvalidParameter},
		{signal, `{"Signal":"CtrlShutdown"}`, hresult.OK},
		{signal, `{"Signal":15}`, hresult.InvalidJSON},
		{signal, `{"Signal":"TERM"}`, hresult.InvalidParameter},
		{signal, ``, hresult.InvalidJSON},
		{change, `{"Operation":"ConsoleSize","ConsoleSize":{"Height":1,"Width":2}}`, hresult.OK},
		{change, `{"Operation":"ConsoleSize"}`, hresult.InvalidJSON},
		{change, `{"Operation":"Dance"}`, hresult.InvalidParameter},
		{query, `{"PropertyTypes":["Statistics","ProcessList"]}`, hresult.OK},
		{query, `{"PropertyTypes":["Colour"]}`, hresult.InvalidParameter},
		{modify, `{"ResourcePath":"Container/Processor","RequestType":"Update","Settings":{"Maximum":5000}}`, hresult.OK},
		{modify, `{"ResourcePath":"Container/Processor","Settings":{"Maximum":1,"Count":1}}`, hresult.InvalidParameter},
		{modify, `{"ResourcePath":"Container/Memory/SizeInMB","Settings":512}`, hresult.OK},
		{modify, `{"ResourcePath":"Container/Memory/SizeInMB","Settings":"512"}`, hresult.InvalidJSON},
		{modify, `{"ResourcePath":"Container/Colour","Settings":1}`, hresult.NotSupported},
		{modify, `{"ResourcePath":"Container/MappedDirectories","RequestType":"Add","Settings":{"HostPath":"C:\\a","ContainerPath":"C:\\b"}}`, hresult.OK},
		{modify, `{"ResourcePath":"Container/MappedDirectories","RequestType":"Remove","Settings":{"ContainerPath":"C:\\b"}}`, hresult.ElementNotFound},
		{modify, `{"ResourceType":"Network","RequestType":"Add","Settings":"id"}`, hresult.OK},
		{modify, `{"ResourceType":"Network","RequestType":"Remove","Settings":"id"}`, hresult.ElementNotFound},
		{modify, `{"RequestType":"Add"}`, hresult.InvalidJSON},
		{modify, `{"ResourcePath":"Container/Processor","RequestType":"Guess"}`, hresult.InvalidParameter},
	} {
		if err := c.f(c.doc); hresult.Of(err) != c.code {
			t.Errorf("%s: %v, want 0x%08x", c.doc, err, uint32(c.code))
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`{` + v1 + `}`)
	f.Add(`{` + v2 + `,"Container":{` + storage + `}}`)
	f.Add(`{` + v2 + `,"VirtualMachine":{"Chipset":{},"ComputeTopology":{}}}`)
	f.Fuzz(func(t *testing.T, doc string) {
		s, err := Parse(doc)
		var failure *hresult.Failure
		if err == nil && s == nil || err != nil && !errors.As(err, &failure) {
			t.Fatalf("%v, %v", s, err)
		}
	})
}
