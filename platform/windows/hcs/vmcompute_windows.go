package hcs

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// vmcompute is the part of vmcompute.dll that hcsshim's public API does not reach. Its functions are those that hcsshim and Docker call; Microsoft
// documents their successors in computecore.dll, whose documents and codes are the same.
type vmcompute struct {
	create, open, shut, properties, modify  *windows.LazyProc
	register, unregister, terminate         *windows.LazyProc
	openProcess, closeProcess, signal, info *windows.LazyProc
	modifyService, serviceProperties        *windows.LazyProc

	callback uintptr // of notices, made once: Windows' callbacks are never freed

	mu      sync.Mutex
	next    uintptr
	waiting map[uintptr]chan notice
}

type notice struct {
	kind   uint32
	status int32
}

// createdNotice is the notice that an asynchronous creation is over (HcsNotificationSystemCreateCompleted).
const createdNotice = 2

// createTimeout is how long the service may take to create a system, which is not started by that.
const createTimeout = 4 * time.Minute

func openVmcompute() (*vmcompute, error) {
	dll := windows.NewLazySystemDLL("vmcompute.dll")
	if err := dll.Load(); err != nil {
		return nil, err
	}
	v := &vmcompute{
		create: dll.NewProc("HcsCreateComputeSystem"), open: dll.NewProc("HcsOpenComputeSystem"), shut: dll.NewProc("HcsCloseComputeSystem"),
		properties: dll.NewProc("HcsGetComputeSystemProperties"), modify: dll.NewProc("HcsModifyComputeSystem"),
		register: dll.NewProc("HcsRegisterComputeSystemCallback"), unregister: dll.NewProc("HcsUnregisterComputeSystemCallback"),
		terminate:   dll.NewProc("HcsTerminateComputeSystem"),
		openProcess: dll.NewProc("HcsOpenProcess"), closeProcess: dll.NewProc("HcsCloseProcess"), signal: dll.NewProc("HcsSignalProcess"), info: dll.NewProc("HcsGetProcessInfo"),
		modifyService: dll.NewProc("HcsModifyServiceSettings"), serviceProperties: dll.NewProc("HcsGetServiceProperties"),
		waiting: map[uintptr]chan notice{},
	}
	v.callback = windows.NewCallback(func(kind, number, status uintptr, data *uint16) uintptr {
		v.mu.Lock()
		defer v.mu.Unlock()
		select {
		case v.waiting[number] <- notice{uint32(kind), int32(status)}:
		default: // nobody waits, or has heard enough
		}
		return 0
	})
	return v, nil
}

// call answers an HRESULT as the error that classify knows, with what the service says about it when the function has a result.
//
//go:uintptrescapes
func call(proc *windows.LazyProc, result **uint16, args ...uintptr) error {
	if err := proc.Find(); err != nil {
		return classify(syscall.Errno(windows.ERROR_PROC_NOT_FOUND))
	}
	r, _, _ := proc.Call(args...)
	said := take(result)
	if int32(r) >= 0 {
		return nil
	}
	return failure(int32(r), said)
}

func failure(hresult int32, said string) error {
	code := uint32(hresult)
	if code&0x1fff0000 == 0x00070000 { // one of Windows' own codes in an HRESULT
		code &= 0xffff
	}
	return withEvents(classify(syscall.Errno(code)), said)
}

// take answers a string of the service's and frees it.
func take(p **uint16) string {
	if p == nil || *p == nil {
		return ""
	}
	s := windows.UTF16PtrToString(*p)
	windows.CoTaskMemFree(unsafe.Pointer(*p))
	*p = nil
	return s
}

// withEvents adds the messages of a result document (HCS schema reference: ResultError).
func withEvents(err error, result string) error {
	var document struct {
		ErrorMessage string
		ErrorEvents  []struct{ Message string }
	}
	if json.Unmarshal([]byte(result), &document) != nil {
		return err
	}
	said := []string{document.ErrorMessage}
	for _, e := range document.ErrorEvents {
		said = append(said, e.Message)
	}
	text := strings.TrimSpace(strings.Join(said, " "))
	if text == "" {
		return err
	}
	return fmt.Errorf("%w: the service says: %.2000s", err, text)
}

// createSystem makes a system and answers its handle.
func (v *vmcompute) createSystem(ctx context.Context, id, document string) (uintptr, error) {
	name, err := windows.UTF16PtrFromString(id)
	if err != nil {
		return 0, err
	}
	text, err := windows.UTF16PtrFromString(document)
	if err != nil {
		return 0, err
	}
	var handle uintptr
	var result *uint16
	err = call(v.create, &result, uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(text)), 0, uintptr(unsafe.Pointer(&handle)), uintptr(unsafe.Pointer(&result)))
	if isPending(err) {
		if err = v.awaitCreated(ctx, handle); err != nil {
			v.terminateSystem(handle)
			v.closeSystem(handle)
		}
	}
	if err != nil {
		return 0, err
	}
	return handle, nil
}

