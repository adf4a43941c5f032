// Package hresult holds the error codes that Windows' compute, network and storage services answer with, and the result
// documents that go with them. The values are those of winerror.h. It imports nothing of ours and keeps no state.
package hresult

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Code is an HRESULT; its top bit says failure.
type Code uint32

// What the simulated services answer.
const (
	OK                   Code = 0
	NotImplemented       Code = 0x80004001 // E_NOTIMPL
	Fail                 Code = 0x80004005 // E_FAIL
	FileNotFound         Code = 0x80070002
	PathNotFound         Code = 0x80070003
	AccessDenied         Code = 0x80070005
	InvalidHandle        Code = 0x80070006
	InvalidData          Code = 0x8007000d
	SharingViolation     Code = 0x80070020
	NotSupported         Code = 0x80070032
	AlreadyExistsFile    Code = 0x80070050 // ERROR_FILE_EXISTS
	InvalidParameter     Code = 0x80070057
	InvalidName          Code = 0x8007007b
	DirectoryNotEmpty    Code = 0x80070091
	AlreadyExists        Code = 0x800700b7
	ElementNotFound      Code = 0x80070490 // ERROR_NOT_FOUND
	ServiceNotActive     Code = 0x80070426
	CallFailed           Code = 0x800706be // RPC_S_CALL_FAILED
	OperationPending     Code = 0xc0370103
	InvalidState         Code = 0xc0370105
	UnexpectedExit       Code = 0xc0370106
	UnknownMessage       Code = 0xc037010b
	InvalidJSON          Code = 0xc037010d
	SystemNotFound       Code = 0xc037010e
	SystemAlreadyExists  Code = 0xc037010f
	SystemAlreadyStopped Code = 0xc0370110
	ProcessAlreadyEnded  Code = 0x8037011f // HCS_E_PROCESS_ALREADY_STOPPED
	NetworkNotFound      Code = 0x803b0001 // HCN_E_NETWORK_NOT_FOUND
	EndpointNotFound     Code = 0x803b0002
	InvalidNetworkType   Code = 0x803b000b
	InvalidEndpoint      Code = 0x803b000c
	InvalidPolicy        Code = 0x803b000d
	InvalidPolicyType    Code = 0x803b000e
	NetworkExists        Code = 0x803b0010
	PortExists           Code = 0x803b0013 // HCN_E_PORT_ALREADY_EXISTS
	EndpointAttached     Code = 0x803b0014
	RequestUnsupported   Code = 0x803b0015
	InvalidNetworkJSON   Code = 0x803b001b
	InvalidIP            Code = 0x803b001e
	HasReferences        Code = 0x803b002c // HCN_E_ENTITY_HAS_REFERENCES
)

// Failure is an error that a service answers with: a code, and what its result document says.
type Failure struct {
	Code    Code
	Message string
}

func (f *Failure) Error() string { return fmt.Sprintf("%s (0x%08x)", f.Message, uint32(f.Code)) }

// New makes a Failure.
func New(c Code, format string, args ...any) error {
	return &Failure{Code: c, Message: fmt.Sprintf(format, args...)}
}

// Of is the code of an error: that of a Failure in it, Fail of any other.
func Of(err error) Code {
	var f *Failure
	switch {
	case err == nil:
		return OK
	case errors.As(err, &f):
		return f.Code
	}
	return Fail
}

type event struct {
	Message  string
	Provider string
	EventID  uint16 `json:"EventId"`
	Flags    uint32
	Source   string
}

// Document is the result document of an error, as HCS writes it: code, message, and one event that says the same.
func Document(err error) string {
	if err == nil {
		return ""
	}
	message := err.Error()
	if f := (*Failure)(nil); errors.As(err, &f) {
		message = f.Message
	}
	b, _ := json.Marshal(struct {
		Error        int32
		ErrorMessage string
		ErrorEvents  []event
	}{int32(Of(err)), message, []event{{Message: message, Provider: "4cbbd1aa-0c2a-4fb9-9a5b-0f8f3a2a7b1d", Source: "hcssim"}}})
	return string(b)
}
