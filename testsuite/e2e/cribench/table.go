package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// table prints what slipway and one other runtime measured, with the goals of the project.
func table(in io.Reader, out io.Writer) error {
	ours, theirs := map[int]result{}, map[int]result{}
	other := ""
	var order []int
	for d := json.NewDecoder(in); ; {
		var r result
		if err := d.Decode(&r); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if r.Name == "slipway" {
			ours[r.Parallel] = r
			order = append(order, r.Parallel)
		} else {
			theirs[r.Parallel], other = r, r.Name
		}
	}
	fmt.Fprintf(out, "| pods | slipway | %s | ratio | goal |\n|---|---|---|---|---|\n", other)
	row := func(what, unit, goal string, a, b float64) {
		fmt.Fprintf(out, "| %s | %.3g %s | %.3g %s | %.2f× | %s |\n", what, a, unit, b, unit, a/b, goal)
	}
	for _, n := range order {
		a, b := ours[n], theirs[n]
		row(fmt.Sprintf("RunPodSandbox, CreateContainer, StartContainer, %d at a time", n), "/s", "≥ 4×", a.PodsPerSecond, b.PodsPerSecond)
	}
	for _, n := range order {
		a, b := ours[n], theirs[n]
		row(fmt.Sprintf("memory (PSS) that %d pods add, %d at a time", a.Pods, n), "MB", "≤ 0.125×", float64(a.MemoryKB)/1024, float64(b.MemoryKB)/1024)
		row(fmt.Sprintf("ExecSync p50, after %d at a time", n), "ms", "≤ 0.33×", a.ExecP50MS, b.ExecP50MS)
		row(fmt.Sprintf("processor time of a relist of %d pods, after %d at a time", a.Pods, n), "ms", "≤ 0.5×", a.RelistCPUMS, b.RelistCPUMS)
	}
	return nil
}