// awaitCreated hears the notice that a system is created, also one that the service sent before we asked: it keeps them.
func (v *vmcompute) awaitCreated(ctx context.Context, handle uintptr) error {
	heard := make(chan notice, 16)
	v.mu.Lock()
	v.next++
	number := v.next
	v.waiting[number] = heard
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.waiting, number)
	}()
	var registration uintptr
	if err := call(v.register, nil, handle, v.callback, number, uintptr(unsafe.Pointer(&registration))); err != nil {
		return err
	}
	defer func() { _ = call(v.unregister, nil, registration) }()
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	for {
		select {
		case n := <-heard:
			if n.kind == createdNotice && n.status < 0 {
				return failure(n.status, "")
			} else if n.kind == createdNotice {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (v *vmcompute) openSystem(id string) (handle uintptr, err error) {
	name, err := windows.UTF16PtrFromString(id)
	if err != nil {
		return 0, err
	}
	var result *uint16
	err = call(v.open, &result, uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&handle)), uintptr(unsafe.Pointer(&result)))
	return handle, err
}

func (v *vmcompute) terminateSystem(handle uintptr) {
	var result *uint16
	noOptions := new(uint16)
	_ = call(v.terminate, &result, handle, uintptr(unsafe.Pointer(noOptions)), uintptr(unsafe.Pointer(&result)))
}

func (v *vmcompute) closeSystem(handle uintptr) { _ = call(v.shut, nil, handle) }

// getProperties answers a document (Properties) for a query (PropertyQuery).
func (v *vmcompute) getProperties(handle uintptr, query string) (string, error) {
	text, err := windows.UTF16PtrFromString(query)
	if err != nil {
		return "", err
	}
	var properties, result *uint16
	err = call(v.properties, &result, handle, uintptr(unsafe.Pointer(text)), uintptr(unsafe.Pointer(&properties)), uintptr(unsafe.Pointer(&result)))
	return take(&properties), err
}

func (v *vmcompute) modifySystem(handle uintptr, request string) error {
	text, err := windows.UTF16PtrFromString(request)
	if err != nil {
		return err
	}
	var result *uint16
	return call(v.modify, &result, handle, uintptr(unsafe.Pointer(text)), uintptr(unsafe.Pointer(&result)))
}

// withProcess calls f with a handle of a process, which is closed then.
func (v *vmcompute) withProcess(system uintptr, pid int, f func(process uintptr) error) error {
	var process uintptr
	var result *uint16
	if err := call(v.openProcess, &result, system, uintptr(uint32(pid)), uintptr(unsafe.Pointer(&process)), uintptr(unsafe.Pointer(&result))); err != nil {
		return err
	}
	defer func() { _ = call(v.closeProcess, nil, process) }()
	return f(process)
}

// signalProcess sends options (SignalProcessOptions) to a process.
func (v *vmcompute) signalProcess(system uintptr, pid int, options string) error {
	text, err := windows.UTF16PtrFromString(options)
	if err != nil {
		return err
	}
	return v.withProcess(system, pid, func(process uintptr) error {
		var result *uint16
		return call(v.signal, &result, process, uintptr(unsafe.Pointer(text)), uintptr(unsafe.Pointer(&result)))
	})
}

// processPipes answers new handles of our ends of a process's pipes, 0 for those that it does not have: the service keeps them as long as the
// process runs (HcsGetProcessInfo, whose structure is HCS_PROCESS_INFORMATION).
func (v *vmcompute) processPipes(system uintptr, pid int) (pipes [3]windows.Handle, err error) {
	var info struct {
		pid, reserved uint32
		pipes         [3]windows.Handle
	}
	err = v.withProcess(system, pid, func(process uintptr) error {
		var result *uint16
		return call(v.info, &result, process, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&result)))
	})
	for i, h := range info.pipes {
		if err == nil && h != windows.InvalidHandle {
			pipes[i] = h
		}
	}
	return pipes, err
}

// changeService changes the service's own settings, by a document (ModificationRequest).
func (v *vmcompute) changeService(request string) error {
	text, err := windows.UTF16PtrFromString(request)
	if err != nil {
		return err
	}
	var result *uint16
	return call(v.modifyService, &result, uintptr(unsafe.Pointer(text)), uintptr(unsafe.Pointer(&result)))
}

// askService answers a document (ServiceProperties) for a query (PropertyQuery).
func (v *vmcompute) askService(query string) (string, error) {
	text, err := windows.UTF16PtrFromString(query)
	if err != nil {
		return "", err
	}
	var properties, result *uint16
	err = call(v.serviceProperties, &result, uintptr(unsafe.Pointer(text)), uintptr(unsafe.Pointer(&properties)), uintptr(unsafe.Pointer(&result)))
	return take(&properties), err
}
