// Package e2ewine drives slipwayd.exe, slipway-shim.exe and slipway.exe as users of Windows do: its tests are a Windows program that starts
// them, serves images to them and talks to them over their pipes, as slipway.exe, containerd's clients and kubelet do. They run under wine with
// testsuite/hcssim in the place of the container services (ci/test-wine does it all), and need an administrator and real images on a real
// host, for which there is ci/windows-acceptance.ps1.
//
// SLIPWAY_E2E_BIN names the directory of the programs; without it all tests are skipped. One test is a program of Linux, which runs a node of each
// system (mixed_linux_test.go).
package e2ewine
