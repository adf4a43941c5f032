package seccomp

import "syscall"

// GetDefaultAction returns what NewFilter was given.
func (f *ScmpFilter) GetDefaultAction() (ScmpAction, error) { return f.unmatched, f.check() }

// GetBadArchAction returns what becomes of calls of architectures that are not in the filter.
func (f *ScmpFilter) GetBadArchAction() (ScmpAction, error) { return f.badArch, f.check() }

// SetBadArchAction sets what becomes of calls of architectures that are not in the filter; ActKillThread if it is not called.
func (f *ScmpFilter) SetBadArchAction(action ScmpAction) error {
	if _, err := action.ret(); err != nil {
		return err
	}
	return set(f, &f.badArch, action)
}

// GetNoNewPrivsBit says whether who loads the filter shall set no_new_privs first: yes if it was not set.
func (f *ScmpFilter) GetNoNewPrivsBit() (bool, error) { return f.noNewPrivs, f.check() }

// SetNoNewPrivsBit sets what GetNoNewPrivsBit says.
func (f *ScmpFilter) SetNoNewPrivsBit(state bool) error { return set(f, &f.noNewPrivs, state) }

// GetLogBit says whether the filter shall be loaded with SECCOMP_FILTER_FLAG_LOG.
func (f *ScmpFilter) GetLogBit() (bool, error) { return f.log, f.checkAPI("GetLogBit", 3) }

// SetLogBit sets what GetLogBit says. It is a *VersionError where the kernel lacks the flag.
func (f *ScmpFilter) SetLogBit(state bool) error {
	if err := needAPI("SetLogBit", 3); err != nil {
		return err
	}
	return set(f, &f.log, state)
}

// GetSSB says whether the filter shall be loaded with SECCOMP_FILTER_FLAG_SPEC_ALLOW.
func (f *ScmpFilter) GetSSB() (bool, error) { return f.ssb, f.checkAPI("GetSSB", 4) }

// SetSSB sets what GetSSB says. It is a *VersionError where the kernel lacks the flag.
func (f *ScmpFilter) SetSSB(state bool) error {
	if err := needAPI("SetSSB", 4); err != nil {
		return err
	}
	return set(f, &f.ssb, state)
}

// GetWaitKill says whether the filter shall be loaded with SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV.
func (f *ScmpFilter) GetWaitKill() (bool, error) { return f.waitKill, f.checkAPI("GetWaitKill", 7) }

// SetWaitKill sets what GetWaitKill says. It is a *VersionError where the kernel lacks the flag.
func (f *ScmpFilter) SetWaitKill(state bool) error {
	if err := needAPI("SetWaitKill", 7); err != nil {
		return err
	}
	return set(f, &f.waitKill, state)
}

// GetOptimize returns what SetOptimize was given, or 1.
func (f *ScmpFilter) GetOptimize() (int, error) { return f.optimize, f.check() }

// SetOptimize takes libseccomp's levels 1 and 2 and changes nothing: every program here is a binary search, which is 2.
func (f *ScmpFilter) SetOptimize(level int) error {
	if level != 1 && level != 2 {
		return syscall.EOPNOTSUPP
	}
	return set(f, &f.optimize, level)
}

func (f *ScmpFilter) check() error {
	if !f.valid {
		return errBadFilter
	}
	return nil
}

func (f *ScmpFilter) checkAPI(op string, level uint) error {
	if err := f.check(); err != nil {
		return err
	}
	return needAPI(op, level)
}

func set[T any](f *ScmpFilter, to *T, value T) error {
	if err := f.check(); err != nil {
		return err
	}
	*to = value
	return nil
}
