package linux

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// adminSettings are CRIU's settings for containers that an administrator may have written: the first that is there is used. (The annotation
// org.criu.config that libcontainer obeys is not: whoever writes a pod's annotations could have CRIU run a script of theirs.)
var adminSettings = []string{"/etc/criu/slipway.conf", "/etc/criu/runc.conf"}

// noteFile in a container's folder: see checkpointNote.
const noteFile = "checkpoint"

// criuWorksIn says whether there is a CRIU that works in dir, or has only just been started.
func criuWorksIn(dir string) bool {
	own, _ := os.Getwd()
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		if comm, err := os.ReadFile(name); err != nil || string(comm) != "criu\n" {
			continue
		}
		if cwd, err := os.Readlink(filepath.Join(filepath.Dir(name), "cwd")); err == nil && (cwd == dir || cwd == own || cwd == dir+" (deleted)") {
			return true
		}
	}
	return false
}

// findCriu says what to do when there is none.
func findCriu() error {
	if _, err := exec.LookPath("criu"); err != nil {
		return fmt.Errorf("it takes CRIU, and the program criu is not on the shim's PATH; install it (Debian and Ubuntu: criu; or https://criu.org): %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// patientSetting is how many seconds CRIU tries to stop the processes; its default of 10 is short for a busy host.
const patientSetting = "timeout 60\n"

// maxSettings is what a pipe takes in bytes without anybody reading (pipe(7)).
const maxSettings = 32 << 10

// criuSettings makes a file of CRIU's options, one a line (criu(8), "CONFIGURATION FILES"): the administrator's, and lines. It is there until
// the answer is closed, and can be read once: CRIU before 4.2 reads it twice, and fails when it is to inherit a descriptor for the second time.
func criuSettings(lines []string) (name string, file *os.File, err error) {
	all := []byte(patientSetting)
	for _, name := range adminSettings {
		data, err := os.ReadFile(name)
		if err == nil {
			all = append(append(all, data...), '\n')
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", nil, fmt.Errorf("cannot read settings for CRIU: %w", err)
		}
	}
	all = append(all, strings.Join(append(lines, ""), "\n")...)
	if len(all) > maxSettings {
		return "", nil, fmt.Errorf("the settings for CRIU have %d bytes, more than %d: %w", len(all), maxSettings, errdefs.ErrInvalidArgument)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return "", nil, err
	}
	if _, err := w.Write(all); err != nil {
		return "", nil, errors.Join(err, r.Close(), w.Close())
	}
	if err := w.Close(); err != nil {
		return "", nil, errors.Join(err, r.Close())
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), r.Fd()), r, nil
}

// criuLabels has libcontainer, which takes the first label of the name, give CRIU these settings.
func criuLabels(labels []string, settings string) []string {
	return append([]string{"org.criu.config=" + settings}, labels...)
}

// outsideStreams names the standard streams of a process as CRIU does: "pipe:[INODE]", or "file[MOUNT:INODE]", in hexadecimal, for a fifo or file that
// the process has no name for in its mount namespace; "" for all else.
func outsideStreams(pid int) ([]string, error) {
	proc := "/proc/" + strconv.Itoa(pid)
	inside, err := mountIDs(proc)
	if err != nil {
		return nil, err
	}
	streams := make([]string, 3)
	for i := range streams {
		fd := strconv.Itoa(i)
		link := filepath.Join(proc, "fd", fd)
		name, err := os.Readlink(link)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(name, "pipe:") {
			streams[i] = name
			continue
		}
		mount, err := mountOf(filepath.Join(proc, "fdinfo", fd))
		if err != nil {
			return nil, err
		}
		st, err := os.Stat(link)
		if err != nil {
			return nil, err
		}
		if !inside[mount] && st.Mode()&(fs.ModeSocket|fs.ModeDir|fs.ModeIrregular) == 0 {
			streams[i] = fmt.Sprintf("file[%x:%x]", mount, st.Sys().(*syscall.Stat_t).Ino)
		}
	}
	return streams, nil
}

// mountIDs answers those of a process's mount namespace (proc(5), /proc/PID/mountinfo, the first field).
func mountIDs(proc string) (map[uint64]bool, error) {
	f, err := os.Open(filepath.Join(proc, "mountinfo"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	ids := map[uint64]bool{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20) // an overlay of many layers is told in one line
	for lines.Scan() {
		first, _, _ := bytes.Cut(lines.Bytes(), []byte(" "))
		id, err := strconv.ParseUint(string(first), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", f.Name(), err)
		}
		ids[id] = true
	}
	return ids, lines.Err()
}

// executing says whether a process executes a program of its own mount namespace, and not what became its init.
func executing(pid int) bool {
	proc := "/proc/" + strconv.Itoa(pid)
	exe, err := os.OpenFile(filepath.Join(proc, "exe"), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer exe.Close()
	mount, err := mountOf("/proc/self/fdinfo/" + strconv.Itoa(int(exe.Fd())))
	if err != nil {
		return false
	}
	inside, err := mountIDs(proc)
	return err == nil && inside[mount]
}

// mountOf reads the line "mnt_id:" of a file in /proc/PID/fdinfo.
func mountOf(fdinfo string) (uint64, error) {
	data, err := os.ReadFile(fdinfo)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strconv.ParseUint(strings.TrimSpace(id), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s does not tell the mount: %w", fdinfo, errdefs.ErrNotImplemented)
}

// externalFiles are the lines that let CRIU write a process that has files of outside.
func externalFiles(streams []string) (lines []string) {
	for _, s := range streams {
		if outsideFile(s) {
			lines = append(lines, "external "+s)
		}
	}
	return lines
}

// inheritedFiles are the lines that have CRIU give its own streams in the place of those that a process had.
func inheritedFiles(streams []string) (lines []string) {
	seen := map[string]bool{}
	for i, s := range streams[:min(3, len(streams))] {
		if outsideFile(s) && !seen[s] {
			seen[s] = true
			lines = append(lines, fmt.Sprintf("inherit-fd fd[%d]:%s", i, s))
		}
	}
	return lines
}

// outsideFile is strict, for the name may come out of a checkpoint from anywhere, and CRIU's other settings run programs.
func outsideFile(s string) bool {
	inner, ok := strings.CutPrefix(s, "file[")
	inner, end := strings.CutSuffix(inner, "]")
	mount, inode, colon := strings.Cut(inner, ":")
	if !ok || !end || !colon {
		return false
	}
	_, err := strconv.ParseUint(mount, 16, 64)
	_, err2 := strconv.ParseUint(inode, 16, 64)
	return err == nil && err2 == nil
}

// maxReasons is how many of CRIU's messages an error quotes: the first are the causes of the others.
const maxReasons = 2

// criuError adds what CRIU says in its log.
func criuError(err error, log string) error {
	f, openErr := os.Open(log)
	if openErr != nil {
		return fmt.Errorf("%w (\"criu check\" says whether CRIU works on this kernel): %w", err, errdefs.ErrFailedPrecondition)
	}
	defer f.Close()
	var reasons []string
	for lines := bufio.NewScanner(f); lines.Scan() && len(reasons) < maxReasons; {
		_, text, ok := strings.Cut(lines.Text(), "Error (")
		if ok && !strings.Contains(text, "RLIMIT_NOFILE") { // which it goes on without
			reasons = append(reasons, "("+text)
		}
	}
	return fmt.Errorf("%w: CRIU says %q: %w", err, reasons, errdefs.ErrFailedPrecondition)
}
