package control

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// program is where ci/wine puts the simulator.
const program = `C:\hcssim\hcssimd.exe`

// AddressVariable makes the stubs of a process, and of those that it starts, use another simulator: it names the address file.
const AddressVariable = "HCSSIM_ADDR"

// Private is a simulator of one test's own, so that its rules disturb no other. It is not for concurrent use.
type Private struct {
	*Client
	dir string
	cmd *exec.Cmd
}

// StartPrivate starts a simulator with its state in dir and makes this process use it from the first call of a stub on: a stub
// that has spoken with another one goes on with that. The caller calls Stop.
func StartPrivate(dir string) (*Private, error) {
	p := &Private{dir: dir}
	if err := os.Setenv(AddressVariable, filepath.Join(dir, "addr")); err != nil {
		return nil, err
	}
	return p, p.Restart()
}

// Restart ends the simulator as a crash would, and starts one that finds its state.
func (p *Private) Restart() error {
	p.Stop()
	file := filepath.Join(p.dir, "addr")
	if err := os.RemoveAll(file); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(program, "-dir", p.dir)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		p.cmd = nil
		return fmt.Errorf("cannot start the simulator: %w", err)
	}
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) { // it has no other way to say that it is ready
		c, err := Dial(file)
		if err == nil {
			p.Client = c
			return nil
		}
		if time.Since(start) > 30*time.Second {
			p.Stop()
			return errors.Join(fmt.Errorf("the simulator does not start"), err)
		}
	}
}

// Stop kills the simulator. Containers go on.
func (p *Private) Stop() {
	if p.Client != nil {
		p.Client.Close()
		p.Client = nil
	}
	if p.cmd != nil {
		_ = p.cmd.Process.Kill() // it may have died of a rule
		_ = p.cmd.Wait()
		p.cmd = nil
	}
}
