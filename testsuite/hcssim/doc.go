// Package hcssim is Windows' container services, simulated for programs that run under wine; README.md says how to use it. The
// folders below are its parts; here are only tests, of all of them together, by way of hcsshim as other programs use it.
package hcssim
