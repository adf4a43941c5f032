//go:build !linux

package main

import "errors"

func pause() error { return errors.New("pods have no PID namespace on this system") }
