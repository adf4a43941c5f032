// Package windows runs containers with the Host Compute Service: the platform.Executor of a Windows host.
//
// It owns a state directory with one folder for each container (see record), the mounts of their layers and their compute systems.
// The service itself is an hcs.Host and documents are package document's, so that nothing here is bound to Windows: the whole executor
// is tested on Linux over a host that is made up (package hcs/hcstest), and over the simulator of testsuite/hcssim. It never imports the daemon,
// protobuf services or a storage driver.
//
// Where Windows differs from what platform says: init has a pid from its Start on, for the service makes no process that waits, and that
// a program is not there shows then. The signals are HUP, INT, QUIT and TERM, which are console events (CtrlClose, CtrlC, CtrlBreak,
// CtrlShutdown), and KILL. A process that was killed here, or ended with its container, has the status 137, as on Linux. Only
// containers with Hyper-V isolation can be paused.
//
// HostProcess containers and Linux containers on Windows are NotImplemented: hcsshim's runhcs shim runs them, and slipwayd can drive it.
//
// What a crash leaves: running containers, which do not notice until they write, for their pipes end with this process: that output, and input, and
// terminals are lost, exit statuses are not as long as a successor adopts in time. For a Create that was interrupted a folder, mounted
// layers and perhaps a system; Adopt finds all of them, and Delete removes them. The directory may outlive a reboot: a container
// whose system is gone has ended with an unknown status.
package windows
