package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// An orphan that has ended keeps the init of its PID namespace from ending. It is reaped for that, and not before.
func TestOrphanHoldsUpInit(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for namespaces")
	}
	if err := adoptOrphans(); err != nil {
		t.Fatal(err)
	}
	init := exec.Command("sleep", "1000")
	init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if err := init.Start(); err != nil {
		t.Fatal(err)
	}
	parent := exec.Command("nsenter", "--target", strconv.Itoa(init.Process.Pid), "--pid", "sleep", "1000")
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	child := 0
	for child == 0 { // nsenter forks it
		pids, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", parent.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		child, _ = strconv.Atoi(strings.TrimSpace(string(pids)))
	}
	_ = parent.Process.Kill()
	_ = parent.Wait() // it was killed
	if err := syscall.Kill(child, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for z, dead := asZombie(child); !dead; z, dead = asZombie(child) {
		if z.start == "" {
			t.Fatal("the orphan did not come to this process")
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	seen := reap(map[zombie]time.Time{}, time.Hour)
	if seen = reap(seen, time.Hour); len(seen) == 0 {
		t.Error("the orphan is reaped though nothing waits for that")
	}
	wg.Go(func() { reapOrphans(ctx, time.Hour) })
	_ = init.Process.Kill()
	_ = init.Wait() // for ever, if nobody reaps the orphan
	if _, dead := asZombie(child); dead {
		t.Error("the orphan was not reaped")
	}
}
