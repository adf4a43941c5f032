//go:build linux

package main

import "context"

func warm(ctx context.Context, o options, h hub, work string) error { return nil }
