package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/shim"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/testsuite"
)

// oneTask is a host where one container runs.
type oneTask struct{ engine.Tasks }

func (oneTask) Restore(context.Context) error { return nil }
func (oneTask) Close() error                  { return nil }
func (oneTask) List(context.Context, string) ([]shim.State, error) {
	return []shim.State{{Namespace: "ns", ID: "one", Status: shim.Running}}, nil
}

func TestMetrics(t *testing.T) {
	dir := t.TempDir()
	db, err := metadata.Open(filepath.Join(dir, "metadata.db"), metadata.Options{})
	if err != nil {
		t.Fatal(err)
	}
	eng, err := engine.New(engine.Parts{DB: db, Content: testsuite.NewMemoryContent(), Drivers: map[string]storage.Driver{"fake": testsuite.NewFakeDriver()},
		DefaultDriver: "fake", Tasks: oneTask{}, Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	defer eng.Close()
	if _, err := eng.CreateNamespace(t.Context(), metadata.Namespace{Name: "ns"}); err != nil {
		t.Fatal(err)
	}
	if _, err := eng.Pull(t.Context(), engine.Scope{Namespace: "ns"}, engine.PullOptions{Ref: "not a reference"}); err == nil {
		t.Fatal("pulled what there is not")
	}
	stop, at, err := serveMetrics("127.0.0.1:0", eng, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	resp, err := http.Get("http://" + at.String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v: %s", resp.Status, err, body)
	}
	for _, line := range []string{
		`slipway_build_info{version="dev"} 1`, `slipway_containers{namespace="ns"} 0`, `slipway_tasks{namespace="ns",status="running"} 1`,
		`slipway_pulls_total{result="failed"} 1`, `slipway_pulls_running 0`, `slipway_gc_runs_total{result="failed"} 0`,
	} {
		if !strings.Contains(string(body), line+"\n") {
			t.Errorf("lacks %s", line)
		}
	}
	if strings.Contains(string(body), "slipway_lazy") {
		t.Error("tells of lazy layers, which no driver has")
	}
}

// lazyOnly collects what there is of lazy layers.
type lazyOnly struct{ m engine.LazyMetrics }

func (lazyOnly) Describe(chan<- *prometheus.Desc) {}
func (l lazyOnly) Collect(to chan<- prometheus.Metric) {
	collectLazy(&l.m, func(d *prometheus.Desc, v int64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}, func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	})
}

func TestMetricsOfLazyLayers(t *testing.T) {
	for serving, want := range map[bool]int{false: 8, true: 13} { // names of metrics
		r := prometheus.NewPedanticRegistry()
		r.MustRegister(lazyOnly{engine.LazyMetrics{Layers: map[string]int64{"estargz": 2, "spans": 1}, Arrived: 1, Serving: serving}})
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		if len(families) != want {
			t.Errorf("serving %v: %d families", serving, len(families))
		}
	}
}
