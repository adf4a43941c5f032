package linux

import (
	"bytes"
	"errors"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// reaper waits for orphans: processes of containers without a pid namespace of their own whose parent died, and which
// the kernel gave to us. It must never take the status of a child that somebody else here waits for, so it leaves alone
//   - the processes of containers, which their watchers own;
//   - what is started while libcontainer works (its stages of init, hooks): those an operation begun earlier may wait for;
//   - any zombie younger than one sweep: other packages' os/exec children are waited for the moment they end.
type reaper struct {
	signals chan os.Signal
	done    chan struct{}
	stopped sync.WaitGroup

	mu       sync.Mutex
	owned    map[int]bool
	next     uint64
	inFlight map[uint64]bool // operations that have children of their own
}

// sweepEvery is how long a zombie must have been one before it is called an orphan. Until it is reaped, init of its pid
// namespace cannot end.
const sweepEvery = 250 * time.Millisecond

func startReaper() *reaper {
	r := &reaper{
		signals: make(chan os.Signal, 1), done: make(chan struct{}),
		owned: map[int]bool{}, inFlight: map[uint64]bool{},
	}
	signal.Notify(r.signals, unix.SIGCHLD)
	r.stopped.Add(1)
	go r.loop()
	return r
}

func (r *reaper) close() {
	signal.Stop(r.signals)
	close(r.done)
	r.stopped.Wait()
}

// begin marks an operation that starts and waits for children by itself. Call the answer at its end.
func (r *reaper) begin() (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := r.next
	r.next++
	r.inFlight[id] = true
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.inFlight, id)
	}
}

func (r *reaper) own(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.owned[pid] = true
}

func (r *reaper) disown(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.owned, pid)
}

func (r *reaper) loop() {
	defer r.stopped.Done()
	timer := time.After(sweepEvery) // nil while no child is known to have ended; some may have before we began
	candidates := map[int]uint64{}  // zombies of the last sweep, with the number of the next operation at that time
	for {
		select {
		case <-r.done:
			return
		case <-r.signals:
			if timer == nil {
				timer = time.After(sweepEvery)
			}
		case <-timer:
			timer = nil
			if candidates = r.sweep(candidates); len(candidates) > 0 {
				timer = time.After(sweepEvery)
			}
		}
	}
}

// sweep reaps those candidates that are zombies still, and answers the new ones.
func (r *reaper) sweep(candidates map[int]uint64) map[int]uint64 {
	if !hasZombie() {
		return nil
	}
	left := map[int]uint64{}
	for _, pid := range zombieChildren() {
		r.mu.Lock()
		owned, next := r.owned[pid], r.next
		seen, again := candidates[pid]
		busy := false
		for op := range r.inFlight {
			busy = busy || op < seen
		}
		r.mu.Unlock()
		switch {
		case owned:
		case again && !busy:
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		case again:
			left[pid] = seen
		default:
			left[pid] = next
		}
	}
	return left
}

// hasZombie asks the kernel for any child that has ended, without taking it.
func hasZombie() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err == nil && info.Signo != 0 || errors.Is(err, unix.EINTR)
}

// zombieChildren looks through /proc, which is rare enough: only while something has ended that nobody waited for.
func zombieChildren() []int {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1)
	self := []byte(strconv.Itoa(os.Getpid()))
	var pids []int
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue
		}
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) > 1 && string(fields[0]) == "Z" && bytes.Equal(fields[1], self) {
			pids = append(pids, pid)
		}
	}
	return pids
}
