package hcs

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/windows"
)

// tiedPipe makes a pipe whose one end has been tied to a completion port, as that of a process whose owner has died, and answers both.
func tiedPipe(t *testing.T) (ours *pipe, theirs *os.File) {
	t.Helper()
	name, err := windows.UTF16PtrFromString(`\\.\pipe\slipway-hcs-test-` + rand.Text())
	if err != nil {
		t.Fatal(err)
	}
	h, err := windows.CreateNamedPipe(name, windows.PIPE_ACCESS_DUPLEX|windows.FILE_FLAG_OVERLAPPED, windows.PIPE_TYPE_BYTE, 1, 4096, 4096, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	port, err := windows.CreateIoCompletionPort(h, 0, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { windows.CloseHandle(port) })
	other, err := windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE, 0, nil, windows.OPEN_EXISTING, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs = os.NewFile(uintptr(other), "theirs")
	t.Cleanup(func() { theirs.Close() })
	if ours, err = newPipe(h); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	return ours, theirs
}

func TestTiedPipe(t *testing.T) {
	ours, theirs := tiedPipe(t)
	sent := bytes.Repeat([]byte("0123456789"), 5_000) // more than the pipe holds
	wrote := make(chan error, 1)
	go func() {
		_, err := theirs.Write(sent)
		wrote <- errors.Join(err, theirs.Close())
	}()
	got, err := io.ReadAll(ours)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("read %d bytes of %d, %v", len(got), len(sent), err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}

	ours, theirs = tiedPipe(t)
	go func() {
		n, err := ours.Write(sent)
		if err == nil && n != len(sent) {
			err = io.ErrShortWrite
		}
		wrote <- errors.Join(err, ours.Close())
	}()
	if got, err = io.ReadAll(theirs); !bytes.Equal(got, sent) { // how it ends is the system's to say
		t.Errorf("the other end read %d bytes of %d, %v", len(got), len(sent), err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

// TestTiedPipeClosed: Close ends what waits, and what comes after it.
func TestTiedPipeClosed(t *testing.T) {
	ours, _ := tiedPipe(t)
	read := make(chan error, 1)
	go func() {
		_, err := ours.Read(make([]byte, 1))
		read <- err
	}()
	if err := ours.Close(); err != nil {
		t.Error(err)
	}
	if err := <-read; !errors.Is(err, os.ErrClosed) {
		t.Errorf("a Read that waited: %v", err)
	}
	if _, err := ours.Write([]byte("x")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Write: %v", err)
	}
	if err := ours.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
}
